# Entry points: `make demo` shows the program at work, `make test` runs every test.
# CARGO_TARGET_DIR is respected.

CARGO ?= cargo
SECONDS =
EVENTS =
TARGET =
SEED =
MODE =
SEEDS =
VARIANT =
GRAFANA =
BRIDGE_BIN =
# Bash uses SECONDS as its clock.
unexport SECONDS EVENTS TARGET SEED SEEDS MODE VARIANT GRAFANA BRIDGE_BIN

SCRIPTS = deploy/demo/deps.sh deploy/demo/demo.sh deploy/demo/grafana.sh tests/deploy.sh tests/sim/bugs.sh tests/words.sh .ci/run

.DEFAULT_GOAL := help
.PHONY: help demo test browser chaos simulate-faults simulate-bugs lint fuzz bench drain questions dashboards schema-docs deps

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps ## Start broker, database, bridge and simulated boards. SECONDS=20 [EVENTS=20000]: end and compare. GRAFANA=1: with dashboards
	@DEMO_GRAFANA='$(GRAFANA)' DEMO_SECONDS='$(SECONDS)' DEMO_EVENTS='$(EVENTS)' CARGO='$(CARGO)' bash deploy/demo/demo.sh

# The integration tests run last, so that the last count is theirs.
test: deps browser ## Run every test, against a private PostgreSQL, Mosquitto and Chromium
	$(CARGO) test --locked --doc
	$(CARGO) test --locked --test sim
	$(CARGO) test --locked --lib --bins --test it

chaos: deps ## Inject random faults under load. SECONDS=900 SEED=7 MODE=direct, spool or broker-kill
	CHAOS_SECONDS='$(or $(SECONDS),60)' CHAOS_SEED='$(SEED)' CHAOS_MODE='$(MODE)' \
	 $(CARGO) test --locked --test it chaos:: -- --nocapture --test-threads=8

# Without SEED each run has new schedules.
simulate-faults: ## Run the stages between a model broker and a model database. SECONDS=60 or SEEDS=10000, SEED=first
	SIM_SECONDS='$(or $(SECONDS),$(if $(SEEDS),86400,60))' SIM_SEEDS='$(SEEDS)' \
	 SIM_FIRST="$(or $(SEED),$$(date +%s)000)" \
	 $(CARGO) test --locked --test sim -- --nocapture

simulate-bugs: ## Reintroduce former bugs, one at a time, and verify that simulate-faults finds each
	@CARGO='$(CARGO)' bash tests/sim/bugs.sh

lint: deps ## Check formatting, clippy, scripts, shipped files and the words of comments and documents
	$(CARGO) fmt --all -- --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml -- --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@for script in $(SCRIPTS); do echo "bash -n $$script"; bash -n "$$script" || exit 1; done
	@if command -v shellcheck >/dev/null; then echo shellcheck; shellcheck $(SCRIPTS); \
	 else echo 'shellcheck is not installed: skipped'; fi
	@bash tests/deploy.sh
	@bash tests/words.sh
	@for bug in tests/sim/bugs/*.patch; do patch --dry-run --silent --fuzz=0 --strip 1 <"$$bug" || exit 1; done
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check; \
	 else echo 'cargo-deny is not installed: skipped (cargo install --locked cargo-deny)'; fi

# New inputs are added to fuzz/corpus, which is not committed. The seeds are its starting point.
FUZZ_TARGETS = $(sort $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))))

fuzz: ## Fuzz decoders, schemas and configuration, on nightly. SECONDS=30 for each of them, or for TARGET=json
	@$(CARGO) +nightly --version >/dev/null 2>&1 || \
	 { echo 'no nightly toolchain: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
	 { echo 'cargo-fuzz is not installed: cargo install --locked cargo-fuzz' >&2; exit 1; }
	@for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	 echo "fuzzing $$target for $(or $(SECONDS),30) s"; mkdir -p fuzz/corpus/$$target && \
	 $(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	 -max_total_time=$(or $(SECONDS),30) -timeout=10 -print_final_stats=1 || exit 1; done

# The baseline of the drain benchmark is a Python script with its libraries in a virtual environment.
BENCH_VENV = $(abspath $(or $(CARGO_TARGET_DIR),target))/bench-venv

bench: deps ## Run benchmarks: decoding, and draining a backlog compared with a script. EVENTS=100000 ROUNDS=2
	@test -x $(BENCH_VENV)/bin/pip || python3 -m venv $(BENCH_VENV) || \
	 { rm -rf $(BENCH_VENV); echo 'install python3-venv: the benchmark compares with a Python script' >&2; exit 1; }
	@$(BENCH_VENV)/bin/pip install --quiet 'paho-mqtt==2.*' 'psycopg[binary]==3.*' protobuf
	BENCH_PYTHON=$(BENCH_VENV)/bin/python EVENTS='$(or $(EVENTS),100000)' $(CARGO) bench --locked --bench decode --bench drain

# With BRIDGE_BIN another build drains the backlog, for comparison.
drain: deps ## Drain a backlog, one line per variant: connections, deliveries, speed. EVENTS=250000 VARIANT=tls BRIDGE_BIN=FILE
	$(if $(BRIDGE_BIN),BRIDGE_BIN='$(abspath $(BRIDGE_BIN))') EVENTS='$(or $(EVENTS),250000)' VARIANT='$(VARIANT)' \
	 $(CARGO) bench --locked --bench drain -- backlog

questions: deps ## Measure the questions of dashboards, and the queries before. EVENTS=1000000
	EVENTS='$(or $(EVENTS),1000000)' $(CARGO) bench --locked --bench questions

dashboards: deps ## Measure the queries of the Grafana dashboards on a filled database. EVENTS=1000000
	DASHBOARDS_ONLY=1 EVENTS='$(or $(EVENTS),1000000)' $(CARGO) bench --locked --bench questions

schema-docs: deps ## Write docs/schema.md from the comments in the database
	WRITE_SCHEMA_DOCS=1 $(CARGO) test --locked --test it documents::schema

deps: ## Install missing packages (Debian, Ubuntu), or list them
	@CARGO='$(CARGO)' bash deploy/demo/deps.sh

browser: ## Install Chromium, which the tests of the pages need
	@CARGO='$(CARGO)' bash deploy/demo/deps.sh chromium
