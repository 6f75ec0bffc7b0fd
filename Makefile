PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
# PyTorch's CPU build is not on the main registry; a machine that carries the wheel finds it by itself.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup demo test lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	grep -v '^torch==' requirements.lock > $(VENV)/without-torch.txt
	$(VENV)/bin/pip install --quiet --no-deps -r $(VENV)/without-torch.txt
	$(VENV)/bin/pip install --quiet --no-deps 'torch==2.13.0+cpu' \
		|| $(VENV)/bin/pip install --quiet --no-deps --extra-index-url $(TORCH_INDEX) 'torch==2.13.0+cpu'
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The whole recipe on the embedded models: no GPU, no key, no hub.
demo: setup
	HF_HUB_OFFLINE=1 $(RUN) -m jobs.pipeline --preset laptop

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

test: lint
	HF_HUB_OFFLINE=1 $(RUN) -m pytest

clean:
	rm -rf $(VENV) runs
