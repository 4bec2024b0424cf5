# Everything happens in .venv, built from requirements.lock; only Python 3.11 and make are needed.
.DEFAULT_GOAL := help
.PHONY: help run test check bench proto lock fmt clean install \
        check-format check-lint check-types check-imports check-proto check-api

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=
# Where bytecode is not kept, every process compiles all that it imports: seconds for each server.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(INSTALLED) ## Build .venv from the lock

# uv, itself installed by pip with its hash from the lock, is many times faster than pip; but pip
# knows the machine's own package settings, so it takes over where uv cannot reach an index.
$(INSTALLED): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > .venv/uv.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock \
	    || $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

run: $(INSTALLED) ## Run the whole stack on this machine: make run ARGS="--agents 20"
	$(BIN)/spotplane dev $(ARGS)

test: $(INSTALLED) ## Run the tests: make test ARGS="tests/agents -k session"
	$(BIN)/pytest $(ARGS)

bench: $(INSTALLED) ## Run the benchmarks: make bench ARGS="--help"
	$(BIN)/spotplane bench $(ARGS)

check: check-format check-lint check-types check-imports check-proto check-api ## Run every static check

check-format: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/buf format --diff --exit-code --path proto/spotplane proto

check-lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/buf lint proto

check-types: $(INSTALLED)
	$(BIN)/mypy

check-imports: $(INSTALLED)
	$(BIN)/lint-imports

check-proto: $(INSTALLED)
	$(BIN)/python scripts/generate_protos.py --check

check-api: $(INSTALLED)
	BUF=$(BIN)/buf scripts/check_api_breaks

proto: $(INSTALLED) ## Regenerate proto/gen
	$(BIN)/python scripts/generate_protos.py

fmt: $(INSTALLED) ## Format everything and apply safe fixes
	$(BIN)/ruff check --fix --show-fixes .
	$(BIN)/ruff format .
	$(BIN)/buf format --write --path proto/spotplane proto

# Locked versions stay unless pyproject.toml rules them out: make lock ARGS=--upgrade renews all.
lock: ## Resolve pyproject.toml into requirements.lock
	@test -x $(BIN)/uv || $(MAKE) install
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-header --no-emit-index-url --no-emit-find-links $(ARGS) pyproject.toml -o requirements.lock

clean: ## Remove the environment, caches and build products
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
