# Two commands for a newcomer: `make demo` and `make test`. Needs git, make and Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/medseg demo --output-dir runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) $(LABEL_VENV) $(NUMPY1_VENV) runs .mypy_cache .pytest_cache .ruff_cache

# MONAI Label in an environment of its own: `make label STUDIES=FOLDER` (docs/label.md)
LABEL_VENV ?= .venv-label
LABEL_BIN := $(LABEL_VENV)/bin
LABEL_STAMP := $(LABEL_VENV)/.installed
LABEL_PORT ?= 8000
MEDSEG_DATA ?= ../shared/data
STUDIES ?= runs/label/studies

.PHONY: label test-label

$(LABEL_STAMP): pyproject.toml constraints.txt constraints-label.txt requirements-label.txt requirements-label-nodeps.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-label.txt \
		-r requirements-label.txt -e .
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-label-nodeps.txt
	touch $@

# links, because MONAI Label writes its labels and its list beside the images
runs/label/studies:
	mkdir -p $@
	for image in "$(abspath $(MEDSEG_DATA))"/lung_cxr/*/images/*.png; do \
		if [ -f "$$image" ]; then ln -sf "$$image" $@/; fi; done

label: $(LABEL_STAMP) $(filter-out http://% https://%,$(STUDIES))
	$(LABEL_BIN)/medseg serve "$(STUDIES)" --port $(LABEL_PORT)

test-label: $(LABEL_STAMP)
	$(LABEL_BIN)/python -m pytest -m label tests/apps

# the package with NumPy 1 and pydicom 2, in an environment of its own
NUMPY1_VENV ?= .venv-numpy1
NUMPY1_BIN := $(NUMPY1_VENV)/bin
NUMPY1_STAMP := $(NUMPY1_VENV)/.installed

.PHONY: test-numpy1

$(NUMPY1_STAMP): pyproject.toml constraints.txt constraints-numpy1.txt
	$(PYTHON) -m venv $(NUMPY1_VENV)
	awk -F== 'NR == FNR {pins[$$1]; print; next} !($$1 in pins)' constraints-numpy1.txt constraints.txt \
		> $(NUMPY1_VENV)/constraints.txt
	$(NUMPY1_BIN)/python -m pip install --quiet --disable-pip-version-check -c $(NUMPY1_VENV)/constraints.txt torch
	$(NUMPY1_BIN)/python -m pip install --quiet --disable-pip-version-check -c $(NUMPY1_VENV)/constraints.txt -e ".[dev]"
	touch $@

test-numpy1: $(NUMPY1_STAMP)
	$(NUMPY1_BIN)/python -m pytest --ignore tests/apps
