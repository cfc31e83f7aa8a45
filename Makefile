# make simulate   three hospitals on this machine, from scans on disk to report.html
# make test       every test
# Both set up .venv first; nothing else is needed than Python >= 3.11, git and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STUDY ?= studies/prostate.toml
OPTIONS ?=

.PHONY: help simulate test lint types format install
help:
	@sed -n 's/^# //p' Makefile

install: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Preceptor needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

simulate: .venv/.ready
	@$(BIN)/preceptor simulate $(STUDY) $(OPTIONS)

## Three at a time, by files: tests of real processes wait for much of their time. The longest begin first.
test: .venv/.ready
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --durations=12 tests/e2e $(filter-out tests/e2e/,$(wildcard tests/*/))

lint: .venv/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.ready
	@$(BIN)/mypy

format: .venv/.ready
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
