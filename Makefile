.PHONY: check format lint types test

PYTHON ?= python

check: format lint types test

format:
	$(PYTHON) -m ruff format prune_gym agents examples tests benchmarks

lint:
	$(PYTHON) -m ruff check prune_gym agents examples tests benchmarks

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n auto
