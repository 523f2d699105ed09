# make help lists the targets. Everything is installed into .venv, nothing outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= data
WORKERS ?= 1
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt

# the tests start hundreds of processes: written bytecode halves what most of them compute
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit lint format generate tools locks images e2e bench bench-ba bench-engine bench-prior bench-motion clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@echo "installing DynamicVerse and its dependencies (torch is large: some minutes)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) -e '.[s3,cluster,dev]'
	@touch $@

setup: $(VENV)/dev  ## create .venv with everything for development

build/bikes.mp4: $(VENV)/core
	$(BIN)/python benchmarks/sample_clip.py $@

VIDEO ?= build/bikes.mp4
demo: $(VENV)/core $(if $(filter build/bikes.mp4,$(VIDEO)),build/bikes.mp4)  ## run the pipeline on a real clip; VIDEO=my.mp4 for your own
	$(BIN)/dynamicverse run "$(VIDEO)" --out "$(OUT)" --dataset demo --workers $(WORKERS)

test: setup build/bikes.mp4  ## all tests: unit, integration on real clips, S3, browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

test-unit: setup  ## the fast tests
	$(BIN)/python -m pytest tests/unit

lint: setup  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup  ## rewrite the code in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup  ## write what is generated: argo/stages, dashboards, rendered charts (tests fail when they drift)
	$(BIN)/python -m dynamicverse.cluster.render
	$(BIN)/python -m dynamicverse.telemetry.dashboards
	$(BIN)/python tests/charts.py

tools: setup  ## fetch helm, prometheus and promtool for the chart tests into build/tools (Debian)
	$(BIN)/python tests/get_tools.py

locks: setup  ## lock the dependencies of the images, with hashes
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		-c constraints.txt --custom-compile-command 'make locks' images/locks/core.in -o images/locks/core.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		-c constraints.txt -c images/locks/core.txt --custom-compile-command 'make locks' images/locks/torch.in -o images/locks/torch.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		-c images/locks/torch.txt --custom-compile-command 'make locks' images/locks/models.in -o images/locks/models.txt
	$(BIN)/python images/vllm-cpu/lock.py

IMAGES ?=
images: setup  ## build the images with podman or docker; IMAGES="--tag e2e --torch cpu-test" (images/build_images.py)
	$(BIN)/python images/build_images.py $(IMAGES)

E2E ?=
e2e: setup  ## end-to-end tests on the cluster of KUBECONFIG; E2E=options (docs/cluster.md)
	$(BIN)/python -m pytest tests/e2e -p no:cacheprovider -n 6 --dist loadfile --no-loadscope-reorder $(E2E) || [ $$? -eq 5 ]

bench: setup build/bikes.mp4  ## speed and memory of the embedded pipeline on this machine
	$(BIN)/python benchmarks/pipeline.py --clip build/bikes.mp4

bench-ba: setup  ## bundle adjustment against Ceres and Adam, and its growth; DEVICE=cuda on a GPU
	$(BIN)/python benchmarks/bundle_adjustment.py --device $(or $(DEVICE),cpu) --json build/bench-ba.json

bench-engine: setup  ## the whole engine on rendered clips with exact truth
	$(BIN)/python benchmarks/engine.py --out build/bench-engine

bench-prior: setup  ## the engine with a depth prior and 28,125 tracks; DEVICE=cuda on a GPU
	$(BIN)/python benchmarks/engine_prior.py --out build/bench-prior --device $(or $(DEVICE),cpu)

DATA ?= ../shared/data
bench-motion: setup  ## masks, tracks, and cameras with and without masks; DATA=folder of the real clips
	$(BIN)/python benchmarks/motion.py $(DATA) --out build/bench-motion
	$(BIN)/python benchmarks/composites.py $(DATA) --out build/bench-motion

clean:  ## remove what was built (not your data)
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
