"""What a training did with its time: in its log, in its folder and in the cost file; files of earlier versions have none."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from fsar_bench.engine import speed
from fsar_bench.engine.speed import SPEED, MeasureSpeed, speed_of
from fsar_bench.results.record import Cost


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(speed, "perf_counter", lambda: time.now)
    return time


def runner_in(folder):
    scalars = {}
    return SimpleNamespace(
        train_loop=SimpleNamespace(episodes=SimpleNamespace(waited=3.0, clips=30)),
        message_hub=SimpleNamespace(update_scalar=scalars.__setitem__),
        cfg={"device": "cpu"},
        work_dir=str(folder),
        scalars=scalars,
    )


def episode(hook, runner, clock, *, seconds: float, waiting: float) -> None:
    clock.now += seconds
    runner.train_loop.episodes.waited += waiting
    hook.after_train_iter(runner, 0)


def test_waiting_rate_and_utilisation_are_those_of_the_clock(clock, tmp_path):
    hook, runner = MeasureSpeed(), runner_in(tmp_path)
    clock.now += 50  # what was before the training does not count
    hook.before_train(runner)
    episode(hook, runner, clock, seconds=4, waiting=1)
    clock.now += 1000  # nor does a validation
    hook.after_val(runner)
    episode(hook, runner, clock, seconds=6, waiting=1)
    assert runner.scalars["train/clips_per_second"] == 6.0
    assert runner.scalars["train/utilisation"] == 0.8
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    resumed = MeasureSpeed()
    resumed.after_load_checkpoint(runner, {})  # of an earlier version
    resumed.after_load_checkpoint(runner, checkpoint)
    clock.now += 7
    resumed.before_train(runner)
    episode(resumed, runner, clock, seconds=10, waiting=8)
    resumed.after_train(runner)
    cost = speed_of(tmp_path)
    assert (cost.waiting, cost.utilisation, cost.clips_per_second) == (10.0, 0.5, 4.5)
    assert cost.memory.host > 10


def test_a_training_without_the_file_or_with_a_damaged_one_has_no_speed(tmp_path, caplog):
    assert speed_of(tmp_path) is None
    (tmp_path / SPEED).write_text('{"waiting": -1}')
    assert speed_of(tmp_path) is None
    assert "the cost of this training is not known" in caplog.text


def test_log_and_cost_file_tell_it(run_tiny, tmp_path):
    settings = {"controls": False, "train.episodes": 4, "train.val_episodes": 4, "episodes": 20}
    (stored,) = run_tiny("otam", **settings)
    cost = json.loads((stored.folder / "cost.json").read_text())["training"]
    assert cost["clips_per_second"] > 0
    assert 0 <= cost["utilisation"] <= 1
    log = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert re.search(r"Iter\(train\) \[4/4\].* clips_per_second: [\d.]+ .*utilisation: [\d.]+ .*peak_mb: \d+", log)


def test_cost_files_of_earlier_versions_are_read_and_stay_as_they_are():
    text = '{"seconds":{"train":1.5},"videos":3,"memory":{"host":10.0}}'
    cost = Cost.model_validate_json(text)
    assert cost.training is None
    assert json.loads(cost.model_dump_json(exclude_none=True)) == json.loads(text)
