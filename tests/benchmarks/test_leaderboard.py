"""`fsar-bench leaderboard` on 1,000 results of 10,000 episodes: the first time, again, and on an empty store.

And how time and memory grow with the rows of one board.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from time import process_time

import numpy as np
import pytest
from stores import fill, make_plan, predictions, store

from fsar_bench.leaderboard.boards import build_boards
from fsar_bench.leaderboard.jackknife import jackknife_over_clips
from fsar_bench.leaderboard.ranking import Reader, rank_rows
from fsar_bench.results.store import read_all

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


LARGE = 1200


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The rows of a board, and their plan."""
    root = tmp_path_factory.mktemp("large")
    plan = make_plan(24, 100, way=5, episodes=2000)
    fill(root, LARGE, plan)
    (board,) = build_boards(read_all(root / "results"))
    return board.rows, plan


def seconds(rows, plan) -> float:
    start = process_time()
    rank_rows(Reader(rows, lambda row: plan, None))
    return process_time() - start


def test_time_grows_with_the_rows_and_not_with_their_pairs(benchmark, large):
    """Of rows beyond those that are compared in pairs, four times as many; all pairs one by one would take much longer."""
    rows, plan = large
    few, more = (seconds(rows[:count], plan) for count in (200, 450))
    most = benchmark.pedantic(seconds, (rows, plan), rounds=1)
    assert (most - few) / (more - few) < 2 * (1200 - 200) / (450 - 200)
    start = process_time()
    right = np.stack([row.right() for row in rows[:30]])
    for pair in combinations(range(30), 2):
        jackknife_over_clips(right[list(pair)], classes=plan.classes, support=plan.support, query=plan.query)
    of_pair = (process_time() - start) / (30 * 29 / 2)
    print(f"{few:.2f} s for 200 rows, {more:.2f} s for 450, {most:.2f} s for 1,200; {1000 * of_pair:.1f} ms a pair")
    assert most < of_pair * LARGE * (LARGE - 1) / 2 / 5


def test_reading_a_remembered_store_is_faster_than_checking_it(benchmark, large, tmp_path):
    rows, _ = large
    root = rows[0].seeds[0].folder.parents[2]
    start = process_time()
    read_all(root, tmp_path)
    first, start = process_time() - start, process_time()
    assert len(benchmark.pedantic(read_all, (root, tmp_path), rounds=1)) == LARGE
    assert process_time() - start < first
