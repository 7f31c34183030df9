# `make demo` and `make test` need only Python 3.11+ and make; everything else is set up here.
PYTHON ?= python3
BIN := .venv/bin

# Tests run in one worker for each core that the memory serves too; WORKERS=0 runs them one after the other.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests start many programs, and compiled modules that are kept halve their start; empty means "do keep them".
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-exhaustive check bench clean

demo: .venv/.ready
	$(BIN)/crl quickstart

test: .venv/.ready
	$(PYTEST)

test-exhaustive: .venv/.ready
	$(PYTEST) -m exhaustive

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.ready
	$(BIN)/python benchmarks/all.py

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
