# Every entry point; `make help` lists them. Each does its own set-up: see scripts/setup.
SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/target/tools:$(CURDIR)/target/tools/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin
SCALE ?=
SIZES ?= 1000,10000
ifeq ($(SCALE),big)
SIZES := $(SIZES),50000
endif
CARGO_DENY_VERSION := 0.20.2
SCRIPTS := $(shell grep -rlE '^\#!.*\b(bash|sh)$$' scripts tests benches .ci 2>/dev/null) $(wildcard scripts/*/*.sh)

.PHONY: help demo test fuzz check lab cluster cluster-down bench conformance kind image manifests

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## Services and DNS shown at work on this machine: no root, no cluster (DIR=folder for your own manifests, ARGS=--shell)
	@scripts/setup cargo cc
	cargo build --bin waypost
	@cargo run --quiet --bin waypost -- demo $(ARGS) $(DIR)

test: ## Every test, the fast and pure ones first
	@scripts/setup cargo cc go nft ip dig curl jq conntrack promtool buildah runc nsenter tar setpriv musl-gcc node getent unbound
	cargo test --lib
	cargo test --test docs --test purity
	scripts/build-tools kind-config prometheus-kubernetes
	scripts/fetch-resolved
	scripts/cluster tools
	timeout --kill-after=30s 60m cargo test --no-fail-fast --test '*'

fuzz: ## Coverage-guided fuzzing, FUZZ_SECONDS (an hour unless told otherwise) for each target; what fails is left in target/fuzz (TARGETS="clusters names")
	@scripts/setup cargo cc c++
	nice -n 19 tests/fuzz/run $(TARGETS)

check: target/tools/bin/cargo-deny ## Format, lints, documents, licences, chart, alerts, scripts: all that needs no test run
	@scripts/setup cargo cc go promtool shellcheck
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	cargo deny --all-features check --hide-inclusion-graph licenses bans sources
	shellcheck $(SCRIPTS)
	scripts/build-tools helm
	helm lint --strict charts/waypost
	scripts/render-manifests --check
	promtool check rules --lint-fatal charts/waypost/files/alerts.yaml
	promtool test rules tests/alerts/rules.yaml

lab: ## A playground: a real control plane, the agent and pods as namespaces; prints the KUBECONFIG to export
	@scripts/setup cargo cc go nft ip
	scripts/build-tools control-plane kubectl helm
	scripts/lab

cluster: ## A real Kubernetes cluster in namespaces, with Waypost in it; prints the KUBECONFIG to export (NODES=1..6, WITH=waypost|stock|none)
	@scripts/cluster up

cluster-down: ## Ends the cluster and leaves nothing but its logs
	@scripts/cluster down

conformance: ## Kubernetes' own tests of services and DNS on a cluster of their own (FOCUS=regular expression of names); half an hour
	@scripts/conformance $(if $(FOCUS),"$(FOCUS)")

bench: ## Measured beside kube-proxy and CoreDNS: target/bench/report.md (ROW=name for one row, SCALE=big for 50,000 services, SIZES=100,1000)
	@scripts/setup cargo cc go nft dig knotd
	benches/run "$(SIZES)" $(ROW)

kind: ## A kind cluster without kube-proxy and CoreDNS, with Waypost in their place (needs kind, docker, kubectl, helm)
	@scripts/kind

image: ## The container image as an OCI archive: target/image/waypost.tar
	@scripts/setup cargo cc buildah jq tar
	scripts/image

manifests: ## manifests/waypost.yaml, rendered from the chart anew
	scripts/render-manifests

target/tools/bin/cargo-deny:
	@scripts/setup cargo cc
	cargo install --locked --root target/tools cargo-deny@$(CARGO_DENY_VERSION) --no-default-features
