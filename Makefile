# lisa-bench: `make help` lists the targets. Everything runs in .venv, which holds exactly what requirements.lock pins.
# The interpreter is the first Python 3.11 to 3.13 found; PYTHON=/path/to/python3.12 names another one.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help reproduce test lint format clean install lock environment

VENV := .venv
BIN := $(VENV)/bin
PIP := pip==26.3
CORES ?= all
TEST_WORKERS ?= 2
TEST_ARGS ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

reproduce: $(VENV)/.installed ## install, then run the default experiment: results/smoke/report.html (CORES=all)
	$(BIN)/snakemake --cores $(CORES)

test: $(VENV)/.installed ## install, then run all tests (TEST_WORKERS=2, TEST_ARGS='-k lora')
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TEST_ARGS)

lint: $(VENV)/.installed ## check style, types, rules and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --lint --configfile config/memory_cpu.yaml

format: $(VENV)/.installed ## rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

clean: ## remove caches and prepared inputs; results and .venv stay
	rm -rf prepared logs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

install: $(VENV)/.installed ## make .venv, install requirements.lock and the command lisa-bench

# An installation that was interrupted leaves .installing behind: such a .venv is made anew, any other one is brought up to date in place.
# The project itself is installed editable, from what the lock brought: .venv/bin/lisa-bench runs this folder's code.
# Half the time of a plain `pip install`: a current pip, and bytecode written on all cores (some packages ship files for other Python versions).
$(VENV)/.installed: requirements.lock pyproject.toml
	@if [ -e $(VENV)/.installing ] || ! { $(BIN)/python -c '$(SUPPORTED)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	  python=; \
	  for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "error: Python 3.11, 3.12 or 3.13 is needed; looked for $(CANDIDATES)." >&2; \
	    for candidate in $(CANDIDATES); do \
	      echo "  $$candidate: $$("$$candidate" --version 2>/dev/null || echo not found)" >&2; \
	    done; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	    exit 1; \
	  fi; \
	  rm -rf $(VENV); \
	  if ! "$$python" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "error: $$python cannot make a virtual environment (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
	    exit 1; \
	  fi; \
	fi
	@touch $(VENV)/.installing
	@echo "Installing $$(grep -c == requirements.lock) packages into $(VENV): a minute or two."
	@$(BIN)/python -m pip install --disable-pip-version-check -qq '$(PIP)'
	@$(BIN)/python -m pip install -qq --no-compile -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/torch/testing/' $(VENV)/lib || true
	@rm $(VENV)/.installing
	@touch $@

lock: $(VENV)/.installed ## rewrite requirements.lock and environment.yml with the newest versions that pyproject.toml allows
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/python -m venv "$$folder"; \
	"$$folder/bin/python" -m pip install --disable-pip-version-check -qq '$(PIP)'; \
	"$$folder/bin/python" -m pip install -qq '.[benchmark,tracking,dev]'; \
	{ grep '^#' requirements.lock; "$$folder/bin/python" -m pip list --format=freeze \
	  | grep -v -E '^(pip|lisa-bench|lisa_bench|triton|cuda-.*|nvidia-[^m].*)==' | sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f -t= -k1,1; } > "$$folder/lock"; \
	cp "$$folder/lock" requirements.lock
	$(MAKE) environment

environment: ## rewrite the pins of environment.yml from requirements.lock
	{ grep -v '^      - ' environment.yml; sed -n 's/^[^#].*==.*/      - &/p' requirements.lock; } > environment.yml.new
	mv environment.yml.new environment.yml
