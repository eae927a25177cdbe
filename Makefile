# Two commands for a newcomer: make demo, make test.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint docs bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[test,docs,plot]"
	touch $@

# passive: threads that wait for a busy machine do not burn the processor they wait for
demo: $(VENV)/.ready
	OMP_WAIT_POLICY=passive $(BIN)/python examples/quickstart.py

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/slow_report.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.ready
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.ready
	$(BIN)/python -m siflow_sk.benchmarks core

clean:
	rm -rf $(VENV) docs/_build docs/auto_examples docs/generated
