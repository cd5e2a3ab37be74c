# One command each. `make serve` and `make test` work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
STAMP := $(VENV)/.installed

.PHONY: help setup serve test lint format bench clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

setup: $(STAMP) ## make .venv and install everything, at the versions that are tested

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools --constraint constraints.txt
	# torch first and by its exact version: any other way the CUDA build may be fetched as well
	$(BIN)/pip install --quiet "$$(grep -E '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $(STAMP)

serve: setup ## run the service on http://127.0.0.1:8080
	$(BIN)/stratamem serve

test: setup ## every test that this machine can run, in two processes (JOBS=1: in one)
	$(BIN)/python -m pytest $(if $(filter-out 1,$(JOBS)),--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder,)

lint: setup ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the measurements of benchmarks/ (an hour and more; QUICK=1 for a few minutes)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick,)

clean: ## remove what was built (never the data folder)
	rm -rf $(VENV) .venv-peers *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
