# Aether's commands. `make demo` and `make test` need nothing before them but
# Debian 12 or later and Rust; what is missing is installed by scripts/deps.sh.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST_TRIPLE := x86_64-unknown-linux-gnu
GUEST := $(abspath $(TARGET))/$(HOST_TRIPLE)/guest/aether-guest
DEMO := $(abspath $(TARGET))/demo
RELEASE := $(abspath $(TARGET))/release/aether
export AETHER_GUEST_BIN := $(GUEST)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## install what building and running need
	@scripts/deps.sh build run

.PHONY: build-deps
build-deps:
	@scripts/deps.sh build

.PHONY: guest
guest: build-deps ## the static first process of a sandbox
	@cargo build -q -p aether-guest --profile guest --target $(HOST_TRIPLE) \
	  --config 'target.$(HOST_TRIPLE).rustflags=["-C","target-feature=+crt-static"]'
	@size=$$(stat -c %s $(GUEST)); echo "guest: $$size bytes"; [ $$size -lt 4194304 ]

.PHONY: build
build: deps guest ## the one binary, for development
	cargo build -p aether

.PHONY: release
release: deps guest ## the one binary, for use: target/release/aether
	cargo build --release -p aether

.PHONY: demo
demo: build ## the tour in a real microVM, timed, and nothing left behind
	@scripts/deps.sh build run test
	@scripts/demo-image.sh $(DEMO)
	@AETHER=$(abspath $(TARGET))/debug/aether DEMO=$(DEMO) scripts/demo.sh

.PHONY: fmt
fmt: ## format
	cargo fmt --all

.PHONY: lint
lint: guest ## formatting and lints, as CI runs them
	cargo fmt --all --check
	@for p in tests/planted/*.patch; do patch -s -p1 --dry-run < $$p > /dev/null || { echo "$$p does not apply"; exit 1; }; done
	cargo clippy --workspace --all-targets -q -- -D warnings

.PHONY: test-deps
test-deps:
	@scripts/deps.sh build run test

.PHONY: unit
unit: test-deps guest ## unit, property and service tests, crate by crate
	cargo test --workspace --exclude aether-e2e --no-fail-fast

.PHONY: e2e-deps
e2e-deps: test-deps guest
	cargo build -p aether
	scripts/demo-image.sh $(DEMO)

.PHONY: e2e
e2e: e2e-deps ## end to end, in real microVMs, against the built binary
	AETHER_BIN=$(abspath $(TARGET))/debug/aether AETHER_DEMO=$(DEMO) \
	  cargo test -p aether-e2e -- --test-threads=2

.PHONY: test
test: test-deps lint unit e2e demo ## everything, the tour of `make demo` too

.PHONY: leaks
leaks: test-deps release ## the long leak proof: 200 rounds and 50 at once (about 20 minutes); results/leaks.jsonl
	scripts/demo-image.sh $(DEMO)
	AETHER_BIN=$(RELEASE) AETHER_DEMO=$(DEMO) AETHER_RESULTS=$(abspath results) AETHER_ROUNDS=200 AETHER_BURST=50 \
	  cargo test -p aether-e2e -- --test-threads=1 --nocapture leaks

.PHONY: rounds
rounds: test-deps release ## 1,000 rounds of create, exec and destroy, four at once: no growth (about 40 minutes); results/growth.jsonl
	AETHER_BIN=$(RELEASE) AETHER_GROWTH_ROUNDS=1000 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-e2e --test it -- --nocapture growth::growth_rounds

.PHONY: adoption
adoption: test-deps guest ## 100 kills of a node with 20 guests and their execs, 200 pids come round (about 40 minutes); results/adoption.jsonl
	AETHER_KILLS=100 AETHER_ADOPTED=20 AETHER_RECYCLED=2 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-node --test it -- --nocapture runtime::adoption

.PHONY: ttl
ttl: test-deps guest ## 100 times to live with no control plane, killed nodes and a clock that jumps (about 15 minutes); results/ttl.jsonl
	AETHER_TTLS=100 AETHER_RESULTS=$(abspath results) cargo test -p aether-node --test it -- --nocapture runtime::ttl

.PHONY: orphans
orphans: test-deps guest ## 1,000 orphans of ten kinds planted among living sandboxes (about 4 minutes); results/orphans.jsonl
	AETHER_ORPHANS=1000 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-node --test it -- --nocapture runtime::orphans

.PHONY: failpoints
failpoints: test-deps guest ## every failpoint with every fault (about 20 minutes); results/failpoints.jsonl
	AETHER_ALL_FAILPOINTS=1 AETHER_LANES=2 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-node --test it -- --nocapture runtime::failpoints

.PHONY: sagas
sagas: test-deps guest ## every step and every undo twice, a failure at every step (about 20 minutes); results/sagas.jsonl
	AETHER_ALL_SAGAS=1 AETHER_LANES=2 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-node --test it -- --nocapture runtime::sagas

.PHONY: hostile-images
hostile-images: test-deps guest ## hostile archives, manifests and registries (a minute); results/hostile_images.jsonl
	AETHER_RESULTS=$(abspath results) cargo test -p aether-node --test it -- --nocapture images::hostile

.PHONY: idempotency
idempotency: test-deps ## 10,000 idempotency keys on every route and both stores (about 10 minutes); results/idempotency.jsonl
	for run in 1 2 3 4; do AETHER_KEYS=2500 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-control --test it -- --nocapture idempotency:: || exit 1; done
	AETHER_STORE_KEYS=10000 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-store --test it -- --nocapture --test-threads=1 keyed::

.PHONY: audit
audit: test-deps ## 1,000 tampered audit logs and the speed of the verifier (a minute); results/audit.jsonl
	AETHER_TAMPERS=1000 AETHER_VERIFIED=200000 AETHER_RESULTS=$(abspath results) \
	  cargo test --release -p aether-core -- --nocapture audit::tamper_tests

.PHONY: quotas
quotas: test-deps ## a quota of 50 under 200 at once, 100 rounds, and 10,000 operations without drift, with budgets too, on both stores; results/quota.jsonl, budgets.jsonl
	AETHER_QUOTA_ROUNDS=100 AETHER_QUOTA_OPS=10000 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-store --test it -- --nocapture quotas:: budgets::
	AETHER_QUOTA_ROUNDS=100 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether --test it -- --nocapture three_servers::

.PHONY: matrix
matrix: test-deps ## Every operation by every role, forged keys and tokens, 100 rotations, 2,000 revocations (some minutes); results/matrix.jsonl
	AETHER_REVOCATIONS=1000 AETHER_RESULTS=$(abspath results) cargo test -p aether-control --test it -- --nocapture matrix::

.PHONY: canaries
canaries: e2e-deps ## canary secrets by every path, looked for in every sink (a minute); results/secrets.jsonl
	AETHER_BIN=$(abspath $(TARGET))/debug/aether AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-e2e --test it -- --nocapture secrets::canaries

.PHONY: fuzz-api
fuzz-api: test-deps ## requests that schemathesis makes of the OpenAPI document, as eight kinds of caller (about 7 minutes); results/api_fuzz.jsonl
	AETHER_FUZZ_API_SECONDS=40 AETHER_RESULTS=$(abspath results) cargo test -p aether-control --test it -- --nocapture fuzz_api

.PHONY: http-abuse
http-abuse: test-deps ## 10,000 hostile requests and 5,000 connections, an honest client beside them (about 5 minutes); results/http.jsonl
	AETHER_ABUSE_REQUESTS=10000 AETHER_ABUSE_CONNECTIONS=5000 AETHER_RESULTS=$(abspath results) \
	  cargo test --release -p aether-control --test it -- --nocapture abuse

.PHONY: faults
faults: e2e-deps ## 500 windows of failing writes under the store (5 minutes), 500 under the whole server (about 35 minutes), a full disk, a clock that leaps, memory that runs out; results/faults.jsonl
	AETHER_FAULTS_N=500 AETHER_RESULTS=$(abspath results) \
	  cargo test -p aether-store --test it -- --nocapture faults::
	AETHER_BIN=$(abspath $(TARGET))/debug/aether AETHER_DEMO=$(DEMO) AETHER_RESULTS=$(abspath results) AETHER_FAULTS_N=500 \
	  cargo test -p aether-e2e -- --nocapture machine:: full_disk:: clock:: memory::

.PHONY: fuzz
fuzz: test-deps guest ## fuzz targets under libFuzzer, a minute each (AETHER_FUZZ_SECONDS, FUZZ="dns layers": those alone); results/fuzz.jsonl
	scripts/fuzz.sh $(FUZZ)

.PHONY: coverage
coverage: test-deps guest ## lines that unit and integration tests reach (E2E=1: and those in real guests); results/coverage.json
	scripts/coverage.sh

.PHONY: neighbours
neighbours: test-deps release ## ten attacks of a guest, ten boots of its neighbour beside each (about 40 minutes); results/neighbours.jsonl
	scripts/demo-image.sh $(DEMO)
	AETHER_RESULTS=$(abspath results) cargo test -p aether-node --test it -- --nocapture channel::lies
	AETHER_BIN=$(RELEASE) AETHER_DEMO=$(DEMO) AETHER_RESULTS=$(abspath results) AETHER_ROUNDS=10 \
	  cargo test -p aether-e2e -- --nocapture neighbours

.PHONY: planted
planted: test-deps guest ## bugs planted into a copy, each of which a test must see (PLANTED="27-layer": those alone)
	scripts/planted.sh $(PLANTED)

.PHONY: bench
bench: test-deps release ## ours beside peers and bare baselines; results/bench.json (ROWS="5 7": those alone)
	scripts/demo-image.sh $(DEMO)
	cargo build --release -q -p aether-bench
	AETHER_BIN=$(RELEASE) AETHER_DEMO=$(DEMO) $(abspath $(TARGET))/release/aether-bench $(ROWS)

.PHONY: reliability
reliability: ## renew the table of docs/reliability.md from results/
	scripts/reliability.sh

.PHONY: openapi
openapi: ## renew docs/openapi.json from the routes
	UPDATE_OPENAPI=1 cargo test -p aether-control openapi
