# SPDX-License-Identifier: Apache-2.0
# Every target does all its own set-up: it needs Python 3.11 or newer and nothing else.
# A second run is quick: an installation is repeated only when pyproject.toml changed.

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install

.PHONY: help demo test lint bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    two hosts, two cards, one wire: recorded traffic through packet offload"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the performance programs, JSON on stdout"
	@echo "make clean   remove the virtual environment and the tools' caches"

demo: $(VENV)/.installed
	@echo "==> compiling the card's kernels (once per version, then cached)"
	$(PY) -m nic_model --warm
	@echo "==> running the demo"
	$(VENV)/bin/xfrmnic demo

test: $(VENV)/.installed-test
	@echo "==> compiling the card's kernels (once per version, then cached)"
	$(PY) -m nic_model --warm
	@echo "==> running the tests"
	$(PY) -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.installed
	@echo "==> compiling the card's kernels (once per version, then cached)" >&2
	$(PY) -m nic_model --warm >&2
	$(VENV)/bin/xfrmnic bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The first Python that is new enough and has venv and pip's seed with it.
$(VENV)/.made:
	@echo "==> creating the virtual environment $(VENV)"
	@for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "    with $$($$python --version), $$(command -v $$python)"; \
	    $$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	done; \
	echo "no Python 3.11 or newer with the venv module was found (on Debian: apt install python3-venv)" >&2; \
	exit 3

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "==> installing xfrmnic"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.made
	@echo "==> installing xfrmnic and what its tests need"
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: pyproject.toml $(VENV)/.made
	@echo "==> installing xfrmnic and its linters"
	$(PIP) --editable '.[lint,types]'
	@touch $@ $(VENV)/.installed
