# Each goal makes its own virtual environment first; python3-venv and make are all that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NEW_ENOUGH = import sys; assert sys.version_info >= (3, 11), "LNMT Scheduler needs Python 3.11 or newer"

# What is installed is made of the host's own interpreter, which every account can run.
SYSTEM_PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
INSTALL = $(SYSTEM_PYTHON) -B packaging/install.py $@ --destdir '$(DESTDIR)' --prefix '$(PREFIX)' --wheelhouse '$(WHEELHOUSE)' --extras '$(EXTRAS)'

.PHONY: demo test test-long test-vm test-faults check bench format docs clean install uninstall rollback wheelhouse

demo: $(VENV)/.run
	@$(BIN)/python -I examples/demo.py

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 4 --dist worksteal -m 'not long and not alone' $(PYTEST) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -m 'alone and not long' $(PYTEST) || [ $$? = 5 ] # 5: none is among those that are asked for

# A thousand years of simulation, the bugs that it must find, installs on a whole host, a soak.
test-long: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m long $(PYTEST)

# Needs root the first time, to build the machine in build/vm: another kernel, cgroup v2 and systemd, under qemu.
test-vm: $(VENV)/.dev
	@PYTHONPATH=tests:packaging $(BIN)/python -m vm $(SCENARIOS)

# So many points of each process, or all.
POINTS ?= 300
test-faults: $(VENV)/.dev
	@LNMT_FAULT_POINTS=$(POINTS) $(BIN)/python -m pytest -n 4 --dist worksteal -rfEP \
		-o faulthandler_timeout=0 tests/faults/test_kill.py tests/faults/test_errno.py $(PYTEST)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/.dev
	@$(BIN)/python benchmarks/run.py

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	@$(PYTHON) -m venv $(VENV) || { echo 'The venv module is missing: apt-get install python3-venv' >&2; exit 1; }

$(VENV)/.run: pyproject.toml setup.cfg | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml setup.cfg | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run

install uninstall wheelhouse:
	@$(SYSTEM_PYTHON) -c '$(NEW_ENOUGH)'
	@$(INSTALL)

rollback:
	@$(SYSTEM_PYTHON) -B packaging/versions.py --destdir '$(DESTDIR)'

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
