# Everything a contributor runs. Needs Python >= 3.11, make and the package index.
.DEFAULT_GOAL := help
.PHONY: help setup demo check lint types test test-kubernetes proto docs lock bench soak clean

PYTHON ?= python3
BIN := .venv/bin

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/ready ## make .venv with the locked dependencies

demo: .venv/ready ## see it happen: an agent earns, uses, rotates and loses its identity
	@$(BIN)/python examples/demo.py

check: lint types test ## everything CI runs

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py --check
	$(BIN)/python docs/fill.py --check

types: .venv/ready
	$(BIN)/mypy

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --reruns 1 --cov --cov-report= -p tests.gates

test-kubernetes: .venv/ready ## hold what our fake API server and kubelet promise against the cluster of KUBECONFIG
	TEST_KUBECONFIG="$(KUBECONFIG)" $(BIN)/python -m pytest tests/contracts/test_kubernetes.py tests/contracts/test_kubelets.py

proto: .venv/ready ## generate spiffekit/wire/pb from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

docs: .venv/ready ## fill the tables and the commands' help of docs/reference from the code
	$(BIN)/python docs/fill.py

lock: ## resolve requirements.lock anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --no-strip-extras pyproject.toml -o requirements.lock
	echo hatchling | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes -c requirements.lock - -o deploy/docker/build.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra issuer --extra aws --extra kubernetes --extra policy --no-strip-extras -c requirements.lock pyproject.toml -o deploy/docker/issuer.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra attestor --no-strip-extras -c requirements.lock pyproject.toml -o deploy/docker/attestor.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra attestor --extra signatures --no-strip-extras -c requirements.lock pyproject.toml -o deploy/docker/attestor-signatures.lock

bench: .venv/ready ## measure; prints a table and JSON
	$(BIN)/python -m benchmarks

soak: .venv/ready ## the long runs that the check leaves out
	$(BIN)/python -m pytest -m soak tests

clean: ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
