# Every target does its own set-up: a virtual environment in .venv, made once.
#
#   make demo    three detectors are played into Tango devices; takes a minute
#   make test    lint, types and the test suite
#   make bench   how fast the kernels are; measures, asserts nothing
#   make soak    the long runs, ten minutes each; or as SOAK_SECONDS=... says
#   make lint    style, types and layers only
#   make docs    write the generated reference pages again

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_DIRECTORY ?= demo-output
SOAK_SECONDS ?= 600

.PHONY: demo test bench soak lint docs

demo: $(READY)
	@$(BIN)/ronda demo --directory "$(DEMO_DIRECTORY)"

test: lint
	@.ci/packages
	@$(BIN)/python -m pytest -m "not alone" --numprocesses 3 --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest -m alone

bench: $(READY)
	@set -e; for script in tests/benchmarks/bench_*.py; do \
		echo "== $$script"; $(BIN)/python "$$script"; done

soak: $(READY)
	@SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -m soak -s

# The clone may be called anything: mypy sees it through a link named ronda (made by .ci/prepare).
lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@MYPYPATH=$(VENV)/typed $(BIN)/mypy -p ronda.core -p ronda.devices
	@$(BIN)/lint-imports

docs: $(READY)
	@$(BIN)/python -m ronda.clients.cli.reference docs/reference

$(READY): pyproject.toml constraints.txt .ci/prepare
	@.ci/prepare $(VENV)
	@touch $@
