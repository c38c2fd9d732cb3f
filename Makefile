# Everything a person does with this project. `make` prints this list; `make test` and `make demo` install what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(CURDIR)/.local/bin:$(PATH)

.PHONY: help demo demo-down test check unit integration soak upgrade end-to-end browser bench cluster cluster-down images crd golden

help: ## print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: ## a cluster, the images, the operator, a pipeline: live prices on http://localhost:8080
	@e2e/demo up

demo-down: ## remove the demo and its cluster
	@e2e/demo down

test: ## every test: static checks, unit, integration on real servers, end to end on three nodes, browser
	@e2e/test

check: ## format, lints, dependencies, and that generated files are current
	@e2e/check

unit: ## tests that need no server: unit, golden, property
	cargo test --workspace --locked

integration: ## tests against a real RabbitMQ, mongod and kube-apiserver on loopback
	@e2e/integration

soak: ## a quarter of an hour of kills, stops and cuts under load, then the count; CHAOS_MINUTES says how long
	@e2e/soak

upgrade: ## the operator of the previous release replaced by this one while events flow, and put back
	@e2e/upgrade

end-to-end: ## tests against the three-node cluster
	@e2e/end-to-end

browser: ## the page in a headless Chromium, against the demo
	@e2e/browser/run

bench: ## our programs beside PerfTest, Go, Node.js and Python ones, and the operator by itself; writes docs/benchmarks.md (an hour)
	@e2e/bench/run
	@e2e/bench/operator

cluster: ## three Kubernetes nodes: kind where there is Docker, else on this machine; kubeconfig in .local/kubeconfig
	@e2e/cluster/up

cluster-down: ## remove the cluster and all it left
	@e2e/cluster/down

images: ## build the images of operator and workloads and print their compressed sizes
	@e2e/images/build-project

crd: ## write crds/ and the chart's copy anew from the Rust types
	cargo run --quiet --locked --package stockpipeline-operator -- crd > .crd.new && mv .crd.new crds/stockpipelines.yaml && cp crds/stockpipelines.yaml charts/stockpipeline/files/stockpipelines.yaml

golden: ## accept what the golden tests build now; read the diff before you commit it
	INSTA_UPDATE=always cargo test --locked --package stockpipeline-operator --test golden
