# Each command works alone and first: it makes .venv when that is missing or older than
# what it is installed from.

PYTHON ?= python3
SEARCH_WORKDIR ?= runs/digits
SEARCH_FLAGS ?= --dataset=digits --epochs=8 --warmup_epochs=6 --init_channels=4 \
	--num_cells=3 --batch_size=32

FIT_FLAGS ?= --dataset=digits --epsilon=0.1 --init_channels=8 --num_cells=3 \
	--validation_portion=0.1 --schedule=one_cycle --learning_rate=0.2 --epochs=12
ATTACK_FLAGS ?= --dataset=digits --epsilon=0.1 --attacks=fgsm,pgd20,autoattack \
	--save_images

LANDSCAPE_FLAGS ?= --dataset=digits --epsilon=0.1 --sample_genotypes=40

STUDY_FLAGS ?= --processes=2 --dataset=digits --epsilon=0.1 --objectives=fgsm_rs --seeds=3 \
	--search_epochs=6 --search_warmup_epochs=2 --search_init_channels=4 \
	--search_num_cells=3 --search_num_nodes=2 --search_batch_size=64 \
	--search_alpha_learning_rate=3e-3 \
	--fit_init_channels=8 --fit_num_cells=3 --fit_epochs=10 --fit_batch_size=64 \
	--fit_validation_portion=0.1 --fit_robust_eval_every=5 --attack_test_images=100 \
	--landscape_test_images=16 --landscape_surface_points=3 --landscape_cut_points=4

# A test uses one core, whether it traces graphs or waits for a program that it started:
# on two cores three processes took longer than two, in each of two pairs of runs.
TEST_PROCESSES ?= 2

# Of TensorFlow's own log only what ends a program.
export TF_CPP_MIN_LOG_LEVEL ?= 3

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: search attack report study test lint gpu_check

# The digits' tensors are small: to share one among threads takes longer than it saves.
search attack report study: export TF_NUM_INTRAOP_THREADS ?= 1

search: $(INSTALLED)
	$(VENV_PYTHON) launch/search.py $(SEARCH_FLAGS) --workdir=$(SEARCH_WORKDIR)

# Searches, fits what was found, normally and adversarially, and attacks both. What is
# there already is not made again.
attack: search
	$(VENV_PYTHON) launch/fit.py $(FIT_FLAGS) --objective=standard --batch_size=64 \
		--robust_eval_every=4 --genotype=$(SEARCH_WORKDIR)/genotype.json \
		--workdir=$(SEARCH_WORKDIR)_standard
	$(VENV_PYTHON) launch/fit.py $(FIT_FLAGS) --objective=pgd \
		--genotype=$(SEARCH_WORKDIR)/genotype.json --workdir=$(SEARCH_WORKDIR)_pgd
	$(VENV_PYTHON) launch/attack.py $(ATTACK_FLAGS) \
		--model=$(SEARCH_WORKDIR)_pgd/model.keras \
		--source_model=$(SEARCH_WORKDIR)_standard/model.keras \
		--workdir=$(SEARCH_WORKDIR)_attack
	$(VENV_PYTHON) launch/attack.py $(ATTACK_FLAGS) \
		--model=$(SEARCH_WORKDIR)_standard/model.keras \
		--workdir=$(SEARCH_WORKDIR)_standard_attack

# Shows why what was found is smooth, and tells of all runs on one page.
report: attack
	$(VENV_PYTHON) launch/landscape.py $(LANDSCAPE_FLAGS) \
		--model=$(SEARCH_WORKDIR)_standard/model.keras \
		--model=$(SEARCH_WORKDIR)_pgd/model.keras --model=$(SEARCH_WORKDIR) \
		--run=$(SEARCH_WORKDIR) --run=$(SEARCH_WORKDIR)_standard \
		--run=$(SEARCH_WORKDIR)_pgd --run=$(SEARCH_WORKDIR)_attack \
		--run=$(SEARCH_WORKDIR)_standard_attack \
		--workdir=$(SEARCH_WORKDIR)_landscape --report=$(SEARCH_WORKDIR)_report.html

# Compares searches with and without the penalty and random cells, with three seeds.
study: $(INSTALLED)
	$(VENV_PYTHON) launch/study.py $(STUDY_FLAGS) --workdir=$(SEARCH_WORKDIR)_study

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile

# On a machine with a GPU: prints a table to send back, half an hour.
gpu_check: $(INSTALLED)
	PYTHONPATH=.:tests $(VENV_PYTHON) -m support.gpu_check

lint: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy advrush_tf launch

$(INSTALLED): setup.py constraints.txt
	@echo "Installing into $(VENV), which takes a few minutes the first time."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV_PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[cleverhans,drawings,dev]'
	@touch $@
