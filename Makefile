# make demo   install, train the embedded example, show the result
# make test   install, run the test suite
# make lint   install, check style
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that share the test files; 0 for none but pytest itself.
WORKERS ?= 2
# Threads that wait busily make two processes on one machine crawl.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.installed: requirements/lock.txt setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, this is " \
	  + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation -e .
	touch $@
