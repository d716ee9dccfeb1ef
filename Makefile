# One command each: `make help` lists them. Every target does its own set-up: python3 (3.11 or
# newer) with venv is all that must be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The tests of the trainer that have run on a GPU.
ON_GPU := acceptance acceptance_rounds asking consolidating erasing round screening

.PHONY: help setup demo up test test-slow test-cuda test-image test-cluster test-alerts check image bench bench-swap \
  bench-learn soak format protos dashboards clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make the virtualenv and install everything, pinned

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "learnback needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing learnback and its dependencies into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[all]'
	@touch $(READY)

demo: setup ## Watch the embedded model learn from eight critiques (about two minutes)
	@$(BIN)/learnback demo --fresh

up: setup ## Serve and teach the embedded model on 127.0.0.1:50051 until Ctrl-C
	@$(BIN)/learnback up --state .state

test: setup ## Run the tests, but for those that take minutes
	@$(BIN)/python -m pytest -q -m 'not slow' --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup ## Run the tests of training, and of killed servers, that take minutes
	@$(BIN)/python -m pytest -q -m slow tests/trainer tests/stack

test-cuda: setup ## Run the engine and the trainer on a GPU (needs one, and torch's CUDA build)
	@$(BIN)/python -m pytest -q --device cuda -m 'not slow' tests/cuda $(ON_GPU:%=tests/trainer/test_%.py)

test-image: setup ## Build the images with buildah, and run them (needs buildah and bubblewrap)
	@$(BIN)/python -m pytest -q -m slow tests/image

test-cluster: setup ## Shake three servers and three Redis under load (some minutes)
	@$(BIN)/python -m pytest -q -m slow tests/cluster

test-alerts: setup ## Break a deployment in every way that an alert is for (needs prometheus)
	@$(BIN)/python -m pytest -q -m slow tests/rules

check: setup ## Check format, lint, types, floors and the contract
	@PATH="$(abspath $(BIN)):$$PATH" scripts/check

image: ## Build the images with docker, podman or buildah (scripts/image tells what can be set)
	@scripts/image

bench: setup ## Measure serving against transformers (takes some minutes)
	@$(BIN)/python -m bench.serve

bench-swap: setup ## Measure what a swap costs those who are being answered (takes some minutes)
	@$(BIN)/python -m bench.swap

bench-learn: setup ## Measure learning through a served model, and write the report
	@$(BIN)/python -m bench.learn --page docs/learning-report.md

soak: setup ## Restart servers, fail Redis over and swap under load for five minutes
	@$(BIN)/python -m bench.soak

format: setup ## Format the code
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

protos: setup ## Generate the code of the contract anew
	@PATH="$(abspath $(BIN)):$$PATH" scripts/generate-protos

dashboards: setup ## Make the table of metrics and the dashboards anew
	@$(BIN)/python -m dashboards

clean: ## Remove the virtualenv and all caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
