VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_ENV := dmc/cartpole-swingup-v0
DEMO_LOGS := logs/demo
export VENV PYTHON

.PHONY: help setup demo test gpu format check-format lint type docs

help:
	@echo "make demo     install, train PGRSAC on a MuJoCo task for a few minutes, show curve, video and generator"
	@echo "make test     install, run the tests"
	@echo "make gpu      on a CUDA device: the tests that need one, and tables of speed (torch must be a CUDA build)"
	@echo "make format lint type     ruff and mypy"
	@echo "make docs     the documentation as a site: build/docs/index.html"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml setup.py constraints.txt .ci/setup
	bash .ci/setup

demo: setup
	@rm -rf $(DEMO_LOGS)
	$(BIN)/sb3-pgr train --algo pgrsac --env $(DEMO_ENV) -n 3000 -f $(DEMO_LOGS) --seed 0 --progress \
		--eval-freq 250 --eval-episodes 2 --video-freq 3000 --verbose 0 \
		-params gradient_steps:4 learning_starts:500 learning_rate:0.001 "ent_coef:'auto_0.1'" "env_kwargs:dict(frame_skip=8)" \
		retrain_every:500 num_samples:10000 "generator:dict(train_steps=1000, dynamics_steps=1000)"  \
		"replay_buffer_kwargs:dict(warmup=500)"
	@$(BIN)/sb3-pgr plots -a pgrsac -e $(DEMO_ENV) -f $(DEMO_LOGS) -o $(DEMO_LOGS)/learning_curve.png
	@$(BIN)/sb3-pgr diagnose $(DEMO_LOGS)/pgrsac/*_1
	@echo "Video: $$(ls $(DEMO_LOGS)/pgrsac/*/videos/*.mp4 | tail -n 1)"

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

gpu: setup
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/update_speed.py --device cuda
	$(BIN)/python benchmarks/buffer_speed.py --device cuda

format: setup
	$(BIN)/ruff check --select I --fix -q .
	$(BIN)/ruff format -q .

check-format: setup
	$(BIN)/ruff check --select I -q .
	$(BIN)/ruff format --check -q .

lint: setup
	$(BIN)/ruff check .

# mypy sees the packages where they are imported from, which an editable install hides from it.
type: setup
	@rm -rf build/types && mkdir -p build/types/sb3_pgr
	@ln -s $(CURDIR)/sb3_pgr/* $(CURDIR)/envs $(CURDIR)/zoo_configs build/types/sb3_pgr/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml

docs: setup
	$(BIN)/sphinx-build -E -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo "Site: build/docs/index.html"
