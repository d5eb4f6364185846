# make help lists the targets. Every target that needs the project built depends on setup; a second run of setup
# finds its stamps and downloads nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The distribution's interpreter first: it is built with all optimisations, which one that was built on the spot rarely
# is, and the Sentry feels it in every system call.
PYTHON ?= $(firstword $(foreach p,/usr/bin/python3 python3,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
NEED := packaging/need
C_SOURCES := $(wildcard platform_*/core/*.[chS] platform_*/core/*.ld platform_*/core/build.py sandbox/*_build.py sandbox/*.[ch] \
	sentry/vdso/build*.py sentry/vdso/*.[ch] sentry/vdso/*.lds)
PYTEST := $(BIN)/python -m pytest
# What pip does when it installs.  Else whoever may not write bytecode compiles half of pysc at every command.
COMPILE := $(BIN)/python -m compileall -q proto shim cli sandbox gofer sentry platform_ptrace platform_systrap platform_kvm
JOBS ?= 2

.PHONY: help setup setup-test check gen package test test-unit test-guest test-integration test-packages test-kvm test-soak \
	test-engines engines demo bench bench-kvm image clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.pysc-built  ## build .venv with pysc and the shim in it

$(VENV)/.pysc-deps: pyproject.toml
	@$(NEED) setup
	@echo "setup: Python packages into $(VENV) (run time: cffi, protobuf, pyseccomp; the rest is for make check and make test)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python packaging/dependencies.py | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.pysc-built: $(VENV)/.pysc-deps setup.py $(C_SOURCES)
	@echo "setup: C cores, $(BIN)/pysc and $(BIN)/containerd-shim-pysc-v1"
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	@rm -f $(VENV)/lib/python3*/site-packages/distutils-precedence.pth  # a hook of setuptools that every start would run
	@$(COMPILE)
	@touch $@

setup-test: setup
	@$(NEED) test
	@$(NEED) kvm || echo "setup-test: without them, the tests in the machine with software SVM are skipped"

check: setup  ## ruff, mypy --strict, import rules, generated files fresh
	@$(NEED) gen
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	@$(BIN)/python packaging/generate.py --check

gen: setup  ## write the generated files again
	@$(NEED) gen
	@$(BIN)/python packaging/generate.py

package: setup  ## dist/: a wheel, the wheels that it needs, and a Debian package
	@$(NEED) package
	@$(BIN)/python packaging/build_wheel.py
	@$(BIN)/python packaging/build_deb.py

test: setup-test  ## everything: unit, guest and integration tests
	$(PYTEST) -n $(JOBS) --dist loadgroup tests

test-unit: setup  ## unit tests only; quick
	$(PYTEST) -n $(JOBS) tests/unit

test-guest: setup-test  ## the C programs of tests/guest, natively and in the sandbox
	$(PYTEST) -n $(JOBS) --dist loadgroup tests/integration/test_guest.py

test-integration: setup-test  ## against a real, private containerd
	$(PYTEST) -n $(JOBS) --dist loadgroup tests/integration

test-packages: setup-test  ## install the packages in minimal roots, and take them away again
	$(PYTEST) -m "" tests/integration/test_packages.py

test-kvm: setup-test  ## the platform and guest tests for kvm (or PLATFORM=...) in a machine with software SVM
	@$(NEED) kvm
	$(BIN)/python -m tests.kvm.suite $(or $(PLATFORM),kvm) -q --durations=5

test-soak: setup-test  ## the tests that take minutes each, one after the other
	$(PYTEST) -m soak -s tests

engines:  ## build nerdctl and crictl as Go modules, in the user's cache folder; the tests use them if they are there
	@$(PYTHON) packaging/engines.py build

test-engines: setup-test engines  ## Docker, podman, nerdctl, crictl, containerd's own shim: each drives pysc as it drives runc
	$(PYTEST) -m "not soak" -n $(JOBS) --dist loadgroup tests/integration/engines

demo: setup  ## show it: containers from ctr on our own kernel (PLATFORM=kvm: on that platform); cleans up after itself
	@$(NEED) demo
	@PLATFORM=$(PLATFORM) packaging/demo

bench: setup  ## beside Linux and other runtimes, 10 to 15 minutes; QUICK=1: 2 minutes, and docs/ stays as it is
	@$(NEED) bench
	@$(COMPILE)
	$(BIN)/python -m bench $(if $(QUICK),--quick,--write) $(addprefix --runsc ,$(RUNSC))

bench-kvm: setup  ## beside runsc's kvm platform in the machine with software SVM: only ratios mean anything
	@$(NEED) kvm
	@$(NEED) bench
	$(BIN)/python -m bench.emulated --write

clean:  ## remove what setup and the tests made
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f platform_*/core/_*.c platform_*/core/*.o sandbox/_*.c sandbox/deputy sentry/vdso/_*.c
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name '*.so' -exec rm -f {} +
