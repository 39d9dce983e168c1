# Two commands do all the set-up: `make up` runs askbox, `make test` passes its tests.
PYTHON ?= python3
EMBEDDERS ?= 1
JOBS ?= 2
BIN := .venv/bin

.PHONY: up test test-parts test-systems test-faults lint bench chaos clean
.DEFAULT_GOAL := up

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "askbox needs Python 3.11 or newer; set PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv

# Installed again only when what is to be installed changed.
.venv/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

up: .venv/installed
	@exec $(BIN)/askbox up --embedders $(EMBEDDERS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The last two mostly wait for processes, so all three run side by side; what only computes follows the second.
test: lint
	@$(MAKE) --no-print-directory -j 3 test-parts test-systems test-faults

test-parts: .venv/installed-dev
	$(BIN)/python -m pytest --ignore tests/e2e --ignore tests/crash --ignore tests/unit

test-systems: .venv/installed-dev
	$(BIN)/python -m pytest tests/e2e
	$(BIN)/python -m pytest tests/unit

test-faults: .venv/installed-dev
	$(BIN)/python -m pytest tests/crash

bench: .venv/installed-dev
	$(BIN)/python -m tests.bench

# Breaks everything on purpose and counts what is lost. PARTS="storm sweep" runs some of it, JOBS=1 one part after another.
chaos: .venv/installed-dev
	$(BIN)/python -m tests.crash --jobs $(JOBS) $(PARTS)

clean:
	rm -rf .venv build *.egg-info
