# All targets do all set-up in a virtual environment of their own, .venv unless VENV says otherwise.
VENV ?= .venv
PYTHON ?= python3
KERAS ?= keras
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt
TEST = $(VENV)/bin/python .ci/test.py $(addprefix --backend=,$(BACKEND)) --keras="$(KERAS)" --jobs=$(JOBS)

.PHONY: clean-install dist docs lowest nightly nightly-tests quickstart test test-all
.DELETE_ON_ERROR:

quickstart: $(VENV)/bin/python
	$(PIP) --editable ".[jax,recipes]"
	KERAS_BACKEND=jax $(VENV)/bin/python -m recipes.quickstart

# Lint, types, and the tests on JAX, TensorFlow and PyTorch; with BACKEND=jax, say, on one that alone is installed.
test: $(VENV)/bin/python
	@$(TEST)

test-all: $(VENV)/bin/python
	@$(TEST) --slow

lowest:
	$(MAKE) test VENV=.venv-lowest KERAS=keras==$(shell sed --quiet 's/.*"keras>=\([0-9.]*\)".*/\1/p' pyproject.toml)

# On the newest build of Keras before a release, what touches its private parts fails first.
nightly:
	$(MAKE) nightly-tests VENV=.venv-nightly

nightly-tests: $(VENV)/bin/python
	$(PIP) --editable ".[test]"
	$(VENV)/bin/python -m pip uninstall --quiet --yes keras keras-nightly
	$(PIP) --pre --upgrade --no-deps keras-nightly
	for backend in $(or $(BACKEND),jax tensorflow torch); do \
		KERAS_BACKEND=$$backend JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(VENV)/bin/python -m pytest --quiet --numprocesses=$(JOBS) \
			tests/_private tests/conversion tests/test_distribution.py || exit 1; \
	done

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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed. Received: PYTHON=$(PYTHON). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$(VENV)/bin/python -m pip install --quiet --upgrade pip # an old one takes half as long again for the same packages
