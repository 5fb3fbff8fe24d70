# make demo    install, start everything, run the demonstration (ARGS=--exit ends afterwards)
# make test    install, run the whole test suite (ARGS="-k name" selects)
# make test-vllm  install vLLM for CPUs into .venv-vllm (0.6 GB to load, 5 GB on disk) and test the real engine
# make lint    ruff and mypy
# make simulate  error rates, coverage and power of the statistics (ARGS=--quick for a glance); writes docs/simulations.md
# make clean   remove .venv, .venv-vllm, .curtail and caches

# python3.11 where it really runs (a version manager's shim may not), else python3.
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || command -v python3)
RUN := .venv/bin/python

.PHONY: demo install install-dev install-vllm test test-vllm lint simulate clean

demo: install
	@$(RUN) manage.py demo $(ARGS)

test: install-dev
	@$(RUN) -m pytest $(ARGS)

# vLLM and what it loads warn about themselves: those warnings are no errors here.
test-vllm: install-vllm
	@.venv-vllm/bin/python -m pytest -W default tests/vllm $(ARGS)

lint: install-dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

simulate: install-dev
	@OMP_NUM_THREADS=1 $(RUN) -m benchmarks.simulations $(ARGS)

install: python
	@"$(PYTHON)" tools/install.py

install-dev: python
	@"$(PYTHON)" tools/install.py --dev

install-vllm: python
	@"$(PYTHON)" tools/install.py --vllm

clean: python
	@"$(PYTHON)" tools/install.py --clean

.PHONY: python
python:
	@test -n "$(PYTHON)" || { echo "curtail: Python 3.11 or newer is needed and none was found; name one with make PYTHON=/path/to/python3.11" >&2; exit 2; }
