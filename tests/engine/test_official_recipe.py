"""Trainings by published recipes, from frames to records, on a tiny dataset that bears the name of a published one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers import annotation_rows, write_dataset

import fsar_bench
from fsar_bench.results.store import read

SHORT = {
    "train.episodes": 4, "train.accumulate": 2, "train.query_per_class": 1, "train.val_episodes": 5, "train.val_interval": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = write_dataset(tmp_path_factory.mktemp("data") / "tiny.py", annotation_rows())
    path.write_text(path.read_text().replace('name="tiny"', 'name="hmdb51"'))
    return path


@pytest.fixture(scope="module")
def run(dataset, cache):
    def call(folder: Path, method: str, **settings):
        asked = {
            "dataset": dataset, "episodes": 10, "workers": 1, "progress": False, "controls": False, "recipe": "official",
            "out": folder / "out", "work_dir": folder / "work", **SHORT, **settings,
        }  # fmt: skip
        fsar_bench.run(method, **asked)
        (stored,) = [read(path.parent) for path in (folder / "out").rglob("result.json")]
        return stored.result, next((folder / "work").rglob("config.py")).read_text()

    return call


def test_a_training_by_the_settings_of_clip_fsar(run, tmp_path):
    result, config = run(tmp_path, "clip_fsar", backbone="tiny_clip", shot=5)
    assert result.cell.label.row.startswith("CLIP-FSAR (recipe=official, train.accumulate=2")
    for part in (
        "type='Adam'", "type='DoubleSpeedSteps'", "custom_keys=dict(", "clip_grad=None", "class_epsilon=0.01",
        "merge_before=True", "sampling='whole_segments'", "squash=True", "'draw_sword'", "shot=1",
    ):  # fmt: skip
        assert part in config, part
    assert result.cell.identity.train.shot == 1
    assert result.cell.protocol.shot == 5


def test_a_training_with_batch_norm_and_scaled_losses(run, tmp_path):
    result, config = run(tmp_path, "hyrsm", backbone="tiny_resnet", shot=2)
    assert "loss_scale=0.5" in config
    assert "train_batch_norm=True" in config
    assert result.backbone.mean == (0.45, 0.45, 0.45)
    assert result.backbone.std == (0.225, 0.225, 0.225)
    with next((tmp_path / "work").rglob("loss.csv")).open() as file:
        assert len(list(csv.DictReader(file))) == 4
