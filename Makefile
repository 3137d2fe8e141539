# `make demo` and `make test` do all the set-up themselves, in the virtual environment .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-all test-versions lint gpu-check docs clean

# The main job on real images, without a download: a zoo is made, loaded, run and benchmarked.
demo: $(VENV)/.ready
	@mkdir -p $(DEMO)
	$(BIN)/model-zoos generate digits_cnn_s --out $(DEMO)/zoos
	$(BIN)/model-zoos benchmark digits_cnn_s --data-dir $(DEMO)/zoos --out $(DEMO)/benchmark.json
	$(BIN)/model-zoos plot digits_cnn_s --data-dir $(DEMO)/zoos --out $(DEMO)/accuracy.png
	MODEL_ZOOS_HOME=$(DEMO)/zoos $(BIN)/python examples/first_look.py

# A process for each core; torch's own threads would fight over the cores with them.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Everything, the long runs too, one after the other: some measure memory and speed.
test-all: $(VENV)/.ready
	$(BIN)/python -m pytest -m ''

# The wheel with the lowest and with the newest packages that pyproject.toml allows, each in a new
# environment in dist/versions. It needs uv, the network and some GB; it stops after ten minutes of
# tests for each.
VERSIONS ?= lowest-direct highest
VERSIONS_TESTS ?= tests/builders/test_catalog.py tests/builders/hub/test_publish.py \
	tests/builders/hub/test_build.py tests/builders/test_dataset.py tests/benchmarks/test_states.py
VERSIONS_SECONDS ?= 600
test-versions:
	rm -rf dist/versions
	uv build --wheel --out-dir dist/versions
	mkdir dist/versions/checkout  # the tests without the code, so that they see the wheel
	cp -r tests docs examples README.md dataset_card.md pyproject.toml dist/versions/checkout
	set -e; for versions in $(VERSIONS); do \
		python=$(CURDIR)/dist/versions/$$versions/bin/python; \
		uv venv dist/versions/$$versions; \
		uv pip install --python $$python --resolution $$versions --requirements pyproject.toml; \
		uv pip install --python $$python --no-deps dist/versions/*.whl; \
		uv pip install --python $$python 'pytest>=8' 'pytest-xdist>=3.6' 'hypothesis>=6.100'; \
		(cd dist/versions/checkout && OMP_NUM_THREADS=1 timeout $(VERSIONS_SECONDS) \
			$$python -m pytest -n auto --maxprocesses 8 $(VERSIONS_TESTS)); \
	done

# Style, types as a user of the wheel sees them, and which folder may import which.
lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd typings && ../$(BIN)/lint-imports ../pyproject.toml

# What the CUDA kernel takes of a GPU, read from its compiled code: no GPU is needed. It compiles 20
# kernels, each on one core for seconds, and fails where one does not fit or has grown.
gpu-check: $(VENV)/.gpu-check-ready
	$(BIN)/python -m model_zoos.benchmarks.speed resources

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

$(VENV)/.gpu-check-ready: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[gpu-check]'
	@touch $@
