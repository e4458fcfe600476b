# make bench   install, run the quick plan, print the result table and write the report
# make test    install, run every test and every notebook
# make lab     JupyterLab on notebooks/
# make lint    ruff
# make env     the virtual environment in .venv alone; instant when nothing has changed
#
# PYTHON=python3.12       the interpreter to build .venv from (default: the first of python3,
#                         python3.12, python3.11 that is 3.11 or 3.12)
# TORCH_INDEX=URL         where torch comes from, e.g. https://download.pytorch.org/whl/cpu on a
#                         machine without a GPU: 0.2 GB instead of 3 GB
# PLAN=notebooks/plans/quick.toml   the plan of `make bench`

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLAN ?= notebooks/plans/quick.toml
PYTHON ?= python3
TORCH_INDEX ?=
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 300

# -qq keeps errors: warnings about a machine's own index configuration are one line per package.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help bench test lab lint env clean

help:
	@sed -n '/^# /s/^# //p; /^$$/q' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@python=; for name in $(PYTHON) python3.12 python3.11; do \
	  if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	  then python="$$name"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "lmbench needs Python 3.11 or 3.12, and none of $(PYTHON), python3.12, python3.11 is one;" \
	    "install one and run: make env PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	if [ -x $(BIN)/python ] && ! $(BIN)/python -c 'import pip' 2>/dev/null; then rm -rf $(VENV); fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV); \
	echo "installing into $(VENV) with $$($(BIN)/python --version) (1 to 5 minutes, once) ..."
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch; fi
	@$(PIP) --editable '.[dev]'
	@touch $@

bench: env
	@$(BIN)/lmbench data fetch >/dev/null
	@$(BIN)/lmbench batch $(PLAN)
	@$(BIN)/lmbench report

# Workers share the cores, so each computes on one thread; a notebook's cells need one worker.
test: env
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=15 $(NBVAL) $(PYTEST_ARGS)

lab: env
	@exec $(BIN)/jupyter lab --notebook-dir=notebooks

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)
