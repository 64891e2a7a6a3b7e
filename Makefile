# What a person runs. `make` lists it.
#
# Build output lies outside the checkout, so that a fresh clone reuses it.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/brahman-build/target
export CARGO_TERM_PROGRESS_WHEN ?= auto
PREFIX ?= /usr/local
DESTDIR ?=
DIST ?= $(CURDIR)/dist
INPUT ?=

# What the demo runs. Its programs are those of these Cards, the command line and init: nothing else is built for it. They are picked from
# the same packages as `make release` picks from, so that what they share with the others has the same features and is built once.
DEMO_CARDS := broker catalog embed-mock embed-real index ingest
# What it starts after its first answers, and what is built only then.
DEMO_CARDS_LATER := score-real
DEMO_PROGRAMS = brahman brahman-init $(shell sed -n 's/^exec = "\(.*\)"$$/\1/p' $(DEMO_CARDS:%=packaging/cards/%.toml))
# Built as the tests' programs are, which takes half as long as `make release`, and `make test` need not do it again. The demo's time is ONNX
# Runtime's, which comes built. `make demo DEMO_PROFILE=release` runs it as it is installed.
DEMO_PROFILE ?= dev
DEMO_BUILD = cargo build --locked --profile $(DEMO_PROFILE)
DEMO_FOLDER = $(CARGO_TARGET_DIR)/$(if $(filter dev,$(DEMO_PROFILE)),debug,$(DEMO_PROFILE))

.PHONY: help setup build release demo demo-programs test test-clients soak lint advisories fuzz bench bench-index bench-ingest bench-pii bench-quality bench-scale bench-score bench-many bench-tuning bench-versions bench-gpu install uninstall units deb tarball wheel packages

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install or name what this machine lacks
	@packaging/setup.sh

build: setup ## debug build, as the tests use it
	cargo build --locked --bins

release: setup ## optimised build
	cargo build --locked --release --bins

demo-programs: setup
	$(DEMO_BUILD) $(DEMO_PROGRAMS:%=--bin %)

demo: demo-programs ## the main job, on docs/ and then on files of your own: make demo INPUT=path
	@packaging/demo.sh "$(DEMO_FOLDER)" "$(DEMO_CARDS)" "$(DEMO_CARDS_LATER)" "$(DEMO_BUILD)" "$(INPUT)"

test: setup ## every test, on real parts
	@packaging/test.sh

test-clients: setup build ## others' clients, as they come from PyPI, npm and Debian, against the gateway and brahman mcp
	@packaging/clients.sh "$(CARGO_TARGET_DIR)/debug"

soak: setup release ## a mesh under kills, stops and a full disk for 15 minutes: BRAHMAN_SOAK_S=120 for less
	BRAHMAN_TEST_TOOLS="$$(packaging/tools.sh)" \
	cargo test --locked --release --workspace --test soak -- --ignored --nocapture

lint: ## formatting, clippy with warnings refused, licences and duplicates of what is in the tree
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	"$$(packaging/tools.sh)/bin/cargo-deny" --locked check --hide-inclusion-graph licenses bans sources

advisories: ## known holes in dependencies, where their database can be reached
	"$$(packaging/tools.sh)/bin/cargo-deny" --locked check advisories

fuzz: ## frames, Cards, logs, index files and sources, for a bounded time
	@packaging/fuzz.sh

bench: setup release ## figures beside their peers, in one run
	@packaging/bench.sh

bench-index: setup release ## the index beside hnswlib, faiss and usearch: some fifteen minutes
	@packaging/bench.sh index

bench-ingest: setup release ## tables and CSV into Parquet beside ConnectorX, pyarrow and DuckDB: some five minutes
	@packaging/bench.sh ingest

bench-quality: setup release ## what search finds, beside SQLite FTS5, LanceDB and Chroma: about an hour
	@packaging/quality.sh

bench-scale: setup release ## a million vectors: memory, filters, changes: some thirty minutes
	@packaging/measure.sh scale

bench-many: setup release ## 20,000 small files: disk, and the first answers: some ten minutes
	@packaging/measure.sh many --wait

bench-tuning: setup release ## whether tuning finds the best in few trials, and keeps out of the way: some twenty minutes
	@packaging/measure.sh tuning

bench-versions: setup release ## programs of an earlier version beside these, in turn: make bench-versions OLD=folder OLD_CARDS=folder
	@packaging/versions.sh "$(OLD)" "$(OLD_CARDS)" "$(CARGO_TARGET_DIR)/release" packaging/cards

bench-score: setup release ## scoring beside full passes in onnxruntime: some five minutes
	@packaging/bench.sh score

bench-pii: setup release ## personal data in labelled columns beside Presidio's patterns: some four minutes
	@packaging/bench.sh pii

units: ## verify the systemd units
	@packaging/units.sh

install: release ## programs, Cards, units, manual pages and completions: make install PREFIX=/usr/local
	@packaging/install.sh install "$(CARGO_TARGET_DIR)/release" "$(DESTDIR)" "$(PREFIX)"

deb: release ## a Debian package in dist/, tried in a bare root
	@packaging/deb.sh "$(CARGO_TARGET_DIR)/release" "$(DIST)"
	@packaging/try.sh deb "$(DIST)"

tarball: release ## a tarball for ~/.local in dist/ that needs glibc 2.36 or newer alone, tried in a bare root
	@packaging/tarball.sh "$(CARGO_TARGET_DIR)/release" "$(DIST)"
	@packaging/try.sh tarball "$(DIST)"

wheel: release ## a Python wheel in dist/ that carries the programs, tried in a fresh environment
	@packaging/wheel.sh "$(CARGO_TARGET_DIR)/release" "$(DIST)"
	@packaging/try.sh wheel "$(DIST)"

packages: deb tarball wheel ## all three

uninstall: ## remove what install put there
	@packaging/install.sh uninstall "" "$(DESTDIR)" "$(PREFIX)"
