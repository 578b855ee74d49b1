# The short names. Everything runs in .venv; `make install` makes it.
PYTHON := .venv/bin/python

.PHONY: install check test slow docs bench recipe
install:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[dev]"
check:
	$(PYTHON) -m ruff check src tests docs examples benchmarks
	$(PYTHON) -m pyright src/perdure
test:
	$(PYTHON) -m pytest -q -n 2
slow:
	$(PYTHON) -m pytest -q -m slow
docs:
	$(PYTHON) docs/generate.py
	.venv/bin/zensical build --clean
bench:
	@echo "one script a question: see benchmarks/README.md"
recipe:
	.venv/bin/perdure learn recipes/$(NAME).toml --out runs/$(NAME) --resume auto
