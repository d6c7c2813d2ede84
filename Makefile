# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# Thread pools that spin starve one another on few cores.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint format clean

demo: $(VENV)/installed
	$(BIN)/medcycle demo

test: $(VENV)/installed lint
	rm -f .coverage .coverage.*
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=term

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict medcycle

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The stamp is made again when what is to be installed changes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo .coverage*
