# The book in one command: `make book`. The proof that it is right: `make test`. `make help` lists the rest.
# Needs Python 3.11 or newer and make. Inside an activated environment (venv or conda) that one is used;
# otherwise .venv is created here.

PROFILE ?= book
ONLY ?=
OPTIONS ?=
ENVIRONMENT := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),.venv)
PYTHON := $(ENVIRONMENT)/bin/python
PINS := requirements.txt benchmarks/requirements.txt pyproject.toml
# Changes with the pins, and with the checkout that ntlib is installed from.
FINGERPRINT := $(shell { cat $(PINS); pwd; } | cksum | cut -d ' ' -f 1)
READERS := $(ENVIRONMENT)/.ntlib-$(FINGERPRINT)
PEERS := $(READERS)-peers
NTLIB := "$(PYTHON)" -m ntlib
PYTEST := "$(PYTHON)" -m pytest

# Kernels come from this environment, not from one that the user installed for all.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help book html notebooks test lint unit smoke nbval pages bench format environment peers clean
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

book: environment ## execute every chapter (a few minutes) and render the book to _build/html
	$(NTLIB) execute
	$(NTLIB) render --executed

html: environment ## render the committed outputs only (seconds)
	$(NTLIB) render

notebooks: environment ## refresh committed outputs: make notebooks ONLY=retnet PROFILE=book
	$(NTLIB) execute --write-back --profile "$(PROFILE)" $(if $(ONLY),--only "$(ONLY)")
	$(NTLIB) picture 02_retnet retnet-headline book/_static/retnet-headline.svg
	$(NTLIB) picture 08_evaluation evaluation-cover book/_static/evaluation-cover.svg

test: lint unit smoke nbval html pages ## lint, unit tests, every notebook run twice, the book without a warning
	@$(NTLIB) share

lint: environment ## ruff: rules and format
	"$(PYTHON)" -m ruff check
	"$(PYTHON)" -m ruff format --check

format: environment ## let ruff rewrite the code, bring notebooks into canonical form
	"$(PYTHON)" -m ruff check --fix-only
	"$(PYTHON)" -m ruff format
	$(NTLIB) tidy

unit: environment peers ## unit tests of ntlib and of the committed notebooks' form
	OMP_NUM_THREADS=1 $(PYTEST) tests --ignore tests/pages --numprocesses logical --maxprocesses 4 --dist loadscope

smoke: environment ## papermill over every notebook, at toy sizes
	$(NTLIB) execute --profile smoke

nbval: environment ## rerun every notebook against its committed outputs
	$(NTLIB) check
	$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=600 -p no:xdist \
	  --nbval-sanitize-with tests/nbval_sanitise.cfg notebooks

pages: environment ## look at the rendered pages, also in a browser where there is one
	$(PYTEST) tests/pages

bench: environment peers ## time every operator and mixer beside others' (an hour, best on an idle machine): make bench OPTIONS=--help
	"$(PYTHON)" -m benchmarks.operators $(OPTIONS)

environment:
	@test -f "$(READERS)" || { \
	  sh .ci/environment "$(ENVIRONMENT)" && \
	  "$(PYTHON)" -m pip install --requirement requirements.txt && \
	  "$(PYTHON)" -m pip install --no-deps --no-build-isolation --editable . && \
	  touch "$(READERS)"; }

peers: environment
	@test -f "$(PEERS)" || { \
	  "$(PYTHON)" -m pip install --no-deps --requirement benchmarks/requirements.txt && \
	  touch "$(PEERS)"; }

clean: ## remove what was built and compiled, keep the environment
	rm -rf _build
	rm -f ntlib/*/__pycache__/*.nb[ic] benchmarks/__pycache__/*.nb[ic] tests/ops/__pycache__/*.nb[ic]
