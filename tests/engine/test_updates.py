"""Sums of gradients and running statistics that ranks share, against what torch does in one process."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsar_bench.engine.exchange import Exchange
from fsar_bench.engine.updates import GradientSum, RunningStatistics
from fsar_bench.errors import ConfigError, TrainingError


class Threads(Exchange):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.device, self._table, self._barrier = rank, size, torch.device("cpu"), table, barrier

    def gather(self, value):
        self._table[self.rank] = value
        self._barrier.wait()
        values = list(self._table)
        self._barrier.wait()
        return values

    def broadcast(self, value, source):
        return self.gather([x.clone() for x in value])[source]

    def shards(self, whole):
        parts = self.gather(whole.clone())
        return torch.stack([part.chunk(self.size)[self.rank] for part in parts])

    def join_shards(self, shard):
        return torch.cat(self.gather(shard.clone()))


def on_ranks(size: int, body) -> list[Any]:
    """What a function returns in each rank."""
    table, barrier = [None] * size, threading.Barrier(size, timeout=20)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = body(Threads(rank, size, table, barrier))
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


SHAPES = ((3, 5), (1,), (7,), (2, 3, 4, 4), (11, 1))


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    made[3] = nn.Parameter(torch.zeros(SHAPES[3]).to(memory_format=torch.channels_last))
    return made


def gradients(episode: int) -> list[Tensor | None]:
    """Of very different sizes, so that their sum depends on its order; some are missing, one always; one is -0."""
    g = torch.Generator().manual_seed(episode)
    values = [torch.randn(shape, generator=g) * 10.0 ** (3 * (episode % 3)) for shape in SHAPES]
    values[0][0, 0] = -0.0
    return [None if n == 1 or (n == 4 and episode % 2 == 0) else value for n, value in enumerate(values)]


def in_one_process(episodes: int) -> list[Tensor | None]:
    """What autograd leaves in `.grad` when each episode's gradient is added by a backward pass of its own."""
    made = parameters()
    for episode in range(episodes):
        pairs = [(p, g) for p, g in zip(made, gradients(episode), strict=True) if g is not None]
        torch.autograd.backward([p.clone() for p, _ in pairs], [g for _, g in pairs])
    return [p.grad for p in made]


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
@pytest.mark.parametrize("episodes", [1, 4, 5])
def test_a_shared_sum_of_gradients_has_the_bits_of_one_process(ranks, episodes):
    def body(exchange: Exchange) -> list[list[Tensor | None]]:
        made, updates = parameters(), []
        total = GradientSum(made, exchange)
        for _ in range(2):  # a second update begins anew
            for first in range(0, episodes, ranks):
                own = first + exchange.rank
                for parameter, gradient in zip(made, gradients(own), strict=True):
                    parameter.grad = gradient if own < episodes else None
                present = exchange.gather(total.present())[: min(ranks, episodes - first)]
                total.add(present)
                assert all(parameter.grad is None for parameter in made)
            total.write()
            updates.append([parameter.grad for parameter in made])
        return updates

    expected = in_one_process(episodes)
    for updates in on_ranks(ranks, body):
        for sums in updates:
            for ours, theirs in zip(sums, expected, strict=True):
                assert (ours is None) == (theirs is None)
                if theirs is not None:
                    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))
                    assert ours.stride() == theirs.stride()


def test_gradients_do_depend_on_their_order():
    """Or the test above could not fail."""
    sums = [sum(gradients(episode)[2] for episode in order) for order in ((0, 1, 2, 3), (3, 2, 1, 0))]
    assert not torch.equal(*sums)


def test_what_is_trained_may_not_change_within_an_update():
    made = parameters()
    total = GradientSum(made, Threads(0, 1, [None], threading.Barrier(1)))
    total.check(made)
    with pytest.raises(TrainingError, match="in the middle of an update"):
        total.check(made[:-1])


def test_parameters_of_several_types_are_refused():
    made = [*parameters(), nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    with pytest.raises(ConfigError, match=r"several types \(torch\.float32, torch\.float64\)"):
        GradientSum(made, Threads(0, 2, [None], threading.Barrier(1)))


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4, momentum=None)).train()


def frames(episode: int, part: int) -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(10 * episode + part))


@pytest.mark.parametrize("ranks", [2, 3])
def test_running_statistics_have_the_bits_of_one_process(ranks):
    """Batch norm sees supports and queries apart: two passes per episode."""
    episodes, models = 5, [normed() for _ in range(ranks)]  # threads share torch's random numbers

    def body(exchange: Exchange) -> dict[str, Tensor]:
        model = models[exchange.rank]
        statistics = RunningStatistics(model, exchange)
        for first in range(0, episodes, ranks):
            own = first + exchange.rank
            if own < episodes:
                with statistics.recorded():
                    for part in range(2):
                        model(frames(own, part)).sum().backward()
            statistics.replay(min(ranks, episodes - first))
        return dict(model.named_buffers())

    alone = normed()
    for episode in range(episodes):
        for part in range(2):
            alone(frames(episode, part))
    for moved in on_ranks(ranks, body):
        assert all(torch.equal(moved[name], buffer) for name, buffer in alone.named_buffers())
    assert int(alone[1].num_batches_tracked) == 10


def test_a_step_that_changes_another_buffer_is_refused():
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centres", torch.zeros(2))

        def forward(self, values: Tensor) -> Tensor:
            self.centres += values
            return values

    model = Centres()
    statistics = RunningStatistics(model, Threads(0, 1, [None], threading.Barrier(1)))
    with (
        pytest.raises(ConfigError, match=r"changes centres of Centres.*Train with devices=1"),
        statistics.recorded(),
    ):
        model(torch.ones(2))
