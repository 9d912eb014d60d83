# make train    trains the team of RUN, then draws its learning curve and a GIF of it
# make test     lint, types and all tests
# make lint, make types, make clean
#
# Everything is installed into .venv here. Overridable: PYTHON, VENV, RUN, ARGS (key=value …), TESTARGS.

RUN ?= demar_tag
ARGS ?=
TESTARGS ?=
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
  $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The pins are made for Python 3.11; torch's holds everywhere.
PINS = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))' 2>/dev/null)
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: train test lint types clean
.DEFAULT_GOAL := train

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "phalanx needs Python 3.10 to 3.13 (3.11 is what it is tested with): make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

# torch comes first and pinned, so that nothing else chooses its version.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "Installing torch into $(VENV) …"
	@$(PIP) $(PINS) $(TORCH) 'setuptools>=77.0.3'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing phalanx into $(VENV) …"
	@$(PIP) $(PINS) --no-build-isolation -e .
	@touch $@

# The simulators that are tested, where there are any for this Python.
SIMULATORS = $(shell $(BIN)/python -c 'import sys; print(",smax,mujoco" * (sys.version_info >= (3, 11)))' 2>/dev/null)

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing phalanx with its development tools and simulators into $(VENV) …"
	@$(PIP) $(PINS) --no-build-isolation -e '.[dev$(SIMULATORS)]' || { \
	  echo "The simulators could not be installed: their tests are skipped." >&2; \
	  $(PIP) $(PINS) --no-build-isolation -e '.[dev]'; }
	@touch $@ $(VENV)/.installed

# A new folder for every run: runs/demar_tag, runs/demar_tag-2, …
train: OUT := $(shell out=runs/$(notdir $(basename $(RUN))); n=1; d=$$out; \
  while [ -e "$$d" ]; do n=$$((n + 1)); d=$$out-$$n; done; echo "$$d")
train: $(VENV)/.installed
	@echo "Training $(RUN) into $(OUT). Ctrl-C saves a checkpoint and stops; $(BIN)/phalanx resume $(OUT) goes on."
	@exec $(BIN)/phalanx train $(RUN) $(ARGS) --out $(OUT)
	@$(BIN)/phalanx plot $(OUT) --out $(OUT)/curve.png
	@$(BIN)/phalanx evaluate $(OUT) --gif $(OUT)/team.gif
	@echo
	@echo "Learning curve   $(OUT)/curve.png"
	@echo "The team plays   $(OUT)/team.gif"
	@echo "Everything else  $(OUT)/"

# Plain code is tested on two cores at once; tests of whole services, which use both, and of what one process does with
# leftovers of all others, one after the other.
PLAIN_TESTS := tests/algorithms tests/configs tests/envs tests/golden
LONELY_TESTS := tests/envs/test_smac_processes.py
OTHER_TESTS = $(filter-out $(PLAIN_TESTS) tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)) $(wildcard tests/test_*.py))

test: $(VENV)/.installed-dev lint types
ifeq ($(strip $(TESTARGS)),)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PLAIN_TESTS) --ignore=$(LONELY_TESTS)
	@$(BIN)/python -m pytest $(OTHER_TESTS) $(LONELY_TESTS)
else
	@exec $(BIN)/python -m pytest $(TESTARGS)
endif

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
