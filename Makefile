# The only thing that must be there is Python 3.11 or newer; make sets up the rest in .venv.
# Another Python: make test PYTHON=python3.12
PYTHON ?= python3
# Tests on two to four cores at once; a single test is easier to follow without.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# A stamp is written last, so that a set-up that was interrupted is done again.
READY := .venv/.ready
FUZZ := .venv/.fuzz
# Inputs that were found, from one fuzzing to the next.
CORPUS := .fuzz
RUNS := 1000000

.PHONY: help demo test test-all fuzz lint types clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 16

demo: $(READY) ## see everything at work on the model that ships
	.venv/bin/lia-adapt demo -o demo.safetensors

test: $(READY) ## run the tests that take minutes
	.venv/bin/pytest -m "not slow" $(PARALLEL)

test-all: $(FUZZ) ## run all tests
	.venv/bin/pytest --timeout 3600 $(PARALLEL)

fuzz: $(FUZZ) ## fuzz every entry point, a million inputs in all; fewer: RUNS=10000
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.fuzz --runs $(RUNS) --corpus $(CORPUS)

lint: $(READY) ## check the style and the formatting
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: $(READY) ## check the types
	.venv/bin/mypy

clean: ## remove build products and caches; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lia_adapter ops recipes tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'lia-adapter needs Python 3.11 or newer; $(PYTHON) is missing or older. Name another: make test PYTHON=python3.12' >&2; \
		exit 1; }
	@# venv does not mend a half-made .venv, which has no pip; a whole one is kept, as torch is a large download.
	.venv/bin/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -e '.[dev]'
	@touch $@

$(FUZZ): $(READY)
	.venv/bin/pip install -e '.[dev,fuzz]'
	@touch $@
