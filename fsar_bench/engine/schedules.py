"""Learning rates that MMEngine's schedulers do not express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from fsar_bench.errors import ConfigError
from fsar_bench.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class DoubleSpeedSteps(LRSchedulerMixin, _ParamScheduler):
    """Steps by "epochs" with a linear warm-up of one, as the few-shot code bases of Alibaba compute them.

    Their loop counts iterations i and looks the rate up at floor(i / S) + i / S epochs of S iterations, which is twice the
    time that has passed: a step "at epoch 4" is taken at i = 2 S, and the warm-up, "one epoch", ends at i = S. Each of their
    GPUs has an episode of its own in an iteration (`runs/train_net_few_shot.py`, `models/utils/lr_policy.py`).

    Args:
        optimizer: whose learning rates are set.
        epoch: S, iterations per epoch.
        steps: epochs at which the factors begin; the first is 0.
        factors: of the learning rate, one per step.
        start: factor at the first iteration; it rises linearly to that which the steps have at epoch 1.
        episodes: training episodes per iteration, the number of GPUs.
        arguments: of MMEngine's schedulers.

    Raises:
        ConfigError: steps and factors that do not fit each other.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        epoch: int,
        steps: Sequence[float],
        factors: Sequence[float],
        start: float,
        episodes: int = 1,
        **arguments: Any,
    ) -> None:
        if len(steps) != len(factors) or not steps or steps[0] != 0 or sorted(steps) != list(steps):
            raise ConfigError(
                f"train.scheduler: steps={list(steps)} must begin with 0, rise, and have as many entries as "
                f"factors={list(factors)}."
            )
        if epoch < 1 or episodes < 1:
            raise ConfigError(f"train.scheduler: epoch={epoch} and episodes={episodes} must be at least 1.")
        self.epoch, self.episodes, self.start = int(epoch), int(episodes), float(start)
        self.steps, self.factors = list(map(float, steps)), list(map(float, factors))
        super().__init__(optimizer, **arguments)

    def factor(self, episode: int) -> float:
        """The learning rate at a training episode, counted from 0, relative to that of the optimiser."""
        iteration = episode // self.episodes
        passed = iteration // self.epoch + iteration / self.epoch
        if passed < 1:
            return self.start + passed * (self._stepped(1) - self.start)
        return self._stepped(passed)

    def _stepped(self, passed: float) -> float:
        return [factor for step, factor in zip(self.steps, self.factors, strict=True) if step <= passed][-1]

    def _get_value(self) -> list[float]:
        """Return the learning rates of all groups; called by MMEngine."""
        return [value * self.factor(self.last_step) for value in self.base_values]
