# Each target sets up all that it needs, once: launch/setup.sh.
.PHONY: setup train test lint bench horovod-gpu clean
SHELL := /bin/bash
VENV := $(or $(LOCKSTEP_VENV),.venv)
RANKS := 2
# Files of tests; those of few, long tests not at the end, where one core would be idle.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

setup:
	@launch/setup.sh requirements.txt tests/requirements.txt

train: setup
	@launch/local.sh -n $(RANKS) train --recipe launch/recipes/digits.toml
	@launch/local.sh -n $(RANKS) train --recipe launch/recipes/pydocs.toml

test: setup
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not full_matrix" tests/single
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not full_matrix" tests/integration

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

bench: setup
	@$(VENV)/bin/python -m tests.benchmarks.throughput
	@$(VENV)/bin/python -m tests.benchmarks.input
	@$(VENV)/bin/python -m tests.benchmarks.order
	@$(VENV)/bin/python -m tests.benchmarks.tensorboard

# The CUDA + NCCL build of Horovod: built and loaded, which needs nvcc but no GPU.
horovod-gpu:
	@launch/horovod/check_gpu.sh

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
