# `make demo` and `make test` do all the set-up themselves, in the virtual environment .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-all lint docs clean

# The main job on real images, without a download: a zoo is made, loaded, run and benchmarked.
demo: $(VENV)/.ready
	@mkdir -p $(DEMO)
	$(BIN)/model-zoos generate digits_cnn_s --out $(DEMO)/zoos
	$(BIN)/model-zoos benchmark digits_cnn_s --data-dir $(DEMO)/zoos --out $(DEMO)/benchmark.json
	$(BIN)/model-zoos plot digits_cnn_s --data-dir $(DEMO)/zoos --out $(DEMO)/accuracy.png
	MODEL_ZOOS_HOME=$(DEMO)/zoos $(BIN)/python examples/first_look.py

# A process for each core; torch's own threads would fight over the cores with them.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# Everything, the long runs too, one after the other: some measure memory and speed.
test-all: $(VENV)/.ready
	$(BIN)/python -m pytest -m ''

# Style, types as a user of the wheel sees them, and which folder may import which.
lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd typings && ../$(BIN)/lint-imports ../pyproject.toml

# The documentation as a web site, in site/: the pages of docs/ and the reference of all functions.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(DEMO) dist site

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| (echo "model_zoos needs Python 3.10 or later: make PYTHON=python3.12 ..."; exit 1)
	@echo "Packages are installed into $(VENV); this takes some minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.docs-ready: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@
