# `make demo` and `make test` are all that a newcomer needs: each makes .venv where there is none, then runs.
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTHONS := python3 python3.11 python3.12 python3.13

.PHONY: demo test test-slow lint format bench clean help
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(INSTALLED)  ## train a small chat model from raw text on this machine, in minutes
	$(BIN)/nanochat run demo

test: $(INSTALLED)  ## the quick tests: no network, no GPU
	$(BIN)/python -m pytest -q

test-slow: $(INSTALLED)  ## the tests that take minutes each
	$(BIN)/python -m pytest -q -m "slow and not gpu"

lint: $(INSTALLED)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## measure this machine: every benchmark in benchmarks/
	@for file in benchmarks/[a-z]*.py; do \
	    [ -e "$$file" ] || { echo "No benchmarks yet."; break; }; \
	    echo "== $$file"; $(BIN)/python "$$file" || exit 1; \
	done

clean:  ## remove the virtual environment and the caches of the tools
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last: an interrupted installation starts again, a finished one never runs pip again.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHONS); do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	    python=; \
	done; \
	[ -n "$$python" ] || { echo "No Python 3.11 or newer with venv among: $(PYTHONS)." \
	    "Install one, or name yours: make PYTHONS=/path/to/python3" >&2; exit 2; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
