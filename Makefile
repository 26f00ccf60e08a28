# `make demo` and `make test` are all a newcomer needs; both install first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# uv does not read pip's configuration: hand on where pip would look for wheels.
PIP_SETTING = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null || $(PYTHON) -m pip config get :env:.$(1) 2>/dev/null)
export UV_FIND_LINKS ?= $(call PIP_SETTING,find-links)
# Without cached bytecode every `import torch` costs twice as much.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo results test test-all lint clean

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

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check src

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis
