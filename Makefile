# Every target works from a fresh clone, without root: the first one that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.omniloom-ready

.PHONY: help setup demo test check lint format types imports bench dist clean
help: ## what you can do here
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with everything the demo and the tests need
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	@# It declares triton, which it needs on a GPU only; the rest of what it needs is in the dev extra.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps openai-whisper
	touch $@

demo: setup ## raw video to a trained model, with a table and a picture at the end
	$(BIN)/omniloom demo --out demo

test: setup ## all tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint types imports test ## format, lint, types, import rules, tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: setup
	$(BIN)/lint-imports --no-cache

bench: setup ## what a build costs beside FFmpeg and beside a chain of operators; a quarter of an hour
	$(BIN)/omniloom bench decode

dist: setup ## sdist and wheel
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
