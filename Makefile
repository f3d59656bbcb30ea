# `make test` and `make demo` set up everything they need in .venv on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint docs torture clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,serve]'
	touch $@

demo: setup
	$(BIN)/selfinformed demo --output runs/demo

test: lint docs
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check src tests scripts benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The site of docs/ in site/, strictly: a broken link, a page in no menu or a name that is not there stops it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench-%: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,serve,bench]'
	$(BIN)/python benchmarks/$*.py

# What docs/reliability.md reports: a night's work. FUZZ_MINUTES is for each of five readers.
torture: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,onnx,bench]'
	$(BIN)/python benchmarks/crashes.py
	$(BIN)/python benchmarks/crashes.py --random 1000
	$(BIN)/python benchmarks/torture_inputs.py
	$(BIN)/python benchmarks/fuzz.py all --minutes $(or $(FUZZ_MINUTES),60)
	$(BIN)/python benchmarks/degenerate.py
	$(BIN)/python benchmarks/mutants.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python scripts/advisories.py

clean:
	rm -rf $(VENV) runs site
