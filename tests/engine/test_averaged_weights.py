"""Hooks that average weights: val measures the average, the best checkpoint holds it, and a kill changes nothing."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from safetensors.torch import load_file

from fsar_bench.engine import loops
from fsar_bench.engine.checkpoint import trainable_state
from fsar_bench.engine.loops import QueryAccuracy
from fsar_bench.engine.runner import EpisodicRunner
from fsar_bench.registry import HOOKS

MOMENTUM = 0.3
Weights = dict[str, torch.Tensor]


def copied(model) -> Weights:
    return {name: tensor.clone() for name, tensor in trainable_state(model).items()}


@HOOKS.register_module()
class RecordWeights(Hook):
    """Keep the weights after every training step, and those that val measures."""

    trained: list[Weights]
    measured: list[Weights]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append(copied(runner.model))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.measured.append(copied(runner.model))


def moving_average(trained: list[Weights]) -> Weights:
    """The first weights, and of each later step its share."""
    average = {name: tensor.double() for name, tensor in trained[0].items()}
    for weights in trained[1:]:
        average = {name: (1 - MOMENTUM) * x + MOMENTUM * weights[name].double() for name, x in average.items()}
    return average


@pytest.fixture
def train(run_tiny, tmp_path, monkeypatch):
    """Train with some hooks, every validation better than those before; returns the folder of the training."""
    rising = map(float, count(1))
    monkeypatch.setattr(QueryAccuracy, "compute_metrics", lambda self, results: {"accuracy": next(rising)})

    def call(name: str, *hooks: dict) -> Path:
        monkeypatch.setattr(RecordWeights, "trained", [], raising=False)
        monkeypatch.setattr(RecordWeights, "measured", [], raising=False)
        folder = tmp_path / name
        run_tiny(
            "otam", controls=False, work_dir=folder, out=tmp_path / f"{name}_out", checkpoint_seconds=0,
            train={"hooks": [*hooks, {"type": "RecordWeights"}], "optimizer": {"lr": 1e-2}, "accumulate": 1},
        )  # fmt: skip
        (best,) = folder.rglob("best.safetensors")
        return best.parent

    return call


@pytest.mark.long
def test_val_and_the_best_checkpoint_are_of_the_average_and_a_kill_changes_nothing(train, tmp_path, monkeypatch):
    hook = {"type": "EMAHook", "momentum": MOMENTUM}
    train("plain")
    raw = RecordWeights.trained
    assert len(raw) == 8
    folder = train("averaged", hook)
    for ours, theirs in zip(RecordWeights.trained, raw, strict=True):  # the training itself is the same
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    best = load_file(folder / "best.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in RecordWeights.measured[-1].items())
    expected = moving_average(raw)
    for name, tensor in expected.items():
        assert torch.allclose(best[name].double(), tensor, rtol=1e-5, atol=1e-7), name
    assert any(not torch.allclose(best[name].double(), raw[-1][name].double(), rtol=1e-4) for name in expected)

    with monkeypatch.context() as patch:
        run_iter, calls = loops.EpisodicTrainLoop.run_iter, []

        def dies(self):
            calls.append(1)
            if len(calls) == 7:
                raise KeyboardInterrupt
            run_iter(self)

        patch.setattr(loops.EpisodicTrainLoop, "run_iter", dies)
        with pytest.raises(KeyboardInterrupt):
            train("killed", hook)
    resumed = train("killed", hook)
    assert len(RecordWeights.trained) == 2
    assert (resumed / "best.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()

    config = Config.fromfile(str(folder / "config.py"))
    tested: list[Weights] = []

    def after_test_iter(self, runner, **_):
        tested.append(copied(runner.model))

    monkeypatch.setattr(RecordWeights, "after_test_iter", after_test_iter, raising=False)
    EpisodicRunner.from_cfg(config).test()
    assert all(torch.equal(tested[0][name], tensor) for name, tensor in best.items())
