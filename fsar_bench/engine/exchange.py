"""What the ranks of a training exchange, so that they compute the numbers of one rank: see `updates.py` and `bank.py`.

A rank is a process that trains with others. Each runs the whole training loop; between optimiser steps each computes the
gradients of its own episodes. All of them read the same checkpoint and take the same steps, so parameters are never sent.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from fsar_bench.errors import TrainingError

PATIENCE = timedelta(
    days=7
)  # for another rank, which may score for hours; whoever started the ranks sees that one has died
T = TypeVar("T")


class LostRankError(Exception):
    """Another rank no longer answers."""


def join(rank: int, size: int, meeting: Path, device: torch.device) -> None:
    """Let this process be a rank.

    Args:
        rank: its number, from 0.
        size: number of ranks.
        meeting: a file on this machine that does not exist yet, through which the ranks find each other.
        device: of this rank.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu and dist.is_nccl_available() else "gloo"
    with _losses_told():
        dist.init_process_group(backend, init_method=meeting.as_uri(), rank=rank, world_size=size, timeout=PATIENCE)


def leave() -> None:
    """Let this process be no rank any longer."""
    dist.destroy_process_group()


@contextlib.contextmanager
def _losses_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises when a connection is closed
        raise LostRankError(f"{type(error).__name__}: {error}".split("\n")[0][:300]) from error


class Exchange:
    """The ranks of a training, as one of them sees them.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: where tensors that are sent must be.
    """

    def __init__(self) -> None:
        self.rank, self.size = get_rank(), get_world_size()
        on_gpu = dist.get_backend() == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    @classmethod
    def current(cls) -> Exchange | None:
        """The ranks that this process trains with; None where it trains alone."""
        return cls() if get_world_size() > 1 else None

    def wait(self) -> None:
        """Wait until every rank is here."""
        with _losses_told():
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order; values are of few bytes, and tensors among them on the CPU."""
        values: list[Any] = [None] * self.size
        with _losses_told():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T, source: int) -> T:
        """The value that a rank has; see `gather`."""
        values: list[Any] = [value]
        with _losses_told():
            dist.broadcast_object_list(values, source)
        return values[0]  # type: ignore[no-any-return]

    def shards(self, whole: Tensor) -> Tensor:
        """The own shard of the tensor of each rank, `[size, L]`.

        Args:
            whole: the tensor of this rank, `[size * L]` on `device`: the shards of all ranks.
        """
        received = torch.empty_like(whole)
        with _losses_told():
            dist.all_to_all_single(received, whole)
        return received.view(self.size, -1)

    def join_shards(self, shard: Tensor) -> Tensor:
        """The shards `[L]` of all ranks in a row, `[size * L]`."""
        whole = shard.new_empty(self.size * len(shard))
        with _losses_told():
            dist.all_gather(list(whole.chunk(self.size)), shard)
        return whole

    def in_turn(self, items: Iterator[T], rounds: int) -> Iterator[T]:
        """Give rank 0 the items of all ranks: first the first one of each, in the order of ranks, and so on.

        Args:
            items: of this rank; tensors among them are on the CPU.
            rounds: as many as the rank with the most items has.

        Returns:
            All items in rank 0, nothing in others, where they must be asked for nevertheless.
        """
        for _ in range(rounds):
            item = next(items, None)
            received: list[Any] | None = [None] * self.size if self.rank == 0 else None
            with _losses_told():
                dist.gather_object(item, received)
            for other in received or ():
                if other is not None:
                    yield other

    def check_agreement(self, state: dict[str, Tensor], episodes: int) -> None:
        """Check that all ranks hold the same bytes.

        Args:
            state: what the training changes.
            episodes: training episodes so far.

        Raises:
            TrainingError: they do not.
        """
        sha = hashlib.sha256()
        for name in sorted(state):
            sha.update(name.encode())
            sha.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        digests = self.gather(sha.hexdigest())
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise TrainingError(
                f"After {episodes} training episodes the weights of rank {', '.join(others)} differ from those of rank 0: the "
                "ranks do not compute the same. Their devices, or a hook of train.hooks that is not the same in every rank, may "
                "be why. Delete the folder of the training and train with devices=1."
            )
