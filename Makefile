# The front door. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

DENY_VERSION := 0.20.2
# Debug builds can be killed by tests at every append to the journal. Release builds never have that.
FAULTS := --features sternway-agent/faults,sternway-controller/faults
TOOLS := target/tools
# Marks what one run of the tests makes, so that it can be removed whatever happens to the run.
export STERNWAY_TEST_RUN ?= run-$(shell echo $$PPID)

.PHONY: help build check test deny bench demo demo-down lab lab-down clean clean-tests

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

build: ## builds everything (debug)
	cargo build --locked --workspace --bins $(FAULTS)

check: ## format, lints, unit tests: no engine needed
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets $(FAULTS) -- -D warnings
	cargo test --locked --workspace --lib --quiet $(FAULTS)

test: ## sets up what the tests need, builds, runs all of them
	deploy/scripts/setup-tests
	deploy/scripts/run-tests

deny: $(TOOLS)/bin/cargo-deny-$(DENY_VERSION) ## licences, bans and sources of the dependencies; advisories where they can be fetched
	deploy/scripts/deny $<

$(TOOLS)/bin/cargo-deny-$(DENY_VERSION):
	@echo "deny: building cargo-deny $(DENY_VERSION) into $(TOOLS) (about a minute, once)"
	cargo install --quiet --locked --debug --root $(TOOLS) --target-dir $(TOOLS)/build cargo-deny@$(DENY_VERSION)
	rm -rf $(TOOLS)/build
	ln -f $(TOOLS)/bin/cargo-deny $@

bench: ## what a rollback costs clients (runbook and Sternway), 1,000 agents, an idle agent
	deploy/scripts/setup-tests
	cargo build --locked --release --workspace --bins
	trap 'deploy/scripts/clean-tests --run $(STERNWAY_TEST_RUN)' EXIT; \
	cargo bench --locked --workspace --bench footprint --bench load --bench swap --bench units

demo: ## a controller, an agent, a broken deployment, and its rollback, on this machine
	deploy/demo/run

demo-down: ## removes everything that the demo made
	deploy/demo/down

lab: ## raises real hosts to play with: a controller, three with Docker, three with systemd and packages
	deploy/lab/up

lab-down: ## takes them away
	deploy/lab/down

clean-tests: ## removes what killed tests left on the engine and in the network
	deploy/scripts/clean-tests

clean: ## removes what was built
	cargo clean
