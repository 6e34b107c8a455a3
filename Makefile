# make demo: a sound from a fresh checkout.  make test: the tests.  make check: linters and types.  make bench: timings.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
PROMPT ?= a dog barking

.PHONY: demo test check bench wheel clean

demo: $(STAMP)
	$(BIN)/audiogen generate "$(PROMPT)" --out out/ --seed 7 --spectrogram --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# uv where it is to be had (some 20 s, and as long to compile), pip where not
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/python -m pip install --quiet uv; then \
	    VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet --compile-bytecode --editable ".[dev]"; \
	else $(BIN)/python -m pip install --quiet --editable ".[dev]"; fi
	touch $@

clean:
	rm -rf $(VENV) out dist build .pytest_cache .ruff_cache .mypy_cache
