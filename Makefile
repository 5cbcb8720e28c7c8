# Two commands for everybody: `make demo` and `make test`. Each does the whole set-up first (once), then the job.
PYTHON ?= python3
PYTEST = .venv/bin/python -m pytest
DEMO_STEPS ?= 60

.PHONY: setup demo test test-long check format clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pennyweight needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch .venv/.ready

# bf16 and three recipes in few bits, the same tokens each: a table, and the path of a report.
demo: setup
	.venv/bin/pennyweight compare bf16 w8a8 w8a8g8 penny8 --steps $(DEMO_STEPS) --set evaluation.tokens=32768 evaluation.every=20 --out runs/demo

# The quick tier: every promise once, under ten minutes on two cores.
test: setup
	$(PYTEST) -n 2 -m "not long"

# The long tier: kill series, soak, statistics, full products of the test matrices.
test-long: setup
	$(PYTEST) -n 2 -m long

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache
