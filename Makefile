# Each command works alone and first: it makes .venv when that is missing or older than
# what it is installed from.

PYTHON ?= python3
SEARCH_WORKDIR ?= runs/digits
SEARCH_FLAGS ?= --dataset=digits --epochs=8 --warmup_epochs=6 --init_channels=4 \
	--num_cells=3 --batch_size=32

# Only errors of TensorFlow's own log.
export TF_CPP_MIN_LOG_LEVEL ?= 2

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: search test lint

search: $(INSTALLED)
	$(VENV_PYTHON) launch/search.py $(SEARCH_FLAGS) --workdir=$(SEARCH_WORKDIR)

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest

lint: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy advrush_tf launch

$(INSTALLED): setup.py constraints.txt
	@echo "Installing into $(VENV), which takes a few minutes the first time."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV_PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
