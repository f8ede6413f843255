.PHONY: check format lint types test docs

PYTHON ?= python

check: format lint types test

format:
	$(PYTHON) -m ruff format prune_gym agents examples tests benchmarks docs

lint:
	$(PYTHON) -m ruff check prune_gym agents examples tests benchmarks docs

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n auto

docs:
	$(PYTHON) -m sphinx -b html -W --keep-going docs docs/_build/html
