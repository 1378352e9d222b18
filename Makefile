# Everything a developer runs; `make` alone lists it. Options for pytest: make test PYTEST_ARGS="-k config -x"
.DEFAULT_GOAL := help

# The environments and the demo model are shared by all checkouts of this machine.
ifeq ($(shell id -u),0)
  DEFAULT_CACHE := /var/cache/polaris
else
  DEFAULT_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/polaris
endif
export POLARIS_CACHE := $(abspath $(or $(POLARIS_CACHE),$(DEFAULT_CACHE)))

# Used only where pip's own configuration offers no CPU build of torch.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
export POLARIS_TORCH_INDEX := $(or $(POLARIS_TORCH_INDEX),$(TORCH_INDEX))

# Real books and benchmarks for tests; without them those tests skip and say so.
SHARED := $(or $(POLARIS_SHARED),$(abspath $(wildcard ../shared)))
ifneq ($(SHARED),)
  export POLARIS_SHARED := $(SHARED)
endif

PY := .venv/bin/python
POLARIS := .venv/bin/polaris
DEMO := examples/demo/demo.yaml
MODEL := $(POLARIS_CACHE)/models/smollm2-135m-instruct
export POLARIS_DEMO_MODEL := $(MODEL)
IMAGES := tools serve train
PYTEST := PYTHONPATH=tests $(PY) -m pytest -p group_times $(PYTEST_ARGS)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: model ## train, write, judge and report on this machine, from nothing to a page
	@$(POLARIS) run $(DEMO)

.PHONY: status
status: setup ## how far the demo is
	@$(POLARIS) status $(DEMO)

.PHONY: test
test: tools model cluster-tools ## every test that needs neither a cluster nor a GPU
	@$(PYTEST) -m "not cluster and not gpu and not acceptance"

.PHONY: test-cluster
test-cluster: tools model cluster-tools ## the tests on Kubernetes: KUBECONFIG's, else one started here
	@$(PYTEST) -m cluster

.PHONY: acceptance
acceptance: tools model cluster-tools ## the issues' cases at their full count; rewrites docs/measured.md
	@POLARIS_MEASURE=1 $(PYTEST) -m "acceptance or cluster"

.PHONY: lint
lint: tools ## ruff and mypy, changing nothing
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@MYPYPATH=benchmarks $(PY) -m mypy benchmarks
	@MYPYPATH=scripts $(PY) -m mypy scripts/environment.py scripts/demo_model.py scripts/cluster_tools.py

.PHONY: format
format: tools ## let ruff mend and format the code
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

.PHONY: lock
lock: tools ## resolve requirements/*.in into *.txt (UPGRADE=1: to the newest releases)
	@sh scripts/lock.sh

.PHONY: setup
setup: ## make or update .venv
	@sh scripts/setup.sh

.PHONY: tools
tools: ## the same, with what tests and checks need
	@sh scripts/setup.sh --tools

.PHONY: model
model: setup ## fetch and convert the demo's small language model
	@$(PY) scripts/demo_model.py $(MODEL)
	@mkdir -p .polaris && ln -sfn $(MODEL) .polaris/model

.PHONY: cluster-tools
cluster-tools: setup ## fetch helm, kubectl and what checks charts, images and manifests
	@$(PY) scripts/cluster_tools.py

.PHONY: chart
chart: setup ## write the chart's values.schema.json and its README's table of values
	@$(PY) scripts/chart.py docs

.PHONY: jobs
jobs: cluster-tools ## render jobs/*.yaml from the chart (VALUES=file OUT=folder: another profile)
	@$(PY) scripts/chart.py jobs $(or $(OUT),jobs) $(VALUES)

.PHONY: images
images: ## build the images for GPU clusters (IMAGES="tools serve train"; PUSH=1 pushes to REGISTRY)
	@sh scripts/images.sh $(if $(PUSH),--push) $(IMAGES)

.PHONY: images-cpu
images-cpu: ## build the images for kind and CI: every stage on a CPU (PUSH=1 as above)
	@sh scripts/images.sh $(if $(PUSH),--push) tools cpu

.PHONY: kind
kind: cluster-tools images-cpu ## a kind cluster on this machine's Docker with the try-out run in it
	@sh k8s/kind.sh

.PHONY: prune
prune: ## remove cached environments and tools that the lock files no longer name
	@sh scripts/setup.sh --prune
	@$(PY) scripts/cluster_tools.py --prune

.PHONY: clean
clean: ## remove what this checkout made: .venv, runs, tool caches (the shared cache stays)
	rm -rf .venv .polaris build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
