# Two commands carry a newcomer: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run demo test unit functional e2e attacks check lint types imports protos protos-check test-spire conformance bench golden clean dev fuzz mutate-gate soak

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml deploy/check_python.sh deploy/install.sh
	@sh deploy/check_python.sh "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing Legation into $(VENV) (the first time takes a minute or two) ..."
	@sh deploy/install.sh $(BIN)/python .
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "Installing what the tests and checks need ..."
	@sh deploy/install.sh $(BIN)/python '.[dev]'
	@touch $@

run: $(STAMP) ## install, start everything with the samples, show the tour, serve until Ctrl-C
	@$(BIN)/legation up --demo $(ARGS)

demo: $(STAMP) ## the same tour, then stop; fails when a step does not hold
	@$(BIN)/legation up --demo --exit-after-tour $(ARGS)

dev: $(DEV_STAMP) ## install everything that development needs

test: $(DEV_STAMP) ## install what is needed and pass the whole test suite
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

unit: $(DEV_STAMP) ## the tests that need no other process
	@$(BIN)/python -m pytest tests/unit tests/architecture tests/golden $(ARGS)

functional: $(DEV_STAMP) ## the tests of one process with its real neighbours
	@$(BIN)/python -m pytest tests/functional $(ARGS)

e2e: $(DEV_STAMP) ## the tests of the whole stack on the real Envoy
	@$(BIN)/python -m pytest tests/e2e $(ARGS)

attacks: $(DEV_STAMP) ## the attack suite: hostile bytes to the real Envoy, recording upstreams behind it
	@$(BIN)/python -m pytest tests/attacks $(ARGS)

test-spire: $(DEV_STAMP) ## the tests with real SPIRE; the first time Go builds it, which takes minutes
	@$(BIN)/python -m pytest tests/spire $(ARGS)

conformance: $(DEV_STAMP) ## the MCP conformance suite, direct and through the gateway
	@$(BIN)/python -m tests.conformance.run $(ARGS)

SECONDS ?= 600
fuzz: $(DEV_STAMP) ## the gate against the parsers of real MCP servers, SECONDS=600
	@$(BIN)/python -m tests.fuzz.search --seconds $(SECONDS) $(ARGS)

mutate-gate: $(DEV_STAMP) ## take away every guard of the gate, one at a time; each time a test must fail
	@$(BIN)/python -m tests.mutation $(ARGS)

SOAK := LEGATION_SOAK_OUTAGE_SECONDS=600 LEGATION_SOAK_KILLS=50 LEGATION_SOAK_RECORDS=100000
soak: $(DEV_STAMP) ## the record at length: 10 minutes without a control plane, 50 kills, 100,000 records to each sink that fails
	@$(SOAK) $(BIN)/python -m pytest --timeout 7200 tests/e2e/test_record_outage.py tests/e2e/test_record_kill.py \
		tests/functional/test_sinks.py tests/functional/test_sinks_syslog.py $(ARGS)

bench: $(DEV_STAMP) ## measure cost per call, latency, edit-to-live, lists, start time, memory
	@$(BIN)/python -m bench $(ARGS)

check: lint types imports protos-check ## everything a machine can say about the code

lint: $(DEV_STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEV_STAMP) ## mypy --strict
	@$(BIN)/mypy

imports: $(DEV_STAMP) ## the direction of imports (.importlinter)
	@$(BIN)/lint-imports

protos: $(DEV_STAMP) ## generate the Python messages from protos/
	@sh deploy/generate_messages.sh $(BIN)/python .

protos-check: $(DEV_STAMP) ## fail when the generated messages differ from protos/
	@sh deploy/check_messages.sh $(BIN)/python

golden: $(DEV_STAMP) ## write the golden files anew; read the difference before committing
	@UPDATE_GOLDEN=1 $(BIN)/python -m pytest tests/golden $(ARGS)

clean: ## remove .venv, caches and the embedded deployment
	rm -rf $(VENV) .legation .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
