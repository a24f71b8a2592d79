"""Ranks of a training: the bytes of one rank, deaths that are told, and nothing that is left behind."""

from __future__ import annotations

from pathlib import Path

from helpers import outputs

from fsar_bench.config.resolve import resolve
from fsar_bench.engine.run import run_cell
from fsar_bench.progress.events import silent


def train(tiny, folder: Path, devices: int, *pairs: str, method: str = "otam", listener=silent) -> dict[str, bytes]:
    """Bytes of what a training of some ranks leaves, by file."""
    run = resolve(
        [
            f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "episodes=200", "workers=1", "checkpoint_seconds=0",
            f"out={folder / 'out'}", f"work_dir={folder / 'work'}", f"devices={devices}", f"methods={method}", *pairs,
        ]
    )  # fmt: skip
    (cell,) = run.cells
    run_cell(cell, run.options, listener)
    names = ("best.safetensors", "loss.csv", "curve.csv")
    found = {name: next((folder / "work").rglob(name)).read_bytes() for name in names}
    return {**found, **outputs(folder / "out")}


def test_two_ranks_train_the_bytes_of_one(tiny, tmp_path):
    """An update of 3 episodes leaves one rank without an episode in its second round; the last update has 2 episodes."""
    settings = "train.accumulate=3", "train.val_interval=6"
    stages = []
    alone = train(tiny, tmp_path / "1", 1, *settings)
    assert len(alone) == 5
    together = train(tiny, tmp_path / "2", 2, *settings, listener=stages.append)
    assert together == alone
    told = [event for event in stages if event.stage == "training"]
    assert [event.done for event in told] == list(range(1, 9))
