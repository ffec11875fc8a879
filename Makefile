# `make demo` and `make test` do everything; both install what they need or say what is missing.

CARGO ?= cargo
PORT ?= 19092
SCRIPT ?=
CYCLES ?= 200
SWAPS ?= 1000
SCHEDULES ?= 20000
SEED ?=
ONLY ?=
MISTAKE ?=
AGAINST ?=

TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST := $(TARGET)/release/switchboard
PLUGIN := $(TARGET)/wasm32-wasip2/release/messenger.wasm
# Further releases of the messenger, for the demo's `swap`.
EXAMPLES := $(TARGET)/wasm32-wasip2/guests/examples

# The system's OpenSSL where there is one to link with; else one is built from source (1.5 minutes more on two cores).
FEATURES := $(shell pkg-config --exists openssl 2>/dev/null || echo --features vendored-openssl)
export CARGO FEATURES
comma := ,

.PHONY: help build demo test check lint docs bench model simulate chaos swap-soak kafka clean rust java bins

help:
	@echo 'make demo    the messenger on an embedded broker: a scripted evening, then your turn (SCRIPT=file plays that)'
	@echo 'make test    all tests, on a real Apache Kafka'
	@echo 'make check   the fast tier: formatting, lints, unit tests; no Java, no WebAssembly'
	@echo 'make lint    formatting, lints, documentation of the code, dependencies'
	@echo 'make docs    the book, as HTML in $(TARGET)/book; checks its links and commands'
	@echo 'make build   $(HOST) and $(PLUGIN)'
	@echo 'make bench   throughput, latency and more on a real broker (ONLY=latency: that part alone; AGAINST=path: compares with another binary)'
	@echo 'make model   the rules of processing exactly once, in all states of a small cluster (MISTAKE=open-at-once: the steps to its violation)'
	@echo 'make simulate  the worker on a simulated Kafka, a schedule of faults for each seed (SCHEDULES=100000 SEED=0; TRACE=1 prints each call)'
	@echo 'make chaos   faults on a real Kafka, and whether every input was settled exactly once (CYCLES=200 SEED=7)'
	@echo 'make swap-soak  random changes of releases under load, and whether each message was handled once, by the right release (SWAPS=1000 SEED=7; FRESH=1: new artifacts)'
	@echo 'make kafka   a real broker in the foreground (PORT=19092)'

rust:
	@tools/require rust

java:
	@tools/require java

build: rust
	@tools/build 'the plugin (1 of 2)' --release --target wasm32-wasip2 -p messenger
	@tools/build 'the host (2 of 2): about 6 minutes on two cores the first time$(if $(FEATURES),$(comma) OpenSSL included)' --release -p switchboard $(FEATURES)
	@tools/split-debug $(HOST)

demo: build
	@tools/build 'further releases of the plugin' --profile guests --target wasm32-wasip2 -p releases --example messenger_2 --example messenger_back
	@echo
	@$(HOST) demo $(PLUGIN) plugin/messenger/demo.toml --release $(EXAMPLES)/messenger_2.wasm \
	  --release $(EXAMPLES)/messenger_back.wasm $(if $(SCRIPT),--script $(SCRIPT))

test: rust java
	@tools/test

check:
	@tools/require check
	$(CARGO) fmt --all --check
	@tools/check-files
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings
	$(CARGO) test --quiet -p switchboard-core -p switchboard-sdk -p messenger -p counter -p switchboard-checkpoint -p switchboard-lookup \
	  -p switchboard-kafka -p switchboard-releases -p switchboard --lib --bins --tests $(FEATURES)

lint: rust
	$(CARGO) fmt --all --check
	@tools/check-files
	$(CARGO) clippy --release --workspace --all-targets --features switchboard-mutants/mutations $(FEATURES) -- -D warnings
	$(CARGO) clippy --release --target wasm32-wasip2 -p messenger -p counter -p hostile -p ledger -- -D warnings
	$(CARGO) clippy --profile guests --target wasm32-wasip2 -p releases --examples -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --workspace --no-deps --features switchboard-mutants/mutations $(FEATURES)
	@tools/deny

docs: rust
	$(CARGO) test --release -p switchboard --test docs $(FEATURES)
	@tools/book

# All binaries, in the selection of packages that the tests use.
bins: rust
	$(CARGO) build --release --target wasm32-wasip2 -p messenger -p hostile -p ledger
	$(CARGO) test --no-run --release --workspace $(FEATURES)

bench: bins java
	@tests/kafka/fetch-jars
	@$(TARGET)/release/bench $(ONLY) $(if $(AGAINST),--against '$(AGAINST)')
ifeq ($(ONLY)$(AGAINST),)
	@echo; echo 'The sandbox by itself, with the messenger:'
	@$(CARGO) run --quiet --release -p switchboard-sandbox --example sandbox -- $(PLUGIN) COMMAND_TOPIC_MESSENGER '{"actorId":2,"type":"CREATE"}'
endif

chaos: bins java
	@tests/kafka/fetch-jars
	@$(TARGET)/release/chaos --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

swap-soak: bins java
	@tests/kafka/fetch-jars
	@$(TARGET)/release/swap-soak --swaps $(SWAPS) $(if $(SEED),--seed $(SEED)) $(if $(FRESH),--fresh)

model: rust
	$(CARGO) build --release -p switchboard-model
	@$(TARGET)/release/switchboard-model $(if $(MISTAKE),--mistake $(MISTAKE),--large)

simulate: rust
	$(CARGO) build --release -p switchboard-simulation
	@$(TARGET)/release/simulate --schedules $(SCHEDULES) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace)

kafka: rust java
	@tests/kafka/fetch-jars
	$(CARGO) build --release -p switchboard-tests --bin kafka --bin say $(FEATURES)
	@$(TARGET)/release/kafka --port $(PORT)

clean:
	$(CARGO) clean
