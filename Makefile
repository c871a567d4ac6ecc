# Two commands do everything: `make demo` and `make test`. Both set up their own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-chaos test-cluster setup lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bdray needs Python 3.11 or newer; got $$($(PYTHON) --version); name one with make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/install.py
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/bdray sweep sweeps/demo.py
	$(BIN)/bdray sweep sweeps/demo_modalities.py
	$(BIN)/bdray table --sweep demo --sort asr_after --picture store/demo.png
	$(BIN)/bdray table --sweep demo_modalities --columns victim,attack,utility_before,utility_after,asr_before,asr_after

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One process for the tests on Ray, two for the files of the others; tests/conftest.py says why.
test: lint
	$(BIN)/pytest -n 3 --no-loadscope-reorder --durations=10

# Killed processes, full disks and launches that meet: minutes.
test-chaos: $(STAMP)
	$(BIN)/pytest -m chaos tests/test_chaos.py

# Whole clusters, over ssh to addresses of this machine: not part of `make test`, because they need root.
test-cluster: $(STAMP)
	@[ "$$(id -u)" = 0 ] || { echo "make test-cluster adds addresses and runs an sshd, so it needs root; got $$(id -un), try sudo make test-cluster"; exit 2; }
	@{ [ -x /usr/sbin/sshd ] && command -v rsync > /dev/null && command -v ip > /dev/null; } || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends openssh-server rsync iproute2; }
	$(BIN)/pytest -m cluster tests/cluster

clean:
	rm -rf $(VENV) store build *.egg-info
