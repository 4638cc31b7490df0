# Coopery: the two commands are `make demo` and `make test`. Both install what they need (as root, on Debian or Ubuntu) and say what they do.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export COOPERY_CACHE ?= $(HOME)/.cache/coopery
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)
ifdef CI
# A clean clone keeps compiled dependencies of earlier runs; on a developer's machine `target` stays in the checkout.
export CARGO_TARGET_DIR ?= $(COOPERY_CACHE)/target
endif
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
export COOPERY_TARGET := $(TARGET)

# Static binaries: they run in images without a libc.
TRIPLE := $(shell uname -m)-unknown-linux-gnu
RELEASE := $(TARGET)/$(TRIPLE)/release
export COOPERY_RELEASE := $(RELEASE)

help: ## This list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

prerequisites: ## Install what building and testing need: Debian packages, Go and Rust where they are absent
	./tests/cluster/prerequisites

cluster: prerequisites ## Build the programs of the embedded cluster from their Go modules
	./tests/cluster/build cluster

judges: prerequisites ## Build other clients and registries, which tests show the result of a mirror to
	./tests/cluster/build judges

peers: prerequisites ## Build the programs that benchmarks and differential tests compare with
	./tests/cluster/build peers

build: prerequisites ## Release binaries: coopery and coopery-operator, static
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(TRIPLE) -p builder -p operator

image: build cluster ## Images of operator, builder and registry, made by our own engine
	./builder-image/build-images

generate: ## Generated files: CRDs, the chart's copies, RBAC, reasons
	cargo run --locked -q -p crds --bin crdgen
	cp crds/imagebuilds.yaml crds/imagemirrors.yaml crds/registries.yaml charts/coopery/files/crds/
	cp operator/rbac.yaml charts/coopery/files/rbac.yaml
	cargo run --locked -q -p operator --bin coopery-operator -- reasons > $(TARGET)/reasons.md
	mv $(TARGET)/reasons.md docs/reasons.md

generate-check: generate ## Fail where a generated file is stale
	@git diff --exit-code --stat -- crds charts docs || { echo "generated files are stale: run 'make generate' and commit"; exit 1; }

lint: prerequisites ## Formatting, lints, licences
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --version 0.20.2
	cargo deny --log-level error check bans licenses sources

audit: ## Advisories; needs a network that reaches the advisory database
	cargo deny check advisories

check-each: ## Each crate compiles alone
	for manifest in $$(git ls-files '*/Cargo.toml'); do cargo check --locked -q --manifest-path "$$manifest"; done

test: lint generate-check test-unit test-api test-e2e ## Everything below; as root on Debian or Ubuntu

test-unit: prerequisites ## Tables, snapshots, in-memory registry, mock API server, engine (RUN needs root)
	cargo test --locked --workspace --exclude tests
	cargo test --locked -p tests --lib --test architecture --test corpus

test-api: cluster judges ## Real API server: tables of valid and invalid objects; real registries and clients; the cluster itself
	cargo test --locked -p tests --test cluster_lifecycle --test crd_validation --test chart_templates --test registry_transport --test mirror_judges -- --nocapture --test-threads=1

test-e2e: image ## The main job on the embedded cluster
	cargo test --locked -p tests --test conformance every_way_to_build -- --nocapture
	cargo test --locked -p tests --test e2e --test chart_lifecycle --test demo --test crash_safety --test memory --test registry_cache --test cluster_pull --test operator_scale -- --nocapture --test-threads=6

test-soak: image ## What `make test` runs at a tenth, in full
	COOPERY_SOAK=1 cargo test --locked -p tests --test e2e --test crash_safety --test memory --test operator_scale -- --nocapture --test-threads=6

test-conformance: build peers ## The engine against BuildKit, case by case; as root
	cargo test --locked -p tests --test conformance -- --nocapture

FUZZ_SECONDS ?= 120
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard tests/fuzz/fuzz_targets/*.rs)))
fuzz: prerequisites ## Fuzz every target for FUZZ_SECONDS, or FUZZ_TARGETS='tar ignore'; what is found goes to tests/fuzz/artifacts
	./tests/fuzz/run $(FUZZ_SECONDS) $(FUZZ_TARGETS)

bench: build cluster judges peers ## Side by side with the peers, into docs/benchmarks.md; WORKLOAD=… RUNS=… for a part
	@command -v buildah >/dev/null || apt-get install -y --no-install-recommends buildah
	cargo run --locked -q -p tests --bin bench -- $(if $(WORKLOAD),--workload '$(WORKLOAD)') $(if $(RUNS),--runs '$(RUNS)')

demo: image ## The main job on an embedded cluster, or CONTEXT=… IMAGE_PREFIX=… on an existing one
	cargo run --locked -q -p tests --bin demo -- $(if $(CONTEXT),--context '$(CONTEXT)') $(if $(IMAGE_PREFIX),--image-prefix '$(IMAGE_PREFIX)') $(if $(DEMO_BASE),--base '$(DEMO_BASE)') $(if $(VALUES),--values '$(VALUES)')

demo-down: ## Remove everything that `make demo` made
	cargo run --locked -q -p tests --bin demo -- --down $(if $(CONTEXT),--context '$(CONTEXT)' --image-prefix unused)

.PHONY: help prerequisites cluster judges peers build image generate generate-check lint audit check-each test test-unit test-api test-e2e test-soak test-conformance fuzz bench demo demo-down
