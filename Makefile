# Two commands are enough on a machine with Python 3.11 or later, its venv module and make: `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 3
SERVED ?= thread
SUITES ?= tests/log tests/messaging tests/runtime tests/dsl tests/pipelines

.PHONY: demo test test-served test-slow lint format bench notebooks clean help

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.installed  ## Run the demo: a year of flights through the log and a pipeline (DEMO="--kill 5" adds options)
	@$(BIN)/mamba-stream demo $(DEMO)

# Tests start hundreds of processes: what each of them compiles again costs more than what it does.
unexport PYTHONDONTWRITEBYTECODE

# The processes must agree on the names of tests, some of which show sets: hence the seed.
test: $(VENV)/.installed-dev  ## Run the tests, in parallel (PYTEST="..." adds options)
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST)

test-served: $(VENV)/.installed-dev  ## Run the suites of what opens logs over the network (SERVED=process: the server apart)
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST) \
		$(SUITES) --served=$(SERVED)

test-slow: $(VENV)/.installed-dev  ## Run the slow tests: hundreds of crashes, property tests with all their examples
	@MAMBA_TESTS_THOROUGH=1 $(BIN)/python -m pytest -q -m "slow or hypothesis" --timeout 3600 $(PYTEST)

lint: $(VENV)/.installed-dev  ## Check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format, and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## Measure the log, a pipeline, the queue and Nexmark against the machine's own limits
	@$(BIN)/mamba-stream bench log
	@$(BIN)/mamba-stream bench pipeline
	@$(BIN)/python benchmarks/queue.py
	@$(BIN)/python benchmarks/nexmark.py
	@$(BIN)/python -m pytest -q benchmarks --benchmark-enable -m "" $(PYTEST)

notebooks: $(VENV)/.installed-dev  ## Write the notebooks from their sources, executed
	@$(BIN)/python notebooks/write.py

clean:  ## Remove what was built and installed here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mamba-stream needs Python 3.11 or later; say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# Dependency groups need a newer pip than the one that Python 3.11 brings.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@ $(VENV)/.installed
