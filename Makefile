# The verbs of the project. Each one works as the first command on an empty machine.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-distributed lint bench

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
RECIPE ?= configs/benchmark/mini.toml

help:  ## show the verbs
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo "  PYTHON=/path/to/python3.11 make setup    chooses the interpreter; ARGS='...' is passed on"

setup:  ## create .venv and install everything (first time: minutes; again: seconds)
	@bash tools/setup.sh

demo: setup  ## pretrain, transfer and report on small data made on the spot
	@$(BIN)/cmae-mm bench configs/benchmark/mini.toml --out work_dirs/demo $(ARGS)

test: setup  ## run the test suite
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-slow: setup  ## run the tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-distributed: setup  ## run the tests that start many processes (25 minutes at most)
	@$(BIN)/python -m pytest -m "distributed or faults" $(ARGS)

lint: setup  ## check format, style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: setup  ## run a benchmark recipe: RECIPE=configs/benchmark/<name>.toml
	@$(BIN)/cmae-mm bench $(RECIPE) $(ARGS)
