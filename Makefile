PY := .venv/bin/python

.PHONY: install lint style types tables test slow benchmark timings audit campaign leaderboard agreement study pr

install:  ## make .venv with the suite, its tests and its tools
	python3 -m venv .venv
	.venv/bin/pip install -q -e '.[dev]'

lint: style types tables  ## style, types and stale tables

style:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types:
	.venv/bin/mypy

tables:
	.venv/bin/fsar-bench leaderboard --check
	$(PY) -m tools.readme_table --check
	$(PY) -m tools.methods_table --check
	$(PY) -m tools.committed_table --check
	$(PY) -m tools.agreement --check
	$(PY) -m tools.tuning_table --check
	$(PY) -m tools.study page --check

test:  ## the test suite
	$(PY) -m pytest

slow:  ## the tests that take long
	$(PY) -m pytest -m slow

benchmark:  ## measure this machine, and write docs/performance.md (DEVICE=cuda for a GPU)
	$(PY) -m tools.performance --device $(or $(DEVICE),auto)

timings:  ## times of single parts, side by side
	$(PY) -m pytest tests/benchmarks -n 0 --benchmark-only --benchmark-disable-gc

audit:  ## claims about intervals, tests and ranks on simulated boards whose truth is known
	$(PY) tests/statistics_audit.py

campaign:  ## kills, damaged files, full disks and runs at once, at random (docs/reliability.md)
	PYTHONPATH=tests $(PY) -m campaign

leaderboard:  ## rebuild the tables from the result files, docs/agreement.md, docs/tuning.md, and what runs compare themselves with
	.venv/bin/fsar-bench leaderboard
	$(PY) -m tools.readme_table
	$(PY) -m tools.committed_table
	$(PY) -m tools.agreement
	$(PY) -m tools.tuning_table
	$(PY) -m tools.methods_table

agreement:  ## how well the built-in boards predict the literature, from their results alone (docs/agreement.md)
	$(PY) -m tools.agreement

study:  ## run what is missing of the study of MA-CLIP, and write docs/ma_clip.md
	$(PY) -m tools.study run
	$(PY) -m tools.study page

pr: lint test slow  ## what CI runs, and the slow tests
