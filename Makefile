# Two commands matter: `make serve` and `make test`. Everything they need is set up on the way.
SHELL := /bin/sh
.DEFAULT_GOAL := help
UV := .uv/bin/uv
PY := .venv/bin/python
STAMP := .venv/.installed
# Set-up says what it does; where somebody looks on, uv shows how far it is.
QUIET := $(shell test -t 2 || echo --quiet)
WHEEL_ENV := .venv-wheel
BARE_ENV := .venv-bare
DOCS_ENV := .venv-docs
PLANE := plane/Cargo.toml plane/Cargo.lock plane/src
# pyenv's shims answer only for the active version; its other interpreters are on no PATH, so uv is shown them.
WITH_PYENV := PATH="$$PATH$(foreach dir,$(wildcard $(HOME)/.pyenv/versions/3.13*/bin),:$(dir))"

.PHONY: help setup install uninstall serve demo fleet-demo test test-fast test-times test-agents test-wheel lint check fuzz sanitize bench dashboards docs reference findings pictures \
  plane plane-if-possible lock sbom wheel wheels clean screenshots

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Debian's python3 comes without ensurepip (package python3-venv) and without pip; either one is enough.
$(UV):
	@command -v python3 >/dev/null || { echo "set-up needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 2; }
	@echo "set-up: uv, into .uv" >&2
	@if python3 -c 'import ensurepip, venv' 2>/dev/null; then \
	  python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	elif python3 -m pip --version >/dev/null 2>&1; then \
	  python3 -m pip install --quiet --disable-pip-version-check --target .uv uv; \
	else \
	  echo "set-up needs the venv module of python3: apt-get install python3-venv" >&2; exit 2; \
	fi || { code=$$?; rm -rf .uv; exit $$code; }

$(STAMP): $(UV) requirements.lock pyproject.toml .python-version
	@echo "set-up: Python $$(cat .python-version) and the locked packages, into .venv" >&2
	@test -x $(PY) || $(WITH_PYENV) $(UV) venv $(QUIET) .venv || { \
	  echo "set-up found no Python $$(cat .python-version) and could not fetch one; install it, or let uv reach the network" >&2; exit 2; }
	@$(UV) pip sync $(QUIET) --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## the virtual environment with the locked dependencies, nothing else

install: wheel ## the program on your PATH, in an environment of its own; again to upgrade
	@packaging/user-install.sh install

uninstall: ## take away what `make install` put there
	@packaging/user-install.sh uninstall

serve: setup plane-if-possible ## start the proxy with the shipped default policy
	@.venv/bin/cloned-proxy serve

demo: setup ## the tour of the README in one terminal, 45 seconds, without internet
	@$(PY) -m demo

fleet-demo: setup ## two replicas, one signed policy, on a redis-server of its own, in half a minute
	@demo/fleet.sh .venv/bin/cloned-proxy

# Images that an engine of the tests would otherwise build each time.
export KEPT_IMAGES := $(CURDIR)/build/images
T ?= tests

test: setup $(DOCS_ENV)/.installed ## the whole test suite; T=tests/proxy: a part of it
	@tests/install.sh
	@! command -v cargo >/dev/null || $(MAKE) --silent plane
	@tests/run.sh $(PY) $(T)

test-fast: setup ## the tests that need no namespaces, engine or browser, and are quick
	@tests/run.sh $(PY) -q -m "not net and not docker and not browser and not slow and not alone" $(T)

test-times: setup ## the suite, and where its time goes: CPU and wall by folder, group and process; also with T=
	@tests/run.sh $(PY) -q -p tests.times $(T)

test-agents: setup ## the real Claude Code, Codex and Gemini CLI (0.8 GB, fetched once into build/agents)
	@tests/agents/fetch.sh $(PY) build/agents
	@AGENT_CLIS=$(CURDIR)/build/agents tests/run.sh $(PY) -q tests/agents tests/docs/test_agents.py

lint: setup ## style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

check: lint $(DOCS_ENV)/.installed ## lint, types, dead links, help text, the pages that the code writes
	@$(PY) -m pytest -q -m "not docker" tests/docs

plane: ## build the native plane with cargo, offline (`make serve` does)
	@command -v cargo >/dev/null || { echo "the native plane needs cargo: apt-get install cargo" >&2; exit 2; }
	@env -u CARGO_BUILD_TARGET cargo build --quiet --release --offline --manifest-path plane/Cargo.toml --target-dir build/plane
	@touch build/plane/release/libcloned_plane.so  # cargo leaves it alone where only a date has changed

# Nothing to do where an installed wheel brought it; nothing to be done where there is no cargo, and `serve` says so.
plane-if-possible:
	@command -v cargo >/dev/null || exit 0; \
	  test -n "$$(find $(PLANE) -newer build/plane/release/libcloned_plane.so 2>/dev/null || echo none)" || exit 0; \
	  echo "set-up: the native plane, with cargo (seconds; without it Python serves)" >&2; \
	  $(MAKE) --silent plane || echo "set-up: cargo could not build the native plane; Python serves" >&2

wheel: setup plane-if-possible ## build dist/*.whl, with the native plane where cargo is
	@rm -rf dist && $(PY) -m build --wheel --no-isolation --outdir dist . >/dev/null && ls dist

sbom: setup ## dist/sbom.json: every dependency with its licence (CycloneDX); asks an index
	@$(PY) packaging/sbom.py --uv $(abspath $(UV)) --output dist/sbom.json

# The suite runs on the source. A wheel can differ from it by what it holds, which is compared byte for byte, and by where
# things are once it is installed: the tests of that are chosen in tests/wheel/chosen.txt, each for a reason. They are copied
# away from the checkout, so that nothing in it can stand in for what the wheel forgot.
test-wheel: wheel ## the built wheel is the source, and works where it is installed
	@tests/install.sh
	@TESTED_WHEEL=$$(echo $(CURDIR)/dist/*.whl) $(PY) -m pytest -q tests/packaging/test_wheel_content.py
	@for env in $(WHEEL_ENV) $(BARE_ENV); do test -x $$env/bin/python || $(WITH_PYENV) $(UV) venv --quiet $$env; done
	@$(UV) pip sync --quiet --python $(WHEEL_ENV)/bin/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(WHEEL_ENV)/bin/python --no-deps --reinstall-package cloned-proxy dist/*.whl
	@$(UV) pip install --quiet --python $(BARE_ENV)/bin/python --exact --constraint requirements.lock \
	  --reinstall-package cloned-proxy dist/*.whl
	@away=$$(mktemp -d) && trap 'rm -rf "$$away"' EXIT && \
	  find tests demo bench pyproject.toml \( -name __pycache__ -o -name node_modules \) -prune -o -type f -print0 | \
	  xargs -0 cp --parents --target-directory="$$away" && \
	  export TESTED_WHEEL=$$(echo $(CURDIR)/dist/*.whl) BARE_ENV=$(CURDIR)/$(BARE_ENV) && cd "$$away" && \
	  tests/run.sh $(CURDIR)/$(WHEEL_ENV)/bin/python -m "not checkout" \
	  $(if $(filter tests,$(T)),$$(awk '/^tests/ { print $$1 }' tests/wheel/chosen.txt),$(T))

fuzz: setup ## a million mutated heads, hellos, messages against other readers, ten thousand sequences of requests
	@$(PY) -m tests.proxy.fuzz
	@! command -v cargo >/dev/null || { $(MAKE) --silent plane && $(PY) -m tests.proxy.plane.fuzz_plane; }

sanitize: ## the native plane under load with AddressSanitizer and ThreadSanitizer, or valgrind; no Python in it
	@command -v rustc >/dev/null || { echo "the native plane needs rustc: apt-get install cargo" >&2; exit 2; }
	@plane/load/sanitize.sh 20

bench: setup ## speed beside other proxies and `docker run`, same work, one run
	@$(PY) -m bench

findings: ## what surprised us in other people's software, tried again with the network; T=findings/NAME.sh: one
	@failed=; for script in $(if $(filter findings/%,$(T)),$(T),$(sort $(wildcard findings/*.sh))); do \
	  echo "== $$script" >&2; "$$script" || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "not as described any more:$$failed" >&2; exit 1; }

# An environment of its own: the site's generator is as large as all that the program needs, and nothing else uses it.
$(DOCS_ENV)/.installed: $(UV) handbook/docs.lock .python-version
	@echo "set-up: what builds the documentation, into $(DOCS_ENV)" >&2
	@test -x $(DOCS_ENV)/bin/python || $(WITH_PYENV) $(UV) venv $(QUIET) $(DOCS_ENV)
	@$(UV) pip sync $(QUIET) --python $(DOCS_ENV)/bin/python --require-hashes handbook/docs.lock
	@touch $@

docs: $(DOCS_ENV)/.installed ## the documentation as a site, build/site/index.html; a dead link fails
	@$(DOCS_ENV)/bin/python -m handbook.site

reference: setup ## write the pages of docs/ again that say what the code says of itself
	@$(PY) -m handbook

dashboards: setup ## write dashboards/*.json again
	@$(PY) -m dashboards

screenshots: setup ## take the pictures of the control UI in docs/ again
	@$(PY) -m tests.control.pictures

pictures: setup ## draw the dashboards from real data, two minutes of it
	@$(PY) -m tests.dashboards.pictures

# The image of the proxy gets what runs, and what builds its wheel: both are parts of the one lock.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-annotate --custom-compile-command "make lock"
lock: $(UV) ## resolve the newest versions that fit and pin them with hashes
	@$(COMPILE) --upgrade pyproject.toml --group dev --output-file requirements.lock
	@$(COMPILE) --upgrade pyproject.toml --extra otlp --extra fleet --constraint requirements.lock --output-file compose/requirements.lock
	@$(COMPILE) --upgrade --group docs --constraint requirements.lock --output-file handbook/docs.lock
	@echo hatchling | $(COMPILE) --upgrade - --constraint requirements.lock --output-file compose/build.lock

wheels: ## what the proxy's image is built from where the build reaches no index
	@mkdir -p build/wheels
	@python3 -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary :all: --python-version 3.13 \
	  --dest build/wheels --requirement compose/requirements.lock --requirement compose/build.lock

clean: ## remove what set-up and the tests made
	rm -rf .uv .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
