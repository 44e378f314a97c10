# Everything a checkout can do. Each target sets up .venv first (scripts/setup), which takes no time when it is up to date.
#
#   make demo     both halves on this machine, real 0MQ applications at both ends   (DEMO_SECONDS=10 ends it by itself)
#   make test     the whole test suite                                             (ARGS="tests/link -k resume")
#   make test-appliance   the package on two booted machines: reboots, power cuts, an upgrade under traffic (root)
#   make bench    ztunnel against two chained zmq_proxy and against direct sockets (ARGS="--quick --only throughput")
#   make deb      ztunnel_VERSION_ARCH.deb in build/deb, on Debian 12
#   make lint     ruff and mypy                                                    (make format mends what ruff can)
#   make clean    what was built here, .venv included

PYTHON_HERE := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup demo test test-appliance bench deb lint format clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

setup:
	@scripts/setup

demo: setup
	@$(PYTHON_HERE) -m demo $(ARGS)

test: setup
	@scripts/servers
	@scripts/test $(ARGS)

test-appliance: setup
	@scripts/servers
	@APPLIANCE=full $(PYTHON_HERE) -m pytest -n0 -s tests/appliance $(ARGS)

bench: setup
	@$(PYTHON_HERE) -m benchmarks $(ARGS)

deb:
	@packaging/build

lint: setup
	$(PYTHON_HERE) -m ruff check .
	$(PYTHON_HERE) -m ruff format --check .
	$(PYTHON_HERE) -m mypy

format: setup
	$(PYTHON_HERE) -m ruff format .
	$(PYTHON_HERE) -m ruff check --fix .

clean:
	rm -rf .venv build *.egg-info benchmarks/build tunnel/pump/_pump.c tunnel/pump/_pump*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
