# The two commands of the README. Each makes .venv on its first run and only looks at it on later ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process has one torch thread; two of them on two cores are faster than one with two threads.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all tree docs lint clean

# TASK=instance: boxes and masks of digits in photographs, in place of classes of digits
DEMO := $(if $(TASK),$(if $(filter instance,$(TASK)),proxy_scenes_demo,$(error TASK=$(TASK): leave it out, or take instance)),digits_demo)

demo: $(VENV)/.installed$(if $(TASK),-detection)
	$(BIN)/python -m search -m experiment=$(subst proxy_,proxy/,$(DEMO))
	@echo
	@echo "Offline W&B runs: $$(ls -d runs/$(DEMO)/wandb/offline-run-* runs/$(DEMO)/*/*/wandb/offline-run-* 2>/dev/null | wc -l) below runs/$(DEMO)/{trials,final}/*/wandb/, the table's in runs/$(DEMO)/wandb/"
	@echo "  look at one:    $(BIN)/wandb leet $$(ls -d runs/$(DEMO)/*/*/wandb/latest-run | head -1)"
	@echo "  upload them:    $(BIN)/wandb sync runs/$(DEMO)/wandb/offline-run-* runs/$(DEMO)/*/*/wandb/offline-run-*"
	@echo "The table again:  $(BIN)/xvol-table runs/$(DEMO)"
	@for sheet in $$(ls runs/$(DEMO)/final/*/predictions.png 2>/dev/null | head -1); do echo "Pictures:         $$sheet, and in each folder beside it"; done
	@echo "The page, for a browser: runs/$(DEMO)/tables/report.html (again: $(BIN)/xvol-report runs/$(DEMO))"

# What a change usually breaks, in minutes; the slow tests, and the full number of examples, are left to test-all.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not network and not servers" --hypothesis-profile quick

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

tree: $(VENV)/.installed-dev
	$(BIN)/python docs/tree.py

# the pages of docs/ and a gallery of committed studies as a site: site/index.html
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/site.py > /dev/null
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"xvol needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing torch, timm, optuna and the rest into $(VENV): a minute or a few, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-detection: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[detection]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing xvol and what its tests need into $(VENV): a minute or a few, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $(VENV)/.installed-detection $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV)
