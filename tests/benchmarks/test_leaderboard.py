"""`fsar-bench leaderboard` on 1,000 results of 10,000 episodes: the first time, again, and on an empty store."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from stores import make_plan, predictions, store

BOARDS, ROWS = 50, 20


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """An empty store and one of 1,000 results on 50 boards."""
    root = tmp_path_factory.mktemp("stores")
    (root / "empty" / "results").mkdir(parents=True)
    for board in range(BOARDS):
        plan = make_plan(24, 100, way=5, episodes=10_000, seed=board)
        chance = np.random.default_rng(board).uniform(0.4, 0.9, ROWS)
        for row in range(ROWS):
            store(root / "full", f"m{row}", predictions(plan, chance[row], row), plan, dataset=f"toy{board}")
    return root


@pytest.mark.benchmark(group="leaderboard of 1,000 results")
@pytest.mark.parametrize("what", ["start-up", "first time", "again"])
def test_leaderboard(benchmark, stores, what):
    out = stores / ("empty" if what == "start-up" else "full")
    caches = iter(range(1000))

    def run() -> int:
        cache = stores / (f"cache{next(caches)}" if what == "first time" else "cache")
        command = [sys.executable, "-m", "fsar_bench.cli.main", "leaderboard", f"out={out}"]
        return subprocess.run(
            command, env={**os.environ, "FSAR_BENCH_CACHE": str(cache)}, stdout=subprocess.DEVNULL, check=True
        ).returncode

    if what == "again":
        run()
    assert benchmark.pedantic(run, rounds=1 if what == "first time" else 3) == 0
