# `make demo` and `make test` are all that a fresh clone needs: Python 3.11+ and make.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
ENGINES := .venv/.installed-engines

.PHONY: demo test test-engines lint format bench clean

demo: $(INSTALLED)
	@$(BIN)/pavane demo

test: lint
	@$(BIN)/python -m pytest

# llama.cpp on the CPU, with models that the tests write: nothing is downloaded but two wheels and numpy.
test-engines: $(ENGINES)
	@$(BIN)/python -m pytest tests/real_engines

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Pavane needs Python 3.11 or newer on the PATH" >&2; exit 1; }
	@echo "installing into .venv (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(ENGINES): $(INSTALLED)
	@echo "installing llama.cpp into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,engines]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
