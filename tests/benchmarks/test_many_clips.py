"""Lists and disks of 100,000 clips: import, prepare, and drawing 10,000 episodes. `extra_info` tells what a step
added to the peak memory of the process.
"""

from __future__ import annotations

import resource

import pytest

from fsar_bench.data.dataset import Dataset
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing import storing
from fsar_bench.data.importing.classes import table
from fsar_bench.data.importing.lists import read_lists, recognise, store_list
from fsar_bench.plan import EpisodePlan

CLIPS = 100_000


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A list of SSv2-Full's syntax and a flat folder with an empty file of each clip."""
    root = tmp_path_factory.mktemp("large")
    (root / "lists").mkdir()
    for split in ("train", "val", "test"):
        mine = [c for c in table("ssv2_full").classes if c.split == split]
        count = {"train": CLIPS * 8 // 10, "val": CLIPS // 10, "test": CLIPS // 10}[split]
        start = {"train": 0, "val": CLIPS * 8 // 10, "test": CLIPS * 9 // 10}[split]
        lines = [f"{split}{i % len(mine)}/{start + i}" for i in range(count)]
        (root / "lists" / f"{split}list.txt").write_text("\n".join(lines))
    (root / "clips").mkdir()
    for number in range(CLIPS):
        (root / "clips" / f"{number}.webm").touch()
    return root


@pytest.mark.benchmark(group=f"{CLIPS:,} listed clips")
@pytest.mark.parametrize("step", ["import", "prepare", "episodes"])
def test_many_clips(benchmark, disk, step, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(disk / "data"))

    def import_() -> int:
        read = read_lists("ssv2_full", disk / "lists")
        recognise(read)
        store_list("ssv2_full", read, "")
        return sum(len(rows) for rows in read.rows.values())

    def prepare() -> int:
        found = preparing.prepare("ssv2_full", disk / "clips")
        storing.store(found)
        return len(found.clips) - len(found.missing)

    def episodes() -> int:
        split = Dataset("ssv2_full", "prepared:ssv2_full").split("train")
        how = {"way": 5, "shot": 5, "query": 1, "episodes": 10_000, "seed": 0, "purpose": "train"}
        EpisodePlan.sample(split.list, **how)
        return CLIPS

    for earlier in {"import": (), "prepare": (import_,), "episodes": (import_, prepare)}[step]:
        earlier()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = benchmark.pedantic({"import": import_, "prepare": prepare, "episodes": episodes}[step], rounds=1)
    benchmark.extra_info["added_memory_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert done == CLIPS
