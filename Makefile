PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
# PyTorch's CPU build is not on the main registry; a machine that carries the wheel finds it by itself.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

# Real questions and traces that three of the benchmarks read.
DATA ?= ../shared/data
# What only some of them need, in an environment of its own that sees the project's.
BENCH_RUN = $(RUN)
BENCH_VENV := $(VENV)/.bench
WITH_EXTRA := bench/http_abuse bench/lm_eval_client bench/selection_speed bench/trackers bench/training_speed
BENCHMARKS := $(patsubst tests/benchmarks/%.py,bench/%,$(wildcard tests/benchmarks/*.py))

.PHONY: setup demo test lint bench $(BENCHMARKS) clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	grep -v '^torch==' requirements.lock > $(VENV)/without-torch.txt
	$(VENV)/bin/pip install -qq --no-deps -r $(VENV)/without-torch.txt
	$(VENV)/bin/pip install -qq --no-deps 'torch==2.13.0+cpu' \
		|| $(VENV)/bin/pip install -qq --no-deps --extra-index-url $(TORCH_INDEX) 'torch==2.13.0+cpu'
	$(VENV)/bin/pip install -qq --no-deps --no-build-isolation -e .
	touch $@

# What the nodes of a cluster install, in the versions of the CPU set-up wherever the packages' own ranges allow it. Needs uv.
.PHONY: requirements.gpu.lock
requirements.gpu.lock:
	cp requirements.lock $@
	uv pip compile -q pyproject.toml --extra gpu --extra cloud --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
		--no-annotate --no-header --no-emit-options --output-file $@
	sed -i '1i # Every package of a GPU node, pinned (docs/decisions/dependencies.md). Installed with --no-deps; made by `make $@`.' $@

# The whole recipe on the embedded models: no GPU, no key, no hub.
demo: setup
	HF_HUB_OFFLINE=1 $(RUN) -m jobs.pipeline --preset laptop

# The pages are tested in a real browser: the machine's own, else Debian's, else the one that Playwright fetches.
$(VENV)/.browser: $(VENV)/.ready
	which chromium || which chromium-browser || which google-chrome \
		|| { test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium > /dev/null; } \
		|| $(VENV)/bin/playwright install chromium
	touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

# Two at a time, file by file: most of the tests wait for processes to start.
test: lint $(VENV)/.browser
	$(RUN) -m pytest -n 2 tests/unit tests/property
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 tests/integration tests/e2e

# All measurements one after the other, some hours; `make bench/selection_speed` is one of them. `make -k bench` goes on
# after one that ends badly. `python tests/benchmarks/NAME.py --help` has the options.
bench: $(BENCHMARKS)

$(BENCH_VENV)/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(BENCH_VENV)
	$(RUN) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(BENCH_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	grep -v '^cachetools==' requirements.lock > $(BENCH_VENV)/constraints.txt  # mlflow wants an older one
	$(BENCH_VENV)/bin/pip install -qq --no-warn-conflicts -c $(BENCH_VENV)/constraints.txt \
		$$($(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])')
	touch $@

$(WITH_EXTRA): $(BENCH_VENV)/.ready
$(WITH_EXTRA): BENCH_RUN = PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" $(BENCH_VENV)/bin/python

$(BENCHMARKS): bench/%: setup
	HF_HUB_OFFLINE=1 $(BENCH_RUN) tests/benchmarks/$*.py $(if $(filter curation_memory decontamination grading,$*),--data $(DATA))

# What set-up and tests have built. Runs stay: their ledgers hold answers that were paid for.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
