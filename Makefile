# Everything a fresh machine needs: `make demo`, `make test`. PYTHON and VENV may be overridden.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
RUNS ?= runs
PYTEST_ARGS ?=

# Spinning OpenMP threads make two processes on two cores several times slower than sleeping ones.
export OMP_WAIT_POLICY := passive

.PHONY: help install install-test install-dev demo test test-slow test-slow-here test-slow-slurm lint format types wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[test,dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

install: $(VENV)/.installed ## virtual environment with exact versions
install-test: $(VENV)/.installed-test ## the same with what the tests need
install-dev: $(VENV)/.installed-dev ## the same with linters

demo: install ## install, then the whole SpecCLIP recipe on mock stars; prints where the report is
	$(BIN)/astro-train +experiment=specclip run.root=$(RUNS)
	@echo "report: $$(ls -t $(RUNS)/specclip/*/report.html | head -n 1)"

test: install-test ## the suite, at most 15 minutes on 2 cores
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Jobs of SLURM wait most of the time and run on one thread, as most killed processes do: the two halves go side by side.
test-slow: install-test ## wheel in a fresh environment, kill tests, SLURM where it runs; at most 45 minutes
	$(MAKE) --jobs=2 --keep-going --no-print-directory test-slow-here test-slow-slurm

test-slow-here: install-test ## that half of the slow tests which needs no SLURM
	$(BIN)/python -m pytest -m "slow and not slurm" -v --durations=10 $(PYTEST_ARGS)

test-slow-slurm: install-test ## the half that submits jobs
	$(BIN)/python -m pytest -m "slow and slurm" -v --durations=10 $(PYTEST_ARGS)

lint: install-dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install-dev ## mypy
	$(BIN)/mypy

wheel: install-test ## build sdist and wheel into dist/
	$(BIN)/python -m build

clean: ## remove the environment and build outputs; runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
