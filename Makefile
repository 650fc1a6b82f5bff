# The two commands that matter: `make demo` and `make test`. Both do everything on a fresh machine.
PYTHON ?= python3
VENV := .venv
MODELS := .venv-models
PEERS := .venv-peers
BIN := $(VENV)/bin
# --no-compile: a fifth smaller and quicker to install; Python compiles what is really imported on first use.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile -c constraints.txt
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo test test-long wheel-alone earth-models-test fuzz bench parity lint docs screenshots clean install-dev

help:
	@echo "make demo   install, then test the papers' claims at smoke scale: verdicts field by field, then tables and report.html"
	@echo "make test   install, then lint, type check, import contract and all tests"
	@echo "make test-long  the few tests that are left out there for their length"
	@echo "make earth-models-test  adapters of other libraries' satellite encoders, in an environment of their own"
	@echo "make wheel-alone  builds the wheel, installs it without extras elsewhere and does what a newcomer does first"
	@echo "make fuzz   2,000 damaged files of every format that is read"
	@echo "make bench  speed, side by side with peers (they are installed in venvs of their own)"
	@echo "make parity recipes and adapters side by side with mergekit and PEFT, with the greatest difference of each"
	@echo "make lint   ruff, mypy, import contract"
	@echo "make docs   the manual, as HTML in site/"
	@echo "make screenshots  checks report pages in the system's Chromium and pictures them; REPORTS='folder or page ...'"

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "manyone needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (about 400 MB to download, a minute or two) ..."
	$(INSTALL) -e '.[policies,sql,earth]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) -e '.[dev]'
	@touch $@

install-dev: $(VENV)/.dev

# Verdicts are printed as soon as a suite is measured, the first within a minute; the tables come last.
demo: $(VENV)/.base
	$(BIN)/manyone reproduce --scale smoke
	@echo
	@echo "Three to try on data of your own ($(BIN)/manyone ls shows the rest):"
	@echo "  $(BIN)/manyone run local-sgda --data my.csv --label y --out runs/auc     # a table: two classes"
	@echo "  $(BIN)/manyone run ties --base base --experts a b --out runs/merged      # model folders of one base"
	@echo "  $(BIN)/manyone run bc --data hopper=my.npz --out runs/bc                 # recorded episodes"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long" tests

test-long: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long tests

fuzz: $(VENV)/.dev
	MANYONE_FUZZ=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/fuzz

# torchvision comes with these libraries and does not go beside the small torch of $(VENV).
$(MODELS)/.ready: pyproject.toml constraints.txt
	test -x $(MODELS)/bin/python || $(PYTHON) -m venv $(MODELS)
	$(MODELS)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile \
	  "$$(grep '^torch==' constraints.txt)" -e '.[earth-models]' 'pytest>=8'
	@touch $@

earth-models-test: $(MODELS)/.ready
	OMP_NUM_THREADS=1 $(MODELS)/bin/python -m pytest tests_models

wheel-alone: $(VENV)/.base
	$(BIN)/python scripts/wheel_alone.py

bench: $(VENV)/.dev
	$(BIN)/manyone bench

# mergekit's pins do not go beside ours; PEFT is in $(VENV).
parity: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mergekit_parity.py --peers $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/weights/test_lora_peft.py

docs: $(VENV)/.dev
	$(INSTALL) -e '.[docs]'
	$(BIN)/mkdocs build --strict

# The browser is the system's; 'make demo' makes the report.
REPORTS ?= runs/reproduce-smoke
screenshots: $(VENV)/.base
	$(INSTALL) -e '.[screenshots]'
	$(BIN)/python scripts/screenshots.py $(REPORTS) --out docs/pictures

clean:
	rm -rf $(VENV) $(MODELS) $(PEERS) site build dist .mypy_cache .ruff_cache
