# Two commands matter: `make serve` and `make test`. Everything they need is set up on the way.
SHELL := /bin/sh
.DEFAULT_GOAL := help
UV := .uv/bin/uv
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: help setup serve test check bench lock wheel clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	@python3 -m venv .uv || { echo "set-up needs the venv module: apt-get install python3-venv" >&2; rm -rf .uv; exit 2; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): $(UV) requirements.lock pyproject.toml .python-version
	@test -x $(PY) || $(UV) venv --quiet .venv
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## the virtual environment with the locked dependencies, nothing else

serve: setup ## start the proxy with the shipped default policy
	@.venv/bin/cloned-proxy serve

test: setup ## the whole test suite
	@$(PY) -m pytest

check: setup ## lint, types, dead links, help text
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

lock: $(UV) ## resolve the newest versions that fit and pin them with hashes
	@$(UV) pip compile --quiet --upgrade pyproject.toml --group dev --universal --python-version 3.12 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean: ## remove what set-up and the tests made
	rm -rf .uv .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
