"""A window on a list of tasks: so many are with the cluster at a time, so that neither it nor the driver holds thousands."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
C = TypeVar("C", contravariant=True)


@dataclass(frozen=True)
class Ended:
    """A task came to its end."""


@dataclass(frozen=True)
class Lost:
    """What ran a task was lost before its end: a node, or the process on it."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """A task cannot be run, and would not be if it was tried again."""

    reason: str


Told = bytes | Ended | Lost | Broken  # the last three end a task


class Cluster(Protocol[C]):
    """What runs tasks.

    Attributes:
        slots: tasks that run at a time.
        window: tasks that it is given at a time, those that wait in its queue included.
        batch: tasks that are handed over together, unless fewer are with it or remain.
        share: tasks that run at a time on one node; they share its memory.
    """

    slots: int
    window: int
    batch: int
    share: int

    def submit(self, tasks: Sequence[tuple[int, C]]) -> None:
        """Hand over tasks, with numbers that no other task has."""

    def poll(self) -> list[tuple[int, Told]]:
        """Wait for a moment; what tasks told since the last call, by their numbers."""


class Window(Generic[T]):
    """Hands tasks to a cluster and tells what comes back.

    Args:
        cluster: what runs them.
        tasks: taken when there is room for them.
    """

    def __init__(self, cluster: Cluster[T], tasks: Iterable[T]) -> None:
        self._cluster, self._tasks = cluster, iter(tasks)
        self._first: deque[T] = deque()  # before the others
        self._running: dict[int, T] = {}
        self._numbers = itertools.count()

    def again(self, task: T) -> None:
        """Hand over a task as the next."""
        self._first.append(task)

    def __iter__(self) -> Iterator[tuple[T, Told]]:
        """Each task with what it tells, until all have ended."""
        while True:
            self._fill()
            if not self._running:
                return
            for number, told in self._cluster.poll():
                task = self._running[number]
                if not isinstance(told, bytes):
                    del self._running[number]
                yield task, told

    def _fill(self) -> None:
        room = self._cluster.window - len(self._running)
        if room < min(self._cluster.batch, self._cluster.window) and self._running:
            return
        tasks = [self._first.popleft() for _ in range(min(room, len(self._first)))]
        tasks += itertools.islice(self._tasks, room - len(tasks))
        if tasks:
            numbered = [(next(self._numbers), task) for task in tasks]
            self._running.update(numbered)
            self._cluster.submit(numbered)
