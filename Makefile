# `make help` lists the targets. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where PyTorch comes from: its CPU wheels, or with TORCH_INDEX= whatever PyPI has (on Linux a CUDA build of several GB).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
MODEL ?= models/en
ADDRESS ?= 127.0.0.1:50051
EMBEDDED := model/nermodel/en/000005.safetensors

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow chaos soak train serve bench bench-gpu bench-training bench-peers reproduce-conll default-model proto lint type check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV), a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --retries 1 --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "torch>=2.11,<2.14"
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed ## Start a server, tag examples/sample.txt through the client, stop
	@$(BIN)/python examples/demo.py

test: $(VENV)/installed ## Run every quick test
	$(BIN)/pytest

test-slow: $(VENV)/installed ## Run the tests that take minutes
	$(BIN)/pytest -m slow

chaos: $(VENV)/installed ## Hurt servers and print what each promise comes to, 10 minutes
	$(BIN)/pytest -m "chaos or promise" tests/chaos tests/server/test_tls.py tests/server/test_gate.py

soak: $(VENV)/installed ## The same for half an hour under load, cancels and reloads
	$(BIN)/pytest -m soak tests/chaos

train: $(VENV)/installed ## Go on from the embedded model on examples/corpus, and publish into MODEL (models/en)
	$(BIN)/nertrainer train --train examples/corpus/train.conll --dev examples/corpus/dev.conll \
	  --start $(EMBEDDED) --epochs 3 --lr 5e-5 --word-lr 5e-5 --margin 1 --output $(MODEL)

serve: $(VENV)/installed ## Serve the newest checkpoint of MODEL on ADDRESS, at first the embedded one
	@mkdir -p $(MODEL) && { ls $(MODEL)/*.safetensors >/dev/null 2>&1 || cp $(EMBEDDED) $(MODEL)/; }
	$(BIN)/nerserver --model $(MODEL) --address $(ADDRESS)

bench-training: $(VENV)/installed ## Measure training against the plain loop: DATA=train.conll
	$(BIN)/python tests/bench/training.py $(DATA)

bench-gpu: $(VENV)/installed ## Measure the tagger on a CUDA device against plain torch on the same one
	$(BIN)/python -m tests.bench.gpu

bench: $(VENV)/installed ## Measure the tagger and the server on this machine, about a minute
	$(BIN)/python -m tests.bench.service

bench-peers: $(VENV)/installed ## Measure other servers of the same model, and spaCy, beside ours: PEERS=mosec,litserve
	$(BIN)/python -m tests.bench.peers --torch-index "$(TORCH_INDEX)" --peers "$(PEERS)"

reproduce-conll: $(VENV)/installed ## Train on CoNLL-2003, five seeds and ablations: DATA=corpora VECTORS=glove.6B.100d.txt
	trainer/reproduce-conll.sh $(BIN) "$(DATA)" "$(VECTORS)"

default-model: $(VENV)/installed ## Train the embedded model anew: DATA=corpora VECTORS=glove.6B.100d.txt
	trainer/default-model.sh $(BIN) "$(DATA)" "$(VECTORS)"

proto: $(VENV)/installed ## Generate the modules of the wire contract
	$(BIN)/python -m grpc_tools.protoc -Iprotos -I"$$($(BIN)/python tests/protos/include.py)" \
	  --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/ner/v1/*.proto

lint: $(VENV)/installed ## Check style, format and the wire contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@mkdir -p build
	$(BIN)/python -m grpc_tools.protoc -Iprotos -I"$$($(BIN)/python tests/protos/include.py)" \
	  --include_imports --include_source_info -o build/ner.binpb protos/ner/v1/*.proto
	$(BIN)/buf lint build/ner.binpb --config protos/buf.yaml

type: $(VENV)/installed ## Check types
	$(BIN)/mypy

check: lint type test ## lint, type and test

clean: ## Remove what was built; models stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
