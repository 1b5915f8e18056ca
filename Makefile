# Thin targets: whoever has Ansible runs `ansible-playbook site.yml` and `molecule test` with the same result.
PYTHON ?= python3
BIN := .venv/bin
APT := apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
# pip says nothing while it works, and little when it can't reach the index.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
NO_PIP := { echo "pip could not install the packages. Behind a proxy set HTTPS_PROXY; for an index of your own set PIP_INDEX_URL" >&2; exit 1; }
# Extra arguments for ansible-playbook, for example: make up ARGS='-e cluster_provider=existing'
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Progress is shown line by line where the output goes to a file or a pipe, too.
export PYTHONUNBUFFERED := 1
.DEFAULT_GOAL := help
.PHONY: help install up down verify check test build clean clean-images

help: ## Say what the targets do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15
	@echo "More arguments for ansible-playbook: make up ARGS='-e cluster_provider=kind'. A scenario alone: molecule test -s l7"

install: .venv/test ## Install Ansible and the test tools into .venv, and the packages they need

up: .venv/up ## Build the lab and prove its claims: a minute or two, the first time half an hour
	@echo "A new lab takes a minute or two. The first one on a machine compiles its parts before: half an hour on two cores"
	ansible-playbook site.yml $(ARGS)

verify: .venv/up ## Prove the claims of a running lab again
	ansible-playbook playbooks/verify.yml $(ARGS)

down: .venv/up ## Remove the lab; what was built stays in the cache
	ansible-playbook playbooks/cleanup.yml $(ARGS)

check: .venv/test ## Linters, types and unit tests: what one runs before a commit
	python tests/lanes.py check

# Where no Docker engine answers, the scenario kind gets one of its own, with a node image made here (molecule/kind).
# `make test KIND_ENGINE=` takes what is there, and skips the scenario where it cannot run.
test: .venv/test ## All there is: the checks, ansible-test, and labs from nothing to nothing, side by side
	python tests/lanes.py test

build: .venv/up ## Build the embedded cluster's parts into the cache
	ansible-playbook playbooks/build.yml $(ARGS)

clean: down clean-images ## Remove the lab, the cache and the virtual environment
	rm -rf .venv

clean-images: .venv/up ## Remove what was built; running labs need it, so none may run
	ansible-playbook playbooks/build.yml -e embedded_build_state=clean $(ARGS)

.venv/up: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version 2>&1) is too old or missing: Python 3.11 or newer is needed, name it with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { $(APT) python3-venv; }
	$(PYTHON) -m venv .venv
	@echo "Installing Ansible and its libraries into .venv: about a minute"
	@$(PIP) -r requirements.txt || $(NO_PIP)
	@touch $@

.venv/test: Makefile .venv/up requirements-dev.txt embedded/ztunnel/requirements.txt embedded/waypoint/requirements.txt
	@command -v curl >/dev/null || { $(APT) curl; }
	@[ -n "$$CHROMIUM" ] || command -v chromium >/dev/null || command -v google-chrome >/dev/null || { $(APT) chromium; }
	@$(BIN)/python -c 'import ctypes; ctypes.CDLL("libatomic.so.1")' 2>/dev/null || { $(APT) libatomic1; }
	@echo "Installing the test tools into .venv: about a minute"
	@$(PIP) -r requirements-dev.txt || $(NO_PIP)
	@touch $@
