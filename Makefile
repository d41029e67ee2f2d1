# `make` lists what there is. Everything runs in .venv, which `make install` and `make dev` build and own.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Python 3.11 or 3.12; name another with `make install PYTHON=/path/to/python3.12`
PYTHON ?= $(shell .ci/find-python 3.11 3.12)
VENV := .venv
STAMP := $(VENV)/.installed
DEV := $(VENV)/.dev
JUPYTER := $(VENV)/jupyter
# Extras of setup.py, for `make install` and for `make dev`
USER_EXTRAS := simulation,dashboard,notebook
ALL_EXTRAS := dev
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# for `make test`, as ARGS="-k contexts -x", `make bench`, `make demo`, `make validate` and `make notebook`
ARGS ?=
# for `make bench`
BASE ?=
# for `make bounds`: without tests that compile kernels of strax and straxen, too
KERNEL_TESTS := tests/processing tests/test_quantities.py \
    -k "not equals_strax and not of_straxen and not interactive"
# for `make soak`: examples of each test of test_fuzz.py, runs of the day
EXAMPLES ?= 5000
RUNS ?= 30
# for `make process`
RUN ?= 200003
CONTEXT ?= xams_little
TARGET ?= radon_peak_basics
LIVE ?= ./simulated
RUNDOC ?= $(LIVE)/rundoc_$(RUN).json
OUT ?= ./amstrax_data

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## build .venv for users: amstrax (editable), simulation, dashboard, kernel for notebooks

.PHONY: dev
dev: $(DEV) ## add to .venv what tests, lint, docs and releases need

# Both are pinned in constraints.txt. The stamp is written last and holds this folder's name. Without it (an
# interrupted install) or with another's (a moved or copied work tree) the environment is built anew, else it is
# brought up to date; what `make dev` has added stays up to date with it.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): setup.py pyproject.toml constraints.txt
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(CURDIR)" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	    python="$(PYTHON)"; \
	    if [ -z "$$python" ]; then \
	        echo "make install: no working Python 3.11 or 3.12 with venv was found on PATH or under ~/.pyenv." >&2; \
	        echo "Debian 12: apt-get install python3 python3-venv. Elsewhere: pyenv install 3.11, or name" >&2; \
	        echo "an interpreter: make install PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "Building $(VENV) with $$python; this takes a minute or two"; \
	    "$$python" -m venv --clear $(VENV); \
	fi
	@rm -f $(STAMP)
	$(PIP) install --quiet --upgrade --constraint constraints.txt pip
	$(call install_extras,$(if $(wildcard $(DEV)),$(ALL_EXTRAS),$(USER_EXTRAS)))
	@# straxen's first import builds matplotlib's font list; do it here, once, rather than in each test worker.
	@# Its word on a missing XENON configuration file concerns nobody here, so output is shown on failure only.
	@log=$$(MPLBACKEND=agg $(BIN)/python -c 'import straxen' 2>&1) || { echo "$$log" >&2; exit 1; }
	@$(if $(wildcard $(DEV)),touch $(DEV))
	@printf '%s' '$(CURDIR)' > $(STAMP)

# Without the stamp while it works, as above
$(DEV): | $(STAMP)
	@rm -f $(STAMP)
	$(call install_extras,$(ALL_EXTRAS))
	@touch $(DEV)
	@printf '%s' '$(CURDIR)' > $(STAMP)

# setuptools warns at every editable install that it is one
define install_extras
PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint constraints.txt --editable '.[$(1)]'
@$(PIP) check
endef

# JupyterLab cannot be in .venv: it needs a newer httpx than straxen's dependencies allow (xeauth). Its environment
# has the kernel of .venv in place of its own, under the name that the notebooks ask for.
.PHONY: notebook
notebook: $(JUPYTER)/.installed ## open the first tour in JupyterLab; your copies of the notebooks are in ./notebooks
	@mkdir -p notebooks
	@for file in docs/source/tutorials/*.ipynb; do [ -e "notebooks/$${file##*/}" ] || cp "$$file" notebooks/; done
	$(JUPYTER)/bin/jupyter lab $(ARGS) notebooks/first_tour.ipynb

$(JUPYTER)/.installed: $(STAMP)
	@echo "Installing JupyterLab into $(JUPYTER); this takes a minute"
	@$(BIN)/python -m venv --clear $(JUPYTER)
	@$(JUPYTER)/bin/python -m pip --disable-pip-version-check install --quiet 'jupyterlab>=4.4,<5' 'jupyterlab_widgets>=3,<4'
	@log=$$($(BIN)/python -m ipykernel install --prefix $(JUPYTER) --name python3 \
	    --display-name "Python 3 (amstrax)" 2>&1) || { echo "$$log" >&2; exit 1; }
	@touch $@

# Compiled test files are kept whatever the environment says, else each worker compiles all of them
.PHONY: test
test: dev ## run the tests with five workers, most of which wait; options for pytest in ARGS="..."
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 5 --dist worksteal $(ARGS)

# Kernels with checks of all indices are not to be cached as, or taken from, those without; with few
# optimizations they compile faster
.PHONY: bounds
bounds: dev ## run the tests of kernels with bounds of arrays checked
	@cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; \
	    NUMBA_OPT=1 NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR="$$cache" $(BIN)/python -m pytest -q $(KERNEL_TESTS)

# The most files that a path of ../shared/tools/paths.py may touch
PATHS := find=5,get_array=9,loop=18,job=38,copy=12
.PHONY: paths
paths: install ## count the files of amstrax that real paths touch; fails when they are too many
	$(BIN)/python ../shared/tools/paths.py --max $(PATHS)

.PHONY: soak
soak: dev ## the long form of tests that CI has in short: a day of RUNS= runs, EXAMPLES= of mutated input
	AMSTRAX_DAY_RUNS=$(RUNS) AMSTRAX_FUZZ_EXAMPLES=$(EXAMPLES) \
	    $(BIN)/python -m pytest --timeout=0 tests/auto_processing/test_day.py tests/test_fuzz.py $(ARGS)

.PHONY: closure
closure: dev ## compare what calibrations find in simulated runs with the truth: 50 runs of each set, some 10 minutes
	$(BIN)/python benchmarks/closure.py $(ARGS)

.PHONY: demo
demo: install ## simulate a run, process it, and plot its events, in ./amstrax_demo
	$(BIN)/amstrax demo $(ARGS)

.PHONY: validate
validate: install ## judge the reconstruction with simulated events, in ./validation
	$(BIN)/amstrax validate $(ARGS)

.PHONY: lint
lint: dev ## ruff (rules and format), mypy, and the schemas of workflows and CITATION.cff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

.PHONY: format
format: dev ## let ruff mend what lint complains of, where it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: dev ## build the documentation into docs/build/html, notebooks included; warnings are errors
	@bash docs/make_docs.sh

.PHONY: reconstruction
reconstruction: install ## compare the lab's and the improved reconstruction on truth, for the documentation; takes minutes
	$(BIN)/python docs/source/make_reconstruction_table.py

.PHONY: bench
bench: dev ## compare speed and memory with commit BASE= (default: the last one); ARGS="--valgrind" counts instructions
	$(BIN)/python benchmarks/bench.py $(ARGS) $(BASE)

.PHONY: process
process: install ## process a run: RUN= CONTEXT= TARGET= LIVE= RUNDOC= OUT=; by default a simulated run of XAMSL
	@if [ '$(RUN)' = 200003 ] && [ ! -e '$(RUNDOC)' ]; then \
	    $(BIN)/amstrax simulate 200003 --detector xamsl --source rn222 --duration 20 --output '$(LIVE)'; \
	fi
	$(BIN)/amstraxer $(RUN) --context $(CONTEXT) --target $(TARGET) --live_data_dir $(LIVE) \
	    --testing_rundoc $(RUNDOC) --output_folder $(OUT)

.PHONY: dist
dist: dev ## build the source archive, and the wheel from it, into dist/
	rm -rf dist build
	$(BIN)/python -m build --quiet --outdir dist .

.PHONY: constraints
constraints: ## resolve setup.py afresh on Python 3.11 and 3.12 and rewrite constraints.txt
	.ci/constraints > constraints.txt.new
	mv constraints.txt.new constraints.txt

.PHONY: clean
clean: ## remove what was built and cached; keeps .venv and processed data
	rm -rf build dist docs/build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	rm -rf docs/source/reference docs/source/data_structure_*.rst docs/source/results.inc docs/source/architecture.inc docs/source/simulation_*.inc docs/source/_static/simulation_run.png docs/source/pulse_numbers.inc docs/source/_static/pulse_*.png docs/source/tutorials/{amstrax_data,amstrax_demo,strax_data}
	find amstrax tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: distclean
distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)
