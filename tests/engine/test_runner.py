"""MMEngine's side: a training is a config file that MMEngine's own verbs repeat; schedules, hooks and backends by config."""

from __future__ import annotations

import hashlib
import logging
import os
import re

import numpy as np
import pytest
from helpers import annotation_rows, write_dataset
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import is_split_closed, open_dataset
from fsar_bench.engine.runner import EpisodicRunner
from fsar_bench.errors import ConfigError, ProtocolError
from fsar_bench.methods.video_text import VideoText
from fsar_bench.registry import HOOKS
from fsar_bench.results.plans import checked_plan

SMALL = {"backbone": "tiny_clip", "method.ffn_width": 64, "train.episodes": 8, "episodes": 200, "controls": False}


@HOOKS.register_module(force=True)
class CountSteps(Hook):
    """A hook of a user: counts training steps, and tries to open the test split in one of them."""

    steps = 0
    refused = ""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        type(self).steps += 1
        if batch_idx == 3:
            with pytest.raises(ProtocolError) as error:
                runner.train_loop.episodes.dataset.split("test")
            type(self).refused = str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """The folder of a training that `fsar_bench.run` did, and its result."""
    from helpers import annotation_rows, write_dataset

    import fsar_bench

    folder = tmp_path_factory.mktemp("trained")
    dataset = write_dataset(folder / "tiny.py", annotation_rows())
    (stored,) = fsar_bench.run(
        "ma_clip", dataset=dataset, workers=1, progress=False, out=folder / "out", work_dir=folder / "work", **SMALL
    )
    return next((folder / "work").rglob("config.py")).parent, stored


def config_in(trained, folder) -> Config:
    config = Config.fromfile(str(trained[0] / "config.py"))
    config.work_dir = str(folder)
    return config


@pytest.mark.parametrize("build", [EpisodicRunner.from_cfg, Runner.from_cfg, RUNNERS.build])
def test_a_runner_from_the_config_file_trains_the_same_bytes_and_tests_the_same_accuracy(trained, tmp_path, build):
    """Our runner, MMEngine's own (on a machine without a GPU they are the same), and its registry."""
    folder, stored = trained
    runner = build(config_in(trained, tmp_path))
    runner.train()
    assert (tmp_path / "best.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()
    metrics = runner.test()
    assert metrics["query/accuracy"] == pytest.approx(stored.result.metrics.accuracy, abs=1e-9)
    assert not is_split_closed("test")


def test_the_config_is_complete_and_says_how_it_is_used(trained):
    text = (trained[0] / "config.py").read_text()
    assert "EpisodicRunner.from_cfg(Config.fromfile" in text
    config = Config.fromfile(str(trained[0] / "config.py"))
    assert config.default_scope == "fsar_bench"
    assert config.model.type == "MACLIP"
    assert config.model.backbone.type == "CLIPBackbone"
    assert config.train_dataloader.dataset.type == "TrainEpisodes"
    assert config.train_cfg.max_iters == 8


def test_a_test_from_the_config_file_alone_uses_the_best_checkpoint(trained, tmp_path):
    (tmp_path / "best.safetensors").write_bytes((trained[0] / "best.safetensors").read_bytes())
    metrics = EpisodicRunner.from_cfg(config_in(trained, tmp_path)).test()
    assert metrics["query/accuracy"] == pytest.approx(trained[1].result.metrics.accuracy, abs=1e-9)


def test_hooks_and_schedules_come_from_settings_and_the_test_split_stays_closed(run_tiny, tmp_path):
    CountSteps.steps, CountSteps.refused = 0, ""
    (stored,) = run_tiny(
        "otam",
        train={"hooks": [{"type": "CountSteps"}], "scheduler": {"type": "ConstantLR", "factor": 1.0}},
        controls=False,
    )
    assert CountSteps.steps == 8
    assert "Something tried to open the 'test' split" in CountSteps.refused
    assert stored.result.cell.identity.train.hooks == [{"type": "CountSteps"}]
    log = "".join(path.read_text() for path in (tmp_path / "work_dirs").rglob("*.log"))
    rates = set(re.findall(r"lr: (\S+)", log))
    assert rates == {"1.0000e-05"}  # otam's own, constant: no warm-up, no cosine


def open_logs() -> list[str]:
    """Log files that this process has open."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sorted(
        path for path in map(os.readlink, filter(os.path.islink, links)) if path.endswith((".log", "log.txt"))
    )


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files in /proc")
def test_a_training_leaves_no_open_log_behind(run_tiny, capsys):
    before = open_logs()
    run_tiny("otam", controls=False)
    print_log("after the training", logger="current", level=logging.WARNING)
    assert "Logging error" not in capsys.readouterr().err
    assert open_logs() == before


def test_only_registered_names_are_built(run_tiny):
    for train, message in (
        (
            {"hooks": [{"type": "os.system"}]},
            r"train\.hooks\[0\]\.type='os\.system' is not the name of a registered class",
        ),
        ({"scheduler": {"type": "CosineAnealingLR"}}, "Did you mean 'CosineAnnealingLR'"),
        ({"optimizer": {"type": "AdamX"}}, "Did you mean 'Adam"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_tiny("otam", train=train, controls=False)


def test_tensorboard_holds_the_curve(run_tiny, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_tiny("otam", log=["tensorboard"], controls=False)
    (events,) = (tmp_path / "work_dirs").rglob("events.out.tfevents.*")
    curve = accumulator.EventAccumulator(str(events))
    curve.Reload()
    folder = next((tmp_path / "work_dirs").rglob("curve.csv")).parent
    points = [line.split(",") for line in (folder / "curve.csv").read_text().splitlines()[1:]]
    logged = {event.step: event.value for event in curve.Scalars("query/accuracy")}
    assert logged == {int(step): pytest.approx(float(value), abs=1e-4) for step, value in points}
    losses = [float(line.split(",")[1]) for line in (folder / "loss.csv").read_text().splitlines()[1:]]
    assert [event.value for event in curve.Scalars("loss")] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(run_tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_tiny("otam", log=["wandb"], controls=False)
    (run,) = (tmp_path / "work_dirs").rglob("offline-run-*/run-*.wandb")
    assert run.stat().st_size > 1000


def test_a_log_backend_that_is_not_installed_is_named(run_tiny):
    with pytest.raises(ConfigError, match="log=aim needs the package aim"):
        run_tiny("otam", log="aim", controls=False)


def test_a_shared_training_does_not_depend_on_arguments_of_the_score(tmp_path, tiny):
    from fsar_bench.config.settings import RunOptions
    from fsar_bench.engine.run import CellRun

    keys = {}
    for name, settings in {
        "modes": ["methods=clip_fsar", "method.mode=visual,text,ensemble", "shot=1,2"],
        "plain": ["methods=ma_clip"],
        "seed": ["methods=ma_clip", "seed=1"],
        "alpha": ["methods=ma_clip", "method.alpha=0.4"],
        "episodes": ["methods=ma_clip", "train.episodes=6"],
        "frames": ["methods=ma_clip", "frames=4"],
        "template": ["methods=ma_clip", "template=a clip of {}"],
        "training seed": ["methods=ma_clip", "train.seed=1"],
        "tuned": ["methods=otam"],
        "frozen": ["methods=otam_frozen"],
    }.items():
        keys[name] = []
        for cell in resolve([*settings, f"dataset={tiny}", "backbone=tiny_clip", "controls=false"]).cells:
            with CellRun.open(cell, RunOptions(work_dir=tmp_path / "work")) as run:
                keys[name].append(run.keys)
    assert len({key.training for key in keys["modes"]}) == 1
    others = [key.training for name, (key, *_) in keys.items() if name not in ("modes", "plain", "tuned", "frozen")]
    assert len({keys["plain"][0].training, *others}) == 7
    assert keys["frozen"][0].training is None
    assert keys["tuned"][0].weights == keys["frozen"][0].weights  # those before the training


def test_a_training_is_built_without_the_arguments_of_the_score(run_tiny, monkeypatch):
    assert len(run_tiny("actionclip", **{"train.episodes": 1}, controls=False)) == 1  # `matcher` is one of them
    monkeypatch.setattr(VideoText, "score_only", ("matcher", "backbone"))
    with pytest.raises(
        ConfigError, match="actionclip lists 'backbone' in score_only, and its constructor has no default for it"
    ):
        run_tiny("actionclip", **{"train.episodes": 2})


def test_a_result_knows_the_recordings_of_its_clips(run_tiny, tmp_path):
    """The annotation tells them; episodes are drawn regardless of them unless the protocol says otherwise."""
    table = annotation_rows()
    for number, clip in enumerate(table["clips"]):
        clip["recording"] = f"film {number // 2:03d}"  # clips are sorted by class: some films span two classes
    (known,) = run_tiny("zero_shot", dataset=write_dataset(tmp_path / "films.py", table), controls=False)
    split = open_dataset("tiny", str(tmp_path / "films.json")).split("test")
    films = [clip.recording for clip in split.clips]
    numbers = [sorted(set(films)).index(film) for film in films]
    plan = checked_plan(known)
    assert plan.recordings.tolist() == numbers
    assert known.result.data.recordings == hashlib.sha256(np.array(numbers, "<i8").tobytes()).hexdigest()
    assert known.plan_file.name == f"{plan.realised[:16]}-{known.result.data.recordings[:16]}.npz"
    (unknown,) = run_tiny("zero_shot", controls=False)
    assert (unknown.result.data.recordings, checked_plan(unknown).recordings) == (None, None)
    assert unknown.result.episodes == known.result.episodes


def test_group_disjoint_needs_names_that_tell_the_recording(run_tiny, tiny):
    with pytest.raises(ProtocolError, match="tell the source recording of every clip"):
        run_tiny("zero_shot", group_disjoint=True, controls=False)
    assert open_dataset("synthact", "builtin:synthact").names == ["train", "val", "test"]
