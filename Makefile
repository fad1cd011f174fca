# `make demo` shows the tool at work, `make test` runs what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READERS := .readers/transformers-4.57.6

.PHONY: demo test lesser lint docs docs-serve oracles ray distillation readers clean

$(READY): pyproject.toml constraints.txt mergekit_omp.pth tests/no-deps.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python -r tests/no-deps.txt
	touch $@

# An older transformers for the tests, which run it in a process of its own.
$(READERS): tests/older-transformers.txt | $(READY)
	rm -rf .readers
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --target .readers/new -r $<
	mv .readers/new $@
	touch $@

readers: $(READERS)

demo: $(READY)
	$(BIN)/mergekit-omp demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes, a file of tests whole in one of them: in their order, or the files of few tests, which
# are slow ones, would come last and one of them work alone. Threads that wait in a loop are slow where
# cores are shared. macOS would end forks of a process that has used its frameworks.
test: export OBJC_DISABLE_INITIALIZE_FORK_SAFETY = YES
test: lint $(READERS)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The solver as on a processor with none of the instructions that it has fast ways for.
lesser: export NUMBA_CPU_NAME = generic
lesser: export NUMBA_CPU_FEATURES =
lesser: export ATEN_CPU_CAPABILITY = default
lesser: export MERGEKIT_OMP_INSTRUCTIONS =
lesser: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile tests/kernels tests/pursuit

# The site, in site/: open site/index.html. A broken link or anchor is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --strict

# Opt-in: whole published packages; fasttext is compiled, which takes minutes and a C++ compiler.
oracles: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[oracles]'
	$(BIN)/python -m pytest tests/oracles/originals.py

# Opt-in: a Ray of two workers, each of which imports all that there is: a minute on two cores.
ray: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest tests/comparison/on_ray.py

# Opt-in: the distillation page's script for TRL.
distillation: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[distillation]'
	$(BIN)/python -m pytest tests/recipes/with_trl.py

clean:
	rm -rf $(VENV) .readers build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
