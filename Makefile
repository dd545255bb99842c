# Every target says what it does after "##"; `make` alone lists them. CI runs these same targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
CORE_VENV ?= .venv-core
PEERS_VENV ?= .venv-peers
PYTEST_ARGS ?=
CONFIG ?= training/configs/edge-detector.yaml
OUT ?= results.json

INSTALL = pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
DEPENDS = pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-check test test-core lint check format train infer api openapi bench-edge bench-spool bench-models images images-check docs-pictures docs-index clean distclean

help: ## this list
	@echo "Automated Hematology System: research use only"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=$(PYTHON) makes the environment $(VENV)"

# An environment is made once, and again when what it is made from has changed.

$(VENV)/bin/python:
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.demo-installed: $(DEPENDS) | $(VENV)/bin/python
	$(VENV)/bin/python -m $(INSTALL) ".[demo]"
	@touch $@

$(VENV)/.all-installed: $(DEPENDS) | $(VENV)/bin/python
	$(VENV)/bin/python -m $(INSTALL) ".[test,training]"
	@touch $@ $(VENV)/.demo-installed

$(CORE_VENV)/.test-installed: $(DEPENDS)
	"$(PYTHON)" -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/python -m $(INSTALL) ".[test]"
	@touch $@

demo: export SOURCE := $(SOURCE)
demo: $(VENV)/.demo-installed ## broker, cloud and two agents here. ONCE=1 runs to an end, SOURCE=folder|video|URL|index, BAD=1 a bad model
	@$(VENV)/bin/python -m fleet local demo $(if $(ONCE),--once) $(if $(BAD),--bad) $${SOURCE:+--source "$$SOURCE"} $(DEMO_ARGS)

demo-check: $(VENV)/.demo-installed ## the demo to its end, three times: as it is, BAD=1, and SOURCE=a generated folder
	@mkdir -p build/demo
	$(VENV)/bin/python -m models.synthetic --fields 48 --out build/demo/pictures >build/demo/pictures.txt
	$(MAKE) demo ONCE=1
	$(MAKE) demo ONCE=1 BAD=1 DEMO_ARGS="--summary build/demo/bad.json"
	$(MAKE) demo ONCE=1 SOURCE=build/demo/pictures DEMO_ARGS="--summary build/demo/folder.json"

test: $(VENV)/.all-installed ## every test that can run here (installs the training extra); lists what could not
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-core: $(CORE_VENV)/.test-installed ## the tests that need no torch, in an environment without it
	@$(CORE_VENV)/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") and "torch is here: make distclean")'
	$(CORE_VENV)/bin/python -m pytest -m "not torch" $(PYTEST_ARGS)

lint: $(VENV)/.all-installed ## form, lint, types and the direction of imports
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy .
	$(VENV)/bin/lint-imports

check: lint ## what to run before a commit: lint and the quick tests
	$(VENV)/bin/python -m pytest -q -n 2 -m "not torch and not slow and not chromium and not mosquitto and not postgres and not data" tests/arch tests/contract tests/unit $(PYTEST_ARGS)

format: $(VENV)/.all-installed ## put the code into form
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

train: $(VENV)/.all-installed ## train a model: CONFIG=training/configs/edge-detector.yaml, data in AHS_DATA_DIR
	$(VENV)/bin/python -m training train --config "$(CONFIG)" $(TRAIN_ARGS)

infer: export IMAGES := $(IMAGES)
infer: export OUT := $(OUT)
infer: $(VENV)/.demo-installed ## read pictures: IMAGES=folder [OUT=results.json]
	@test -n "$$IMAGES" || { echo "say which pictures: make infer IMAGES=folder"; exit 2; }
	$(VENV)/bin/python -m edge_agent infer --images "$$IMAGES" --out "$$OUT" $(INFER_ARGS)

api: $(VENV)/.demo-installed ## the cloud in one process, web and worker (API_ARGS="--help" for its options)
	$(VENV)/bin/python -m cloud all $(API_ARGS)

openapi: $(VENV)/.demo-installed ## write docs/openapi.json
	$(VENV)/bin/python -m cloud openapi --out docs/openapi.json

bench-edge: $(VENV)/.demo-installed ## from a frame to a stored result against a bare loop; writes docs/benchmarks/edge.md
	$(VENV)/bin/python -m benchmarks.bench_edge --write docs/benchmarks/edge.md $(BENCH_ARGS)

$(PEERS_VENV)/.installed: benchmarks/peers/requirements.txt
	"$(PYTHON)" -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-spool: $(VENV)/.demo-installed ## the start with 50,000 rows waiting, and live fields while they drain; prints
	$(VENV)/bin/python -m benchmarks.bench_spool

bench-models: $(PEERS_VENV)/.installed ## our detector beside YOLO11n and Faster R-CNN, in an environment of their own; writes docs/benchmarks/models.md
	PYTHONPATH=. $(PEERS_VENV)/bin/python -m benchmarks.bench_models --write docs/benchmarks/models.md $(BENCH_ARGS)

images: ## the images of edge and cloud, by buildah, podman or docker: [BASE_IMAGE=] [IMAGE_TAG=] [PIP_CONF=]
	@docker/build.sh

images-check: export AHS_REQUIRE_ALL := 1
images-check: $(VENV)/.all-installed ## build and start the images, on a base made here (needs root, podman, debootstrap)
	$(VENV)/bin/python -m pytest -m podman tests/integration/images $(PYTEST_ARGS)

docs-pictures: $(VENV)/.demo-installed ## draw the pictures of generated slides in docs/pictures again
	$(VENV)/bin/python -m models.synthetic --out docs/pictures

docs-index: $(VENV)/.demo-installed ## list the decisions in docs/adr/README.md again
	$(VENV)/bin/python -m tests.arch.documents

clean: ## remove caches and the output of runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build demo-run demo-summary.json automated_hematology_system.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(CORE_VENV)
