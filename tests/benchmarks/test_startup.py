"""Start-up: the verbs that must be quick beside importing torch, and cells in processes of their own.

`cells` runs nine training-free cells of 200 episodes, isolated, once from the fork server and once spawned; clips are decoded and
encoded beforehand, so that start-up and scoring remain. `second cell` tells the time until a cell reports that it begins.
"""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

import pytest
from helpers import annotation_rows, write_dataset

from fsar_bench.config.cell import Cell
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.sweep import run_isolated

COMMANDS = {
    "python alone": "pass",
    "--help": "import sys; sys.argv=['fsar-bench','--help']; from fsar_bench.cli.main import main; main()",
    "list": "import sys; sys.argv=['fsar-bench','list']; from fsar_bench.cli.main import main; main()",
    "import fsar_bench": "import fsar_bench",
    "import torch": "import torch",
}
FROZEN = ("zero_shot", "prototype_frozen", "otam_frozen", "bi_mhm_frozen", "matching_net_frozen", "tip_adapter")


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark, name):
    command = [sys.executable, "-c", COMMANDS[name]]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, check=True), rounds=3, warmup_rounds=1
    )
    assert done.returncode == 0


@pytest.fixture(scope="module")
def board(tmp_path_factory, cache) -> tuple[list[Cell], RunOptions]:
    """Nine training-free cells whose clips are decoded and encoded."""
    folder = tmp_path_factory.mktemp("board")
    dataset = write_dataset(folder / "tiny.py", annotation_rows())
    pairs = [
        f"dataset={dataset}",
        "episodes=200",
        "controls=false",
        f"out={folder / 'out'}",
        f"work_dir={folder / 'work'}",
    ]
    run = resolve([*pairs, f"methods={','.join(FROZEN)}"])
    more = resolve([*pairs, "methods=tip_adapter", "method.alpha=2,3,4"])
    cells = [*run.cells, *more.cells]
    assert len(cells) == 9
    run_isolated(cells[0], run.options)
    return cells, run.options


@pytest.mark.benchmark(group="nine frozen cells of 200 episodes")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_cells(benchmark, board, method):
    cells, options = board

    def run() -> int:
        return len([run_isolated(cell, options, method=method) for cell in cells])

    assert benchmark.pedantic(run, rounds=1) == 9


@pytest.mark.benchmark(group="start-up of a second cell")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_second_cell(benchmark, board, method):
    cells, options = board
    run_isolated(cells[0], options, method=method)
    starts = []

    def run() -> None:
        began, events = perf_counter(), []
        run_isolated(cells[1], options, lambda event: events.append(perf_counter() - began), method=method)
        starts.append(events[0])

    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["seconds_until_it_begins"] = [round(start, 3) for start in starts]
    assert len(starts) == 3
