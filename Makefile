# Every target does its own set-up in .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
SOURCES := hasten tests benchmarks examples

.PHONY: demo test test-slow check lint types layers docs clean

demo: $(VENV)/.core
	$(BIN)/hasten optimize examples/fashion_mnist/model.onnx --data examples/fashion_mnist/data.npz \
	  --max-drop 1% --time-budget 90s --force -o out/fashion_mnist; s=$$?; [ $$s -eq 0 ] || [ $$s -eq 3 ]

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --ignore tests/docs

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

check: lint types layers docs

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/docs

clean:
	rm -rf $(VENV) out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hasten needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

# The configured package index may serve torch's CPU build itself; PyTorch's own index is asked only if not.
$(VENV)/.dev: $(VENV)/.core
	$(PIP) torch || $(PIP) --extra-index-url $(TORCH_CPU_INDEX) torch
	$(PIP) --editable '.[dev]'
	touch $@
