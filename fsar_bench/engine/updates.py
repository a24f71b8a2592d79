"""Optimiser updates whose episodes several ranks compute, with the bytes of one rank.

One rank adds the gradients of the episodes of an update one after the other in `.grad`. Here each rank computes the gradient of
an episode of its own at a time. Then every rank is sent its shard of all these gradients and adds them in the order of the
episodes, so that each element is the same sum of the same floats in the same order, however many ranks there are. Before the
optimiser step the shards of the sum are joined, and every rank takes the same step.

Memory: while an episode is computed its own gradient and 1 / ranks of the sum; while gradients are exchanged, when no
activations are there, twice a gradient and 1 / ranks of the sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from fsar_bench.engine.exchange import Exchange
from fsar_bench.errors import ConfigError, TrainingError
from fsar_bench.method import EpisodeBatch

if TYPE_CHECKING:
    from fsar_bench.engine.loops import EpisodicTrainLoop


class SharedUpdates:
    """Runs training episodes in rounds: one per rank, none beyond the next update.

    Args:
        loop: the training loop of this rank.
        exchange: the ranks.
    """

    def __init__(self, loop: EpisodicTrainLoop, exchange: Exchange) -> None:
        self.loop, self.exchange = loop, exchange
        self.statistics = RunningStatistics(loop.runner.model, exchange)
        self._sum: GradientSum | None = None
        loop.episodes.following = self.following

    @property
    def _wrapper(self) -> OptimWrapper:
        return self.loop.runner.optim_wrapper  # MMEngine builds it after the loop

    def _end(self, number: int) -> int:
        """The first episode of the update after that of an episode."""
        count = self._wrapper._accumulative_counts
        return min((number // count + 1) * count, self.loop.max_iters)

    def following(self, number: int) -> int:
        """The next episode of this rank after one of its own."""
        within, end = number + self.exchange.size, self._end(number)
        return within if within < end else end + self.exchange.rank

    def run_round(self) -> None:
        """The next episodes: one of this rank, if there is one for it, and what other ranks tell of theirs.

        Hooks see the episodes begin in their order, all up to the own one before its gradient: they may change the model.
        """
        loop, first = self.loop, self.loop.iter
        numbers = range(first, min(first + self.exchange.size, self._end(first)))
        own = first + self.exchange.rank
        batch = loop.episodes[own].batch(loop.class_text) if own in numbers else None
        begun = own if batch else first
        loop.begin(first, batch if own == first else None)
        total = self._start_sum()
        for number in range(first + 1, begun + 1):
            loop.begin(number, batch if number == own else None)
        log = self._gradient(batch, own) if batch else None
        total.check(self._trained())
        told = self.exchange.gather((log, total.present()))[: len(numbers)]
        total.add([present for _, present in told])
        self.statistics.replay(len(numbers))
        for number, (outputs, _) in zip(numbers, told, strict=True):
            if number > begun:
                loop.begin(number, None)
            self._wrapper._inner_count = number + 1
            if self._wrapper.should_update():
                self._update(total)
            loop.end(number, batch if number == own else None, outputs)

    def _trained(self) -> list[nn.Parameter]:
        groups = self._wrapper.optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]

    def _start_sum(self) -> GradientSum:
        """The sum of the gradients of the update so far; between updates a hook may change what is trained."""
        if self._sum is None or self._sum.is_empty:
            self._sum = GradientSum(self._trained(), self.exchange)
        self._sum.check(self._trained())
        return self._sum

    def _gradient(self, batch: EpisodeBatch, number: int) -> dict[str, Tensor]:
        """Leave the gradient of an episode in `.grad`; returns its losses."""
        self._wrapper._inner_count = number  # the loss is divided by the number of episodes of the update
        with self.statistics.recorded():
            log = self.loop.runner.model.train_step(batch, optim_wrapper=_Backward(self._wrapper))
        return {name: value.detach().cpu() for name, value in log.items()}

    def _update(self, total: GradientSum) -> None:
        total.write()
        scaler = getattr(self._wrapper, "loss_scaler", None)
        if (
            scaler is not None
        ):  # it allocates its scale only when it scales a loss, and this rank may not have had one yet
            scaler.scale(torch.zeros((), device=self.loop.class_text.device))
        self._wrapper.step()
        self._wrapper.zero_grad()


class _Backward:
    """What a training step is given for its optimiser: it computes gradients, and updates nothing.

    Args:
        wrapper: the optimiser.
    """

    def __init__(self, wrapper: OptimWrapper) -> None:
        self._wrapper = wrapper

    def __getattr__(self, name: str) -> Any:
        """What else the optimiser has, such as its context of mixed precision."""
        return getattr(self._wrapper, name)

    def should_update(self) -> bool:
        """Never: the update comes when the gradients of all ranks are there."""
        return False

    def update_params(self, loss: Tensor) -> None:
        """Compute the gradient of a loss, scaled as in the update that it is a part of."""
        self._wrapper.backward(self._wrapper.scale_loss(loss))


class GradientSum:
    """The sum of gradients of episodes, added in their order; this rank adds one shard of it.

    Args:
        parameters: those that are trained.
        exchange: the ranks.

    Raises:
        ConfigError: parameters of several types.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], exchange: Exchange) -> None:
        self._parameters, self._exchange = list(parameters), exchange
        kinds = {parameter.dtype for parameter in parameters}
        if len(kinds) > 1:
            raise ConfigError(
                f"The trained parameters are of several types ({', '.join(sorted(map(str, kinds)))}), whose gradients several "
                "ranks cannot add. Train with devices=1."
            )
        ends = torch.tensor([parameter.numel() for parameter in parameters]).cumsum(0).tolist()
        self._ranges = [range(end - parameter.numel(), end) for end, parameter in zip(ends, parameters, strict=True)]
        length = ceil(ends[-1] / exchange.size)
        begin = exchange.rank * length
        self._pieces = {  # of parameters in this rank's shard, by number
            number: slice(max(each.start - begin, 0), min(each.stop - begin, length))
            for number, each in enumerate(self._ranges)
            if each.start < begin + length and each.stop > begin
        }
        self._shard = torch.zeros(length, dtype=kinds.pop(), device=exchange.device)
        self._has = [False] * len(self._parameters)  # whether a gradient of it was added

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added yet."""
        return not any(self._has)

    def check(self, parameters: Sequence[nn.Parameter]) -> None:
        """Check that it is the sum of the gradients of these parameters.

        Raises:
            TrainingError: it is not.
        """
        if list(map(id, parameters)) != list(map(id, self._parameters)):
            raise TrainingError(
                "A hook of train.hooks changed which parameters are trained in the middle of an update, which several ranks "
                "cannot follow. Change it before the first episode of an update, or train with devices=1."
            )

    def present(self) -> list[bool]:
        """Which parameters have a gradient in this rank now."""
        return [parameter.grad is not None for parameter in self._parameters]

    def add(self, present: list[list[bool]]) -> None:
        """Take the gradients of one episode of each rank out of `.grad`, and add them.

        Args:
            present: `present()` of each rank that had an episode.
        """
        whole = self._shard.new_empty(self._exchange.size * len(self._shard))
        for parameter, where in zip(self._parameters, self._ranges, strict=True):
            if parameter.grad is not None:
                whole[where.start : where.stop].view(parameter.shape).copy_(parameter.grad)
                parameter.grad = None
        shards = self._exchange.shards(whole)
        for shard, of_episode in zip(shards, present, strict=False):
            for number, piece in self._pieces.items():
                if of_episode[number] and self._has[number]:
                    self._shard[piece] += shard[piece]
                elif of_episode[number]:  # the first one is taken as it is: 0 + -0 would be 0
                    self._shard[piece] = shard[piece]
            self._has = [has or comes for has, comes in zip(self._has, of_episode, strict=True)]

    def write(self) -> None:
        """Leave the sum in `.grad`, and None where no episode had a gradient; the next sum begins."""
        whole = self._exchange.join_shards(self._shard)
        for parameter, where, has in zip(self._parameters, self._ranges, self._has, strict=True):
            if has:  # in memory of its own and with the strides of the parameter, as torch makes gradients
                parameter.grad = torch.empty_like(parameter).copy_(
                    whole[where.start : where.stop].view(parameter.shape)
                )
        self._has = [False] * len(self._parameters)


class RunningStatistics:
    """Running statistics of batch norm, which every training step moves, in the order of the episodes.

    They do not change a step, only what follows it. What their modules were given is therefore kept during a step; when the
    gradients are there, the modules of one rank after the other see it again, with the statistics of the episodes before.

    Args:
        model: it.
        exchange: the ranks.
    """

    def __init__(self, model: nn.Module, exchange: Exchange) -> None:
        self._model, self._exchange = model, exchange
        self._calls: list[tuple[nn.Module, tuple[Any, ...]]] = []

    def _modules(self) -> list[nn.Module]:
        """Those that move their statistics."""
        return [m for m in self._model.modules() if m.training and m._buffers.get("running_var") is not None]

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what the modules are given in a training step, after which the statistics are those of before.

        Raises:
            ConfigError: the step changes another buffer.
        """
        modules = self._modules()
        before = {name: buffer.clone() for name, buffer in _buffers(modules)}
        others = self._others(modules)
        handles = [module.register_forward_pre_hook(self._record) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, buffer in _buffers(modules):
            buffer.copy_(before[name])
        changed = [name for name, state in self._others(modules).items() if others.get(name) != state]
        if changed:
            raise ConfigError(
                f"A training step changes {changed[0]} of {type(self._model).__name__}, so that each episode depends on those "
                "before it: several ranks would change its numbers. Train with devices=1."
            )

    def _record(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._calls.append((module, tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)))

    def _others(self, modules: list[nn.Module]) -> dict[str, tuple[int, int]]:
        """Which tensor each other buffer is, and how often it was changed."""
        ours = {id(buffer) for _, buffer in _buffers(modules)}
        return {
            name: (id(buffer), buffer._version)
            for name, buffer in self._model.named_buffers()
            if id(buffer) not in ours
        }

    @torch.no_grad()
    def replay(self, episodes: int) -> None:
        """Move the statistics by one episode of each of the first `episodes` ranks, in all ranks."""
        modules = self._modules()
        if not modules:
            return
        for rank in range(episodes):
            if rank == self._exchange.rank:
                for module, inputs in self._calls:
                    module(*inputs)
            moved = self._exchange.broadcast([buffer.cpu() for _, buffer in _buffers(modules)], rank)
            for (_, buffer), value in zip(_buffers(modules), moved, strict=True):
                buffer.copy_(value)
        self._calls.clear()


def _buffers(modules: list[nn.Module]) -> list[tuple[str, Tensor]]:
    """Buffers of modules, with names that tell them apart."""
    return [(f"{n}.{name}", b) for n, module in enumerate(modules) for name, b in module.named_buffers(recurse=False)]
