# The first Python 3.11 or newer; `make PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test soak lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target line; do \
		printf '  make %-11s %s\n' "$$target" "$$line"; done

install: $(INSTALLED)  ## make .venv with the pinned dependencies: 2 to 5 minutes and 2.5 GB, once

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing selfexplain into .venv with $(PYTHON): 2 to 5 minutes and 2.5 GB (more where torch comes with CUDA)."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install  ## the whole road on the embedded target: at most 6 minutes on two CPU cores
	@echo "Running recipes/quickstart.yaml: ground truth, training, evaluation and cards in at most 6 minutes."
	$(BIN)/selfexplain run recipes/quickstart.yaml

test: install  ## run the tests: 6 to 10 minutes on two CPU cores
	@echo "Running the tests: 6 to 10 minutes on two CPU cores."
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

soak: install  ## load the demo page with 50 visitors for 5 minutes
	@echo "Loading the demo page with 50 visitors for 5 minutes."
	$(BIN)/python tests/space/soak.py --visitors 50 --seconds 300

lint: install  ## check format, lint and types: about a minute
	@echo "Checking format, lint and types: about a minute."
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

clean:  ## delete .venv, caches and build products; runs/ stays
	@echo "Deleting .venv, caches and build products (seconds); runs/ stays."
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
