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
	$(VENV)/bin/pip install -qq --no-deps -r $(VENV)/without-torch.txt
	$(VENV)/bin/pip install -qq --no-deps 'torch==2.13.0+cpu' \
		|| $(VENV)/bin/pip install -qq --no-deps --extra-index-url $(TORCH_INDEX) 'torch==2.13.0+cpu'
	$(VENV)/bin/pip install -qq --no-deps --no-build-isolation -e .
	touch $@

# The whole recipe on the embedded models: no GPU, no key, no hub.
demo: setup
	HF_HUB_OFFLINE=1 $(RUN) -m jobs.pipeline --preset laptop

# The pages are tested in a real browser: the machine's own, else Debian's, else the one that Playwright fetches.
$(VENV)/.browser: $(VENV)/.ready
	which chromium || which chromium-browser || which google-chrome \
		|| { test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } \
		|| $(VENV)/bin/playwright install chromium
	touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

test: lint $(VENV)/.browser
	HF_HUB_OFFLINE=1 $(RUN) -m pytest

clean:
	rm -rf $(VENV) runs
