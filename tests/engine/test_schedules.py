"""Steps at double speed: equal to a transcription of the official lookup, whatever the numbers."""

from __future__ import annotations

import math

import pytest
import torch

from fsar_bench.config.settings import Train
from fsar_bench.engine.schedules import DoubleSpeedSteps
from fsar_bench.engine.training import _exemptions, _schedule, check_training
from fsar_bench.errors import ConfigError

BASE = 2e-3


def looked_up(iteration: int, S: int, steps: list[int], rates: list[float], start: float) -> float:
    """The rate as the official code finds it: by epochs, from the end of the list of steps, warm-up in between."""
    epoch = math.floor(iteration / S) + iteration / S

    def at(epoch: float) -> float:
        index = 0
        while index + 1 < len(steps) and not epoch < steps[index + 1]:
            index += 1
        return rates[index] * BASE

    return at(epoch) if epoch >= 1 else start + epoch * (at(1) - start)


@pytest.mark.parametrize(
    ("S", "steps", "rates", "gpus"),
    [
        (7, [0, 4, 6], [1.0, 0.1, 0.01], 4),
        (3, [0, 2, 3, 7], [1.0, 0.5, 0.1, 0.01], 4),
        (5, [0, 1, 9], [1.0, 0.3, 0.2], 1),
        (1, [0, 3], [1.0, 0.5], 2),
    ],
)
def test_rates_are_those_of_the_official_lookup_at_every_episode(S, steps, rates, gpus):
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2 * BASE}], lr=BASE)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    settings = {"epoch": S, "steps": steps, "factors": rates, "start": 0.25, "episodes": gpus}
    scheduler = DoubleSpeedSteps(optimizer, by_epoch=False, **settings)
    for episode in range(8 * S * gpus):
        expected = looked_up(episode // gpus, S, steps, rates, 0.25 * BASE)
        doubled, single = (group["lr"] for group in optimizer.param_groups)
        assert single == pytest.approx(expected, rel=1e-12)
        assert doubled == pytest.approx(2 * expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [0, 4]}, "must begin with 0, rise, and have as many entries as factors"),
        ({"steps": [1], "factors": [1.0]}, "must begin with 0"),
        ({"epoch": 0}, "epoch=0 and episodes=1 must be at least 1"),
        ({"speed": 2}, "unexpected keyword argument 'speed'"),
    ],
)
def test_wrong_schedules_are_refused_before_the_training(changes, message):
    scheduler = {"type": "DoubleSpeedSteps", "epoch": 3, "steps": [0], "factors": [1.0], "start": 0.1, **changes}
    with pytest.raises(ConfigError, match=message):
        check_training(Train.of({"scheduler": scheduler}), ())


def test_by_default_the_config_of_a_training_is_what_it_was():
    assert _exemptions(Train()) == {}
    assert [scheduler["type"] for scheduler in _schedule(Train())] == ["LinearLR", "CosineAnnealingLR"]


def test_no_decay_without_a_decay_is_refused():
    with pytest.raises(ConfigError, match=r"train.no_decay=\['bn'\] exempts parameters from the weight decay"):
        Train.of({"no_decay": ["bn"], "optimizer": {"type": "SGD", "lr": 0.1}})
