PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.PHONY: demo test lint docs notebooks clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed            ## install and run the quickstart study (under 5 minutes on 2 cores)
	$(BIN)/simkit run examples/quickstart.toml

test: $(VENV)/.installed-dev lint docs notebooks   ## lint, types, import floors, documentation, notebooks, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: $(VENV)/.installed-dev        ## the documentation, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(VENV)/.installed-dev   ## every notebook from top to bottom, from an empty store
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 -p no:cacheprovider -n 2 --dist worksteal notebooks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "simkit needs Python >= 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
