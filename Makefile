# On JAX the tests mostly compile, each of many small programs once. JAX_DISABLE_MOST_OPTIMIZATIONS leaves out the passes
# of the machine code generator that make a program fast, which takes a third off; the passes over its operations stay. Lines are
# counted on one backend only, as that takes time, too.
#
# All targets do all set-up in a virtual environment of their own, .venv unless VENV says otherwise.
VENV ?= .venv
PYTHON ?= python3
KERAS ?= keras
PIP = $(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt
PYTEST_ON = JAX_DISABLE_MOST_OPTIMIZATIONS=1 OMP_NUM_THREADS=1 KERAS_BACKEND
PYTEST = $(VENV)/bin/python -m pytest --numprocesses 2

.PHONY: clean-install dist docs lowest quickstart test

quickstart: $(VENV)/bin/python
	$(PIP) --editable ".[jax,recipes]"
	KERAS_BACKEND=jax $(VENV)/bin/python -m recipes.quickstart

test: $(VENV)/bin/python
	$(PIP) --editable ".[test]" "$(KERAS)"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST_ON)=jax $(PYTEST)
	$(PYTEST_ON)=tensorflow $(PYTEST)
	$(PYTEST_ON)=torch $(PYTEST) --cov=keras_actlab --cov-fail-under=95

lowest:
	$(MAKE) test VENV=.venv-lowest KERAS=keras==$(shell sed --quiet 's/.*"keras>=\([0-9.]*\)".*/\1/p' pyproject.toml)

clean-install:
	.ci/clean_install $(BACKEND) $(addprefix tests/,conversion layers models ops) \
		$(addprefix tests/test_,contract.py docstrings.py saved_files.py)

# What is released is what its tag names.
dist: $(VENV)/bin/python
	git diff --quiet HEAD
	git describe --tags --exact-match --match "v$$(sed --quiet 's/^__version__ = "\(.*\)"/\1/p' keras_actlab/__init__.py)"
	$(PIP) build twine
	$(VENV)/bin/python -m build
	$(VENV)/bin/python -m twine check --strict dist/*

docs: $(VENV)/bin/python
	$(PIP) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
