# Two commands do everything: `make demo` and `make test` (each sets up .venv first).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: help setup demo test test-all lint bench clean
help:
	@echo "make setup | demo | test | lint | bench [FAMILY=features] | test-all (with the long, corpus, root and service tests)"

setup: $(VENV)/.done
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tailwatch needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.done: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.done

# numba's cache of a function does not see that a function or constant from another file has changed
$(VENV)/.compiled: $(shell find telemetry features models detectors -name '*.py') | $(VENV)/.made
	@find telemetry features models detectors -name '*.nb[ic]' -delete
	@touch $@

demo: setup $(VENV)/.compiled
	$(BIN)/tailwatch demo

test: $(VENV)/.dev $(VENV)/.compiled
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not root and not service" tests

test-all: $(VENV)/.dev $(VENV)/.compiled
	$(BIN)/python -m pytest tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev $(VENV)/.compiled
	$(BIN)/python -m benchmarks $(FAMILY)

clean:
	rm -rf $(VENV) build dist *.egg-info tailwatch-demo
