"""A training on augmented clips: the same bytes whatever the workers, the cache and interruptions; val takes the centre crop."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import annotation_rows, write_dataset

import fsar_bench
from fsar_bench.config.resolve import resolve
from fsar_bench.data.augment import Augmentation
from fsar_bench.engine import loops
from fsar_bench.engine.episodes import TrainEpisodes
from fsar_bench.registry import DATASETS

AUGMENTED = {
    "train.crop": "resized", "train.crop_area": 0.4, "train.flip": "on", "train.jitter": 0.5, "train.grayscale": 0.3,
    "train.squash": True, "train.sampling": "jittered_ends", "train.loss_scale": 0.5, "train.no_decay": ["ln_", "bias"],
    "train.scheduler": {
        "type": "DoubleSpeedSteps", "epoch": 2, "steps": [0, 2], "factors": [1.0, 0.1], "start": 0.5, "episodes": 2,
    },
}  # fmt: skip


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny.py", annotation_rows())


@pytest.fixture(scope="module")
def train(dataset, cache):
    """Train OTAM on the tiny dataset in a folder; returns the best checkpoint, the losses and the val curve."""

    def call(folder: Path, **changes) -> tuple[bytes, str, str]:
        settings = {
            "dataset": dataset, "backbone": "tiny_clip", "episodes": 20, "workers": 1, "progress": False, "controls": False,
            "checkpoint_seconds": 0, "train.optimizer.lr": 0.003,
            "out": folder / "out", "work_dir": folder / "work", **AUGMENTED, **changes,
        }  # fmt: skip
        fsar_bench.run("otam", **settings)
        loss = next((folder / "work").rglob("loss.csv"))
        return (
            (loss.parent / "best.safetensors").read_bytes(),
            loss.read_text(),
            (loss.parent / "curve.csv").read_text(),
        )

    return call


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory) -> tuple[bytes, str, str]:
    return train(tmp_path_factory.mktemp("undisturbed"))


def test_a_killed_training_resumes_to_the_same_bytes(train, undisturbed, tmp_path, monkeypatch):
    original = loops.EpisodicTrainLoop.run_iter
    steps = []

    def run_iter(self, *arguments):
        if len(steps) == 5:
            raise Killed
        steps.append(1)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loops.EpisodicTrainLoop, "run_iter", run_iter)
        with pytest.raises(Killed):
            train(tmp_path)
    assert train(tmp_path) == undisturbed


@pytest.mark.parametrize("case", ["two workers, empty cache", "clips are not kept whole"])
def test_the_same_bytes_whatever_the_workers_and_the_cache(train, undisturbed, tmp_path, monkeypatch, dataset, case):
    if case == "two workers, empty cache":
        monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
        assert train(tmp_path, workers=2) == undisturbed
        return
    other = tmp_path / "tiny.py"
    other.write_text(dataset.read_text().replace("whole_clips_up_to = 64", "whole_clips_up_to = 0"))
    assert train(tmp_path, dataset=other) == undisturbed


def test_training_sees_augmented_clips_and_val_the_centre_crop(train, undisturbed, tmp_path):
    plain = {
        "train.crop": "center",
        "train.crop_area": 0.08,
        "train.flip": "off",
        "train.jitter": 0,
        "train.grayscale": 0,
        "train.squash": False,
    }
    weights, loss, curve = train(tmp_path, **plain)
    assert weights != undisturbed[0]
    assert loss.splitlines()[1] != undisturbed[1].splitlines()[1]
    assert curve.splitlines()[1] == undisturbed[2].splitlines()[1]  # before the first step only val clips matter


def test_a_training_tells_mmengine_what_it_augments(train, tmp_path):
    train(tmp_path, **{"train.augmented": "queries"})
    text = next((tmp_path / "work").rglob("config.py")).read_text()
    assert text.count("augmentation=dict(") == 1  # in the training's dataloader, not in those of val and test
    assert "augmented='queries'" in text


@pytest.mark.parametrize("augmented", ["all", "queries"])
def test_supports_are_only_cropped_where_the_queries_alone_are_augmented(dataset, augmented):
    (cell,) = resolve([f"dataset={dataset}", "methods=otam", "backbone=tiny_clip", "controls=false"]).cells
    asked = Augmentation("random", flip=0.5, jitter=0.5, grayscale=0.3)
    episodes = DATASETS.build(
        {
            "type": "TrainEpisodes", "dataset": cell.dataset.model_dump(), "template": "{}", "way": 3, "shot": 2,
            "query": 4, "episodes": 2, "seed": 0, "augmentation": vars(asked), "augmented": augmented,
            "frames": {"reader": "pyav", "resize": 32, "crop": 32, "frames": 4, "workers": 1, "seconds": 60},
        }
    )  # fmt: skip
    assert isinstance(episodes, TrainEpisodes)
    requests, pending = episodes._begin(1)
    assert len(episodes.source.collect(requests, pending)) == 18
    assert [request.augmentation for request in requests[6:]] == [asked] * 12
    assert {request.augmentation for request in requests[:6]} == {asked if augmented == "all" else asked.crop_alone}
