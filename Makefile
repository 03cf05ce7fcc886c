# Everything runs through .venv/bin/python, so nothing has to be activated.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

# The interpreter that .venv is made with: the first of these that runs and fits.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

# Where torch alone comes from; empty is pip's usual index, which on Linux means a CUDA build.
TORCH_INDEX ?=

# Any word here installs without comparing packages with the sums in requirements.lock, for an
# index that builds its own wheels.
UNCHECKED ?=

# A folder that holds backbone/ and trm/. Flags of build.py's commands, for instance
# TRAIN_FLAGS="-p epochs 2" or REHEARSE_FLAGS="--problems my.csv".
WEIGHTS ?= assets/tiny
TRAIN_DIR ?= runs/train
TRAIN_FLAGS ?=
EVALUATE_DIR ?= runs/evaluate
EVALUATE_FLAGS ?=
VENDOR_FLAGS ?=
REHEARSE_FLAGS ?=

# What make rehearse trains, evaluates and vendors: short enough to watch.
REHEARSAL := runs/rehearse
REHEARSAL_TRAIN_FLAGS ?= -p num_samples 700 -p N_supervision 2
REHEARSAL_EVALUATE_FLAGS ?= -p num_samples 180 -p resume False

# Processes that the tests share. Threads that spin for a core that another has cost minutes.
TEST_JOBS ?= 2
test test-all: export OMP_WAIT_POLICY ?= PASSIVE
PYTEST := $(VENV)/bin/pytest --numprocesses $(TEST_JOBS) --dist loadgroup

RUN := $(PY) build.py run --html

.DEFAULT_GOAL := help
.PHONY: help setup lock test test-all lint pairs train evaluate vendor rehearse clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## .venv with the pinned packages, from nothing

$(READY): requirements.txt requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || \
	{ echo "error: Python 3.11 or 3.12 is needed and '$(or $(PYTHON),python3)' is neither:" \
	"make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing packages, then torch: some minutes the first time"
	$(PY) .ci/packages.py install $(if $(UNCHECKED),--unchecked)
	$(PY) -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	$(PY) .ci/packages.py complete
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	@$(PY) build.py wheels >/dev/null || echo "warning: build.py vendor will ask the network again"
	@touch $@

lock: setup ## requirements.lock anew, after a change of requirements.txt
	$(PY) .ci/packages.py lock

test: setup ## the tests to run after a change: all but the slow ones
	HYPOTHESIS_PROFILE=fast $(PYTEST) -m "not slow"

# What follows `test`: the slow ones, and again those that draw their cases, with more of them.
test-all: $(if $(TESTED),setup,test) ## every test; TESTED=yes leaves out what make test has just passed
	HYPOTHESIS_PROFILE=full $(PYTEST) -m "slow or hypothesis"

lint: setup ## ruff, without changing anything, and whether the lock is the pins'
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) .ci/packages.py check

pairs: setup ## every notebook agrees with its .py and has no outputs
	$(PY) .ci/pairs.py

train: setup ## train a TRM on WEIGHTS/backbone; TRAIN_DIR becomes a weights folder
	$(RUN) notebooks/train.ipynb --output $(TRAIN_DIR)/train.ipynb \
		-p weights $(WEIGHTS) -p output_dir $(TRAIN_DIR) $(TRAIN_FLAGS)

evaluate: setup ## accuracy of WEIGHTS by family, TRM against backbone, into EVALUATE_DIR
	$(RUN) notebooks/evaluate.ipynb --output $(EVALUATE_DIR)/evaluate.ipynb \
		-p weights $(WEIGHTS) -p output_dir $(EVALUATE_DIR) $(EVALUATE_FLAGS)

vendor: setup ## lay out build/ for Kaggle from WEIGHTS
	$(PY) build.py vendor --weights $(WEIGHTS) $(VENDOR_FLAGS)

rehearse: setup ## train briefly, evaluate, vendor, and play Kaggle: one commit run, two reruns
	$(MAKE) --no-print-directory train TRAIN_DIR=$(REHEARSAL)/weights TRAIN_FLAGS="$(REHEARSAL_TRAIN_FLAGS)"
	$(MAKE) --no-print-directory evaluate WEIGHTS=$(REHEARSAL)/weights EVALUATE_DIR=$(REHEARSAL)/evaluate \
		EVALUATE_FLAGS="$(REHEARSAL_EVALUATE_FLAGS)"
	$(MAKE) --no-print-directory vendor WEIGHTS=$(REHEARSAL)/weights
	$(PY) build.py rehearse $(REHEARSE_FLAGS)

clean: ## remove build/ and caches; .venv and runs/ stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
