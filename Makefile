# `make demo` and `make test` need nothing but Python 3.11: both set up .venv first, once.
#
#   make demo       train the embedded default, from folds to a submission (ARGS="..." adds flags)
#   make test       checks, then all tests, slow proofs in a small form    (ARGS="..." adds flags)
#   make test-full  the same with every proof in its full form
#   make check      style, formatting, types, import contracts
#   make test-bench the tests of the benchmarks against their rivals, and of sweeps on Ray; it
#                   installs both first
#   make test-gpu   the tests that need a CUDA device, and the kernels' as machine code
#   make test-oldest    all tests with the oldest PyTorch that is supported, in .venv-oldest
#   make test-lowering  the Triton kernels to machine code, by the newest and the oldest Triton
#   make setup      only the environment; PYTHON=... names the interpreter to build it with
#   make clean      remove the environments and caches; data/ and runs/ stay

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Recipes call the environment's own interpreter, so no environment has to be active, and one that
# is active must not leak in.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
PY := .venv/bin/python
READY := .venv/.ready
OLDEST := .venv-oldest/.ready
OLDEST_PY := .venv-oldest/bin/python
# A file of tests at a time on each of up to four cores, the longest first: see tests/conftest.py.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What needs rivals, or Ray, which is 240 MB: no part of `make setup`.
BENCH := -m "bench and not full" tests/benchmarks tests/sweep tests/test_cluster_storm.py

# Slow proofs too, whatever their marker.
FULL := -m ""

.PHONY: help setup demo test test-full check test-bench test-gpu test-oldest test-lowering clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(READY)

demo: $(READY)
	@$(PY) -m engine.train $(ARGS)

test: check
	@$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-full: check
	@LOWER_ALL=1 $(PY) -m pytest $(SIDE_BY_SIDE) $(FULL) $(ARGS)

check: $(READY)
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet . || { echo "run: $(PY) -m ruff format ."; exit 1; }
	@$(PY) -c "from importlinter.cli import lint_imports_command as c; c()" > .venv/imports.log \
	    || { cat .venv/imports.log; exit 1; }
	@$(PY) -m mypy --num-workers 2

test-bench: $(READY)
	@$(PY) -m pip install -qq --disable-pip-version-check --no-compile \
	    --editable '.[bench,ray]'
	@$(PY) -m pytest $(SIDE_BY_SIDE) $(BENCH) $(ARGS)

test-gpu: $(READY)
	@$(PY) -c "import sys, torch; torch.cuda.is_available() or sys.exit('torch finds no CUDA device')"
	@$(PY) -m pytest -m gpu $(ARGS)
	@$(PY) -m pytest -m "not gpu" tests/kernels $(ARGS)

test-oldest: $(OLDEST)
	@$(OLDEST_PY) -m pytest $(SIDE_BY_SIDE) $(FULL) $(ARGS)

test-lowering: $(READY) $(OLDEST)
	@for python in $(PY) $(OLDEST_PY); do \
	    $$python -c "import triton; print('Triton', triton.__version__)"; \
	    LOWER_ALL=1 $$python -m pytest tests/kernels/test_lowering.py $(FULL) $(ARGS); \
	done

# Each torch pins its Triton: 2.11 has 3.6, whose interpreter does what NumPy 2.4 refuses.
$(OLDEST): REQUIREMENTS := 'torch==2.11.*' 'numpy<2.4'

# The stamp depends on what is installed, not on when: a new pyproject.toml completes .venv.
# A name can be on the path and still not run (version-manager shims), so each candidate is tried.
$(READY) $(OLDEST): pyproject.toml tools/set_up.py
	@for python in $${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 python}; do \
	    if "$$python" -c "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))" \
	        2> /dev/null; then exec "$$python" tools/set_up.py $(@D) $(REQUIREMENTS); fi; \
	done; \
	echo "Roomsmith needs Python 3.11 or newer with venv and ensurepip, tried:" \
	    "$${PYTHON:-python3.11 and newer names}. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1

clean:
	rm -rf .venv .venv-oldest .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	find engine kernels benchmarks tests tools -name __pycache__ -prune -exec rm -rf {} +
