# The one door: everything that people and CI do with this tree. Needs python3 (3.11 or newer) and make, nothing else.
# `make` alone lists the targets. Variables: PYTHON=python3.12 (makes .venv), ARGS="-k ring" (passed to pytest and bench).

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.installed
PROTO_VENV := build/proto-venv
PROTO_STAMP := $(PROTO_VENV)/.installed
DEPLOY_VENV := build/deploy-venv
DEPLOY_STAMP := $(DEPLOY_VENV)/.installed
STUBS := client/cachenode_api/v1
PROJECTS := -e 'client[lz4,msgspec,orjson,otel,zstd]' -e '.[demo,kubernetes,otel,reflection,sql]' --group dev
PYTEST := $(PY) -m pytest
# A process of tests that crashes is a failure and ends the run; with another in its place xdist may wait for ever.
TWO := -n 2 --max-worker-restart 0
# Whole files go to one of two processes, so a file's tests never run beside each other.
PARALLEL := $(TWO) --dist loadfile
# The machine has other work: what was not there within its time is waited for once more, and both are shown. A wrong result never is.
REAL := $(PARALLEL) -q --reruns 1 --only-rerun 'not (ready )?within [0-9.]+ s' --only-rerun TimeoutExpired -r fER
# With real processes, in `make test`: what says soonest that something is wrong, in a minute. `make test-integration` runs the others too.
SHORT := $(addprefix tests/integration/,test_auth.py test_client_wheel.py test_embedded.py test_local_cluster.py test_read_through.py test_single_flight.py test_tls.py)
# Alone: they keep both cores busy, and what is beside them misses its time limits.
ALONE := $(addprefix tests/integration/,coherence test_failures.py test_rolling_restart.py test_statefulset.py test_handover.py)

ALERTS := $(wildcard tests/deploy/test_alerts.py tests/deploy/test_dashboards.py tests/deploy/test_prometheus.py)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
test test-core test-sim test-integration test-rest test-coherence cov: export PYTHONWARNINGS := default

.DEFAULT_GOAL := help
.PHONY: help setup demo cluster test test-core test-sim test-coherence soak-sim soak-coherence fuzz fuzz-quick audit sbom test-integration cov fmt fmt-check lint types arch proto proto-check \
	k8s-check alerts-check image-check bench bench-quick bench-policies dist constraints ci clean distclean

help:  ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

# --- environment ------------------------------------------------------------------------------------------------------

setup: $(STAMP)  ## Make .venv with everything for development

$(STAMP): pyproject.toml client/pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cachenode needs Python 3.11 or newer. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu install python3-venv."; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV) ..."
	@test -x $(BIN)/uv || $(PY) -m pip install --quiet uv || echo "uv cannot be installed here; going on with pip, which is slower."
	@if test -x $(BIN)/uv; then \
		$(BIN)/uv pip install --quiet --python $(PY) -c requirements/constraints.txt $(PROJECTS); \
	else \
		$(PY) -m pip install --quiet --upgrade 'pip>=25.1' && \
		$(PY) -m pip install --quiet -c requirements/constraints.txt $(PROJECTS); \
	fi
	@touch $@

constraints: setup  ## Resolve newer versions of everything into requirements/constraints.txt
	@mkdir -p build
	@grep '^#' requirements/constraints.txt > build/constraints.txt
	@$(BIN)/uv pip compile --quiet --python $(PY) --universal --python-version 3.11 --upgrade --all-extras --group dev \
		--no-annotate --no-header --no-emit-package cachenode --no-emit-package cachenode-client \
		pyproject.toml client/pyproject.toml >> build/constraints.txt
	@mv build/constraints.txt requirements/constraints.txt
	@echo "Now run: make ci"

# --- use --------------------------------------------------------------------------------------------------------------

demo: setup  ## Run the demonstration on a local cluster
	@$(BIN)/cachenode demo $(ARGS)

cluster: setup  ## Run three nodes and a Valkey on this machine until Ctrl-C
	@$(BIN)/cachenode cluster --nodes 3 --dir build/cluster

# --- tests ------------------------------------------------------------------------------------------------------------

test: setup  ## Run the tests: unit, property, a short simulation, some with real processes; five minutes
	@status=0; \
	echo "Unit and property tests, and a short simulation:"; \
	$(PYTEST) $(PARALLEL) -q --ignore=tests/integration --ignore=tests/deploy --ignore=tests/browser --ignore=tests/image --ignore=tests/sim/test_mutants.py $(ARGS) || status=$$?; \
	echo; echo "Tests with real processes:"; \
	$(PYTEST) $(REAL) $(SHORT) $(ARGS) || status=$$?; \
	exit $$status

test-core: setup  ## Run the tests without input or output: core, contract, SDK
	@$(PYTEST) -q tests/core tests/api tests/client $(ARGS)

test-sim: setup  ## Simulate 500 clusters in virtual time, and switch safeguards off; SEED=n runs one seed and shows all of it
	@SEEDS=$${SEEDS:-500} $(PYTEST) $(if $(SEED),,$(TWO) --dist worksteal) -q tests/sim $(ARGS)

test-coherence: setup  ## Check what clients see while real nodes, clients and L2 are killed, frozen and restarted
	@$(PYTEST) -q $(ALONE) $(ARGS)

console-test: setup  ## Use the web console in a Chromium (Debian's package chromium); screenshots in build/console
	@$(PYTEST) -q -rs tests/browser $(ARGS)

soak-sim: setup  ## Simulate seed after seed until told to stop
	@$(PY) -m tests.sim $(ARGS)

soak-coherence: setup  ## Kill and freeze real processes for longer than CI does, and check what clients see
	@$(PY) -m tests.integration.coherence.run $(ARGS)

fuzz: setup  ## Throw damaged and random bytes at all that reads them; ten minutes, or SECONDS=n
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),600) $(ARGS)

fuzz-quick: setup  ## The same for half a minute
	@$(PY) -m tests.fuzz --seconds 30 $(ARGS)

test-integration: setup  ## Run the tests with real processes, but those that have to be alone (test-coherence)
	@$(PYTEST) $(REAL) tests/integration $(ALONE:%=--ignore=%) $(ARGS)

test-rest: setup  ## Of those the ones that `make test` leaves out
	@$(PYTEST) $(REAL) tests/integration $(ALONE:%=--ignore=%) $(SHORT:%=--ignore=%) $(ARGS)

cov: setup $(DEPLOY_STAMP)  ## Run every test and report which lines and branches none of them reached
	@mkdir -p build/coverage
	@$(PYTEST) $(PARALLEL) -q --cov --cov-report=term --cov-report=html $(ARGS)

# --- checks -----------------------------------------------------------------------------------------------------------

fmt: setup  ## Format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format
	@$(BIN)/buf format -w

fmt-check: setup  ## Say which files `make fmt` would change
	@$(BIN)/ruff format --check

lint: setup  ## Look for bad style and likely mistakes
	@$(BIN)/ruff check

types: setup  ## Check the types
	@$(BIN)/mypy

arch: setup  ## Check the direction of dependencies
	@$(BIN)/lint-imports --no-cache

# --- protocol ---------------------------------------------------------------------------------------------------------

$(PROTO_STAMP): requirements/proto.txt
	@rm -rf $(PROTO_VENV)
	@$(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet -r requirements/proto.txt
	@touch $@

# $(1): the folder that gets cachenode_api/v1. A file without a service has a _grpc twin without content: it goes.
define generate
	@PATH="$(CURDIR)/$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iprotos \
		--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) protos/cachenode_api/v1/*.proto
	@for file in $(1)/cachenode_api/v1/*_pb2_grpc.py; do grep -q '^class .*Stub' $$file || rm -f $$file $${file}i; done
endef

proto: $(PROTO_STAMP)  ## Generate the stubs from protos/
	@rm -f $(STUBS)/*_pb2*
	$(call generate,client)

proto-check: setup $(PROTO_STAMP)  ## Check the .proto files and that the committed stubs are theirs
	@$(BIN)/buf lint
	@$(BIN)/buf format -d --exit-code
	@rm -rf build/proto-check && mkdir -p build/proto-check
	$(call generate,build/proto-check)
	@diff -rq -x __init__.py -x __pycache__ build/proto-check/cachenode_api/v1 $(STUBS) || \
		{ echo "The stubs in $(STUBS) are not those of protos/: run make proto and commit the result."; exit 1; }

AUDIT_VENV := build/audit-venv

audit: setup  ## Ask the public advisories about what is installed, where they can be reached
	@test -x $(AUDIT_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT_VENV) && \
		$(AUDIT_VENV)/bin/python -m pip install --quiet 'pip-audit>=2.9'; } || \
		{ echo "pip-audit cannot be installed here: nothing was asked. tests/meta/test_known_bad.py checks what was known."; exit 0; }
	@$(PY) -m tests.support.audit $(AUDIT_VENV)/bin/pip-audit

SBOM_VENV := build/sbom-venv

sbom: setup  ## Write what each distribution brings along, as CycloneDX, into build/sbom
	@test -x $(SBOM_VENV)/bin/cyclonedx-py || { $(PYTHON) -m venv $(SBOM_VENV) && \
		$(SBOM_VENV)/bin/python -m pip install --quiet 'cyclonedx-bom>=7'; } || \
		{ echo "cyclonedx-bom cannot be installed here: nothing was written."; exit 1; }
	@$(PY) -m tests.support.sbom $(SBOM_VENV)/bin/cyclonedx-py build/sbom

# --- measure, build, check all ----------------------------------------------------------------------------------------

$(DEPLOY_STAMP): requirements/deploy.txt | setup
	@rm -rf $(DEPLOY_VENV)
	@$(PYTHON) -m venv $(DEPLOY_VENV)
	@if test -x $(BIN)/uv; then \
		$(BIN)/uv pip install --quiet --python $(DEPLOY_VENV)/bin/python -r requirements/deploy.txt; \
	else \
		$(DEPLOY_VENV)/bin/python -m pip install --quiet -r requirements/deploy.txt; \
	fi
	@touch $@

k8s-check: setup $(DEPLOY_STAMP)  ## Render manifests and chart and check them offline, for old and new releases of Kubernetes
	@$(PYTEST) -q $(TWO) tests/deploy $(ALERTS:%=--ignore=%) $(ARGS)

alerts-check: setup  ## Check alerts and dashboards, and see an alert fire (promtool, prometheus: Debian's package prometheus)
	@$(PYTEST) -q -rs $(PARALLEL) $(ALERTS) $(ARGS)

image-check: setup  ## Build the image and run it as the manifests do; skips, and says why, without docker or podman. Not part of ci
	@$(PYTEST) -q -rs tests/image $(ARGS)

bench: setup  ## Measure, beside Redis, memcached and a bare gRPC server
	@$(PY) -m tests.bench $(ARGS)

bench-quick: setup  ## The same in about a minute, with coarser numbers
	@$(PY) -m tests.bench --quick $(ARGS)

bench-policies: setup  ## Measure what policies are worth on a slow origin, beside cache-aside with redis-py
	@$(PY) -m tests.bench.policies $(ARGS)

dist: setup  ## Build both distributions into build/dist
	@rm -rf build/dist
	@$(PY) -m build --no-isolation --outdir build/dist client
	@$(PY) -m build --no-isolation --outdir build/dist .

ci: setup  ## Everything that must hold before a change goes in; the tests come last
	@failed=; for step in fmt-check lint types arch proto-check k8s-check alerts-check dist audit fuzz-quick test test-rest console-test test-sim test-coherence; do \
		printf '\n=== %s ===\n' $$step; \
		$(MAKE) --no-print-directory $$step || failed="$$failed $$step"; \
	done; \
	test -z "$$failed" || { printf '\nFailed:%s\n' "$$failed"; exit 1; }

clean:  ## Remove what was built and what tools left behind; .venv stays
	@rm -rf build dist .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find cachenode client tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## The same, and .venv
	@rm -rf $(VENV)
