# Spamtide's commands. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.spamtide-installed
CODE := streams producers tests
# Tests have a broker and a data folder of their own: your data on 9092 is never touched.
TEST_PORT := 19092
TEST_ENV := export SPAMTIDE_KAFKA_PORT=$(TEST_PORT); unset SPAMTIDE_KAFKA_DIR SPAMTIDE_BOOTSTRAP_SERVERS

.PHONY: help setup tools test-tools kafka kafka-stop demo test check format bench lock schema clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: tools $(STAMP) ## install what is missing (Debian packages when root) and make .venv; does nothing when all is there

# --- set-up ------------------------------------------------------------------------------------------------------------

# $(call need,packages): installs Debian packages, or says in one line how to.
define need
	if [[ $$(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
	  echo "setup: installing $(1) with apt-get ..."
	  export DEBIAN_FRONTEND=noninteractive
	  log=$$(mktemp)
	  { apt-get update -q && apt-get install -q -y --no-install-recommends $(1); } >"$$log" 2>&1 </dev/null ||
	    { tail -n 15 "$$log" >&2; echo "setup: apt-get could not install $(1); its last lines are above" >&2; exit 1; }
	  rm -f "$$log"
	else
	  echo "setup: missing: $(1). Install with: sudo apt-get install $(1)" >&2
	  exit 1
	fi
endef

tools:
	@missing=()
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
	java=$${JAVA_HOME:+$$JAVA_HOME/bin/java}
	[[ -n $$java && -x $$java ]] || java=java
	release=$$("$$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1) || true
	[[ $${release:-0} -ge 17 ]] || missing+=(default-jre-headless)
	command -v mvn >/dev/null || missing+=(maven)
	if [[ $${#missing[@]} -gt 0 ]]; then
	$(call need,$${missing[*]})
	fi
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "setup: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11 setup" >&2
	  exit 1
	}

# A real Postfix and a tool that sends to it, for the tests that count its log. Neither is started as a service.
test-tools:
	@missing=()
	[[ -x /usr/sbin/postfix ]] || missing+=(postfix)
	command -v swaks >/dev/null || missing+=(swaks)
	if [[ $${#missing[@]} -gt 0 ]]; then
	$(call need,$${missing[*]})
	fi

$(STAMP): requirements.lock pyproject.toml | tools
	@if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then
	  echo "setup: making $(VENV) ..."
	  $(PYTHON) -m venv $(VENV)
	fi
	echo "setup: installing the locked Python packages (a minute or so the first time) ..."
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	echo "setup: installing spamtide itself ..."
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@
	echo "setup: done"

# --- run ---------------------------------------------------------------------------------------------------------------

kafka: ## start Apache Kafka on 127.0.0.1:9092 and wait until it answers
	@deploy/kafka/kafka start

kafka-stop: ## stop it; its data stays
	@deploy/kafka/kafka stop

demo: setup ## a spam ring becomes an alert on a real Kafka, compared with the truth; ends by itself
	@$(VENV)/bin/spamtide demo

# --- develop -----------------------------------------------------------------------------------------------------------

# The broker is stopped whatever happens; its data is kept for a look when a test failed.
test: setup test-tools ## every test, on a Kafka of its own (port 19092)
	@$(TEST_ENV)
	trap 'status=$$?; deploy/kafka/kafka stop; if [[ $$status -eq 0 ]]; then rm -rf "$${SPAMTIDE_CACHE:-.cache}/kafka-data-$(TEST_PORT)"; fi' EXIT
	deploy/kafka/kafka start
	$(VENV)/bin/pytest -q tests

check: setup ## lint, format and types
	@$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/mypy --strict $(CODE)

format: setup ## rewrite the code in the common format
	@$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

bench: setup ## what COUNT and TRACK sustain in one process
	@$(TEST_ENV)
	trap 'deploy/kafka/kafka stop' EXIT
	deploy/kafka/kafka start
	$(VENV)/bin/python -m tests.bench

lock: tools ## resolve requirements.lock anew from pyproject.toml
	@fresh=$$(mktemp -d)
	trap 'rm -rf "$$fresh"' EXIT
	$(PYTHON) -m venv "$$fresh"
	"$$fresh/bin/python" -m pip install -q --disable-pip-version-check uv
	"$$fresh/bin/uv" pip compile -q pyproject.toml --group dev --generate-hashes --no-emit-index-url \
	  --universal --python-version 3.11 --no-header --upgrade -o requirements.lock
	echo "lock: $$(grep -c '==' requirements.lock) packages in requirements.lock"

schema: setup ## write the topics' JSON Schemas and AsyncAPI into deploy/schema
	@$(VENV)/bin/spamtide topics schema --out deploy/schema

clean: ## remove what tests and tools left; keeps .venv, Kafka and your data
	@$(TEST_ENV)
	deploy/kafka/kafka stop
	rm -rf "$${SPAMTIDE_CACHE:-.cache}/kafka-data-$(TEST_PORT)" .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	echo "clean: kept $(VENV) and .cache (Kafka's jars, your data in .cache/kafka-data-*)"
