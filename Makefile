PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: demo test extras docs numbers lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# What optional parts and their tests need besides; CI installs it.
extras: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,explore,capture,rtl,docs]"

demo: $(STAMP)
	$(BIN)/expertstream demo --output demo-output

# The docs as a site in site/; nothing is fetched, and a warning is an error.
docs: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Regenerate every number and picture of README.md and docs/ in place.
numbers: $(STAMP)
	$(BIN)/python -m docs.generate.reproduction run
	$(BIN)/python -m docs.generate.blocks

test: $(STAMP)
	$(BIN)/pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
