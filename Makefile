# `make demo` and `make test` do everything; both install what they need or say what is missing.

CARGO ?= cargo
PORT ?= 19092
SCRIPT ?=
CYCLES ?= 200
SWAPS ?= 1000
SCHEDULES ?= 20000
SEED ?=
ONLY ?=

TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST := $(TARGET)/release/switchboard
PLUGIN := $(TARGET)/wasm32-wasip2/release/messenger.wasm
# Further releases of it, for the demo's `swap`.
EXAMPLES := $(TARGET)/wasm32-wasip2/guests/examples

# The system's OpenSSL where there is one to link with; else one is built from source (1.5 minutes more on two cores).
FEATURES := $(shell pkg-config --exists openssl 2>/dev/null || echo --features vendored-openssl)

.PHONY: help build demo test lint bench simulate chaos swap-soak kafka clean rust java

help:
	@echo 'make demo    the messenger on an embedded broker: a scripted evening, then your turn (SCRIPT=file plays that)'
	@echo 'make test    all tests, on a real Apache Kafka'
	@echo 'make build   $(HOST) and $(PLUGIN)'
	@echo 'make bench   throughput, latency and more on a real broker (ONLY=latency: that part alone)'
	@echo 'make simulate  the worker on a simulated Kafka, a schedule of faults a seed (SCHEDULES=100000 SEED=0; TRACE=1 tells each call)'
	@echo 'make chaos   faults on a real Kafka, and whether every input was settled exactly once (CYCLES=200 SEED=7)'
	@echo 'make swap-soak  releases swapped at random under load, and whether each message was handled once, by its release (SWAPS=1000 SEED=7; FRESH=1: new artifacts)'
	@echo 'make kafka   a real broker in the foreground (PORT=19092)'
	@echo 'make lint    formatting and lints'

rust:
	@tools/require rust

java:
	@tools/require java

build: rust
	@[ -x $(HOST) ] || echo 'Building from source: about 5 minutes on two cores the first time$(if $(FEATURES), and 2 more for OpenSSL).'
	$(CARGO) build --release --target wasm32-wasip2 -p messenger
	$(CARGO) build --release -p switchboard $(FEATURES)

demo: build
	@$(CARGO) build --quiet --profile guests --target wasm32-wasip2 -p releases --example messenger_2 --example messenger_back
	@echo
	@$(HOST) demo $(PLUGIN) plugin/messenger/demo.toml --release $(EXAMPLES)/messenger_2.wasm \
	  --release $(EXAMPLES)/messenger_back.wasm $(if $(SCRIPT),--script $(SCRIPT))

test: rust java
	@FEATURES='$(FEATURES)' CARGO='$(CARGO)' tools/test

lint: rust
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --release --target wasm32-wasip2 -p messenger -p hostile -p ledger -- -D warnings
	$(CARGO) clippy --profile guests --target wasm32-wasip2 -p releases --examples -- -D warnings

bench: rust java
	@tests/kafka/fetch-jars
	$(CARGO) build --release --target wasm32-wasip2 -p messenger -p hostile -p ledger
	$(CARGO) build --release -p switchboard $(FEATURES)
	$(CARGO) build --release -p switchboard-tests $(FEATURES)
	@$(TARGET)/release/bench $(ONLY)
ifeq ($(ONLY),)
	@echo; echo 'The sandbox by itself, with the messenger:'
	@$(CARGO) run --quiet --release -p switchboard $(FEATURES) --example sandbox -- $(PLUGIN) COMMAND_TOPIC_MESSENGER '{"actorId":2,"type":"CREATE"}'
endif

chaos: rust java
	@tests/kafka/fetch-jars
	$(CARGO) build --release --target wasm32-wasip2 -p messenger -p hostile -p ledger
	$(CARGO) build --release -p switchboard $(FEATURES)
	$(CARGO) build --release -p switchboard-tests $(FEATURES)
	@$(TARGET)/release/chaos --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

swap-soak: rust java
	@tests/kafka/fetch-jars
	$(CARGO) build --release --target wasm32-wasip2 -p ledger
	$(CARGO) build --release -p switchboard $(FEATURES)
	$(CARGO) build --release -p switchboard-tests $(FEATURES)
	@$(TARGET)/release/swap-soak --swaps $(SWAPS) $(if $(SEED),--seed $(SEED)) $(if $(FRESH),--fresh)

simulate: rust
	$(CARGO) build --release -p switchboard-simulation
	@$(TARGET)/release/simulate --schedules $(SCHEDULES) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace)

kafka: rust java
	@tests/kafka/fetch-jars
	$(CARGO) build --release -p switchboard-tests --bin kafka --bin say $(FEATURES)
	@$(TARGET)/release/kafka --port $(PORT)

clean:
	$(CARGO) clean
