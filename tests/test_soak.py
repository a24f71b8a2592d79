"""Many cells from one process: nothing piles up. `python tests/test_soak.py 200` prints the figures."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import annotation_rows, write_dataset

CELLS, WARM = 40, 5


class Held(NamedTuple):
    """What a process holds.

    Attributes:
        descriptors: open files.
        threads: of this process.
        children: living processes below it.
        megabytes: resident memory.
    """

    descriptors: int
    threads: int
    children: int
    megabytes: float


def held() -> Held:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    below = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= grown
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    megabytes = int(status["VmRSS"].split()[0]) / 1024
    return Held(len(os.listdir("/proc/self/fd")), int(status["Threads"]), len(below) - 1, megabytes)


def soak(folder: Path, dataset: Path, cells: int) -> Iterator[Held]:
    """Run cells of one method with as many seeds, each by a command of its own, and tell what is held after each."""
    from fsar_bench.cli.run import run_command

    for seed in range(cells):
        words = [
            "methods=prototype_frozen", f"dataset={dataset}", "backbone=tiny_clip", "episodes=20", "way=2", "controls=false",
            "device=cpu", "workers=1", f"seed={seed}", f"out={folder / 'out'}", f"work_dir={folder / 'work'}",
        ]  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            assert run_command(words) == 0
        yield held()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_nothing_piles_up_over_many_cells(tiny, tmp_path):
    after = list(soak(tmp_path, tiny, CELLS))
    assert after[-1].descriptors <= after[WARM].descriptors
    assert after[-1].threads <= after[WARM].threads
    assert after[-1].children <= after[WARM].children  # a fork server, and the resource tracker
    assert after[-1].megabytes < after[WARM].megabytes + 30


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="fsar-soak-"))
    os.environ["FSAR_BENCH_CACHE"] = str(place / "cache")
    dataset = write_dataset(place / "tiny.py", annotation_rows())
    for number, now in enumerate(soak(place, dataset, int(sys.argv[1])), 1):
        if number in (1, 2, 5, 10, 20) or number % 50 == 0:
            print(f"after {number:3} cells: {now}", flush=True)
