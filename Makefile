# The commands that a person needs; `make help` lists them.
# Each does its own set-up, once: tools/setup_env.py does nothing if the environment is up to date.

PYTHON = python3
VENV = .venv
# MMDetection lives in an environment of its own, next to this one.
PEER_VENV = .venv-peer
# More for pytest, for instance ARGS="-k matcher", or for the comparisons with MMDetection.
ARGS =

RUN = "$(VENV)/bin/python"
SOURCES = projects tests tools dev demo train_net.py setup.py
DEMO_CONFIG = configs/Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml
DEMO_OUTPUT = output/demo

.PHONY: help install test lint parity demo clean check-python
.DEFAULT_GOAL := help

help:
	@echo "make demo      train on the embedded data set, evaluate, make $(DEMO_OUTPUT)/report.html"
	@echo "make test      run the tests (ARGS=... for pytest)"
	@echo "make lint      check format, style and types"
	@echo "make parity    compare full-size models with MMDetection's, side by side; RECORD=1 writes docs/parity.md"
	@echo "make install   set up the environment alone (the others do it by themselves)"
	@echo "make clean     remove build products and caches; leaves $(VENV), datasets and output"
	@echo "make benchmark time and memory beside MMDetection's; RECORD=1 writes docs/benchmarks/"
	@echo "VENV=DIR and PYTHON=PROGRAM replace $(VENV) and $(PYTHON); remove $(VENV) to start over"

IS_NEW = $(shell { "$(PYTHON)" -c "import sys; print(sys.version_info >= (3, 11) or '')"; } 2>/dev/null)
VERSION = $(lastword missing $(shell "$(PYTHON)" --version 2>/dev/null || true))

check-python:
	@$(if $(IS_NEW),,$(error needs Python 3.11 or newer, $(PYTHON) is $(VERSION); set PYTHON=))

install: check-python
	@"$(PYTHON)" tools/setup_env.py "$(VENV)"

test: install
	@$(RUN) -m pytest $(ARGS)

lint: install
	@$(RUN) -m black --check $(SOURCES)
	@$(RUN) -m isort --check-only $(SOURCES)
	@$(RUN) -m flake8 $(SOURCES)
	@$(RUN) -m mypy

# 20 minutes to an hour on two cores: this project runs twice, with its speed-ups and without any.
parity: install
	@$(RUN) dev/setup_peer.py "$(VENV)" "$(PEER_VENV)"
	@$(RUN) -W ignore -m dev.parity.compare --peer "$(PEER_VENV)" $(if $(RECORD),--record docs/parity.md) $(ARGS)

# The demo's folder is made anew: curves of two runs in one file would be no curves.
demo: check-python
	@set -e; now() { date +%s; }; t0=$$(now); \
	"$(PYTHON)" tools/setup_env.py "$(VENV)"; t1=$$(now); \
	$(RUN) tools/make_shapes.py; t2=$$(now); \
	rm -rf "$(DEMO_OUTPUT)"; \
	$(RUN) train_net.py --config-file $(DEMO_CONFIG) OUTPUT_DIR "$(DEMO_OUTPUT)"; t3=$$(now); \
	$(RUN) tools/make_report.py --output-dir "$(DEMO_OUTPUT)"; t4=$$(now); \
	echo; \
	echo "install                 $$((t1 - t0)) s"; \
	echo "data                    $$((t2 - t1)) s"; \
	echo "training + evaluation   $$((t3 - t2)) s"; \
	echo "report                  $$((t4 - t3)) s"; \
	echo "all                     $$((t4 - t0)) s"; \
	echo "model and figures: $(DEMO_OUTPUT)/ (model_final.pth, results.json, metrics.json, log.txt)"; \
	echo "open in a browser: $(DEMO_OUTPUT)/report.html"

# 8 to 25 minutes on two cores; stop everything else, it tells how quiet the machine was.
.PHONY: benchmark
benchmark: install
	@$(RUN) dev/setup_peer.py "$(VENV)" "$(PEER_VENV)"
	@$(RUN) -W ignore -m dev.benchmark.compare_with_mmdet --peer "$(PEER_VENV)" $(if $(RECORD),--record) $(ARGS)

clean:
	rm -rf build dist projects/QueryInst/*.egg-info .mypy_cache .pytest_cache
	@find projects tests tools dev demo -type d -name __pycache__ -prune -exec rm -rf {} +
