"""The driver: hands tasks of cells to a cluster, and turns what comes back into outcomes. Imports no torch."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from fsar_bench.config.cell import LOG, Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.launchers.chains import chains
from fsar_bench.engine.launchers.messages import Answer, Failure, Parcel, accept, decode
from fsar_bench.engine.launchers.messages import Told as Progress
from fsar_bench.engine.launchers.node import Task
from fsar_bench.engine.launchers.window import Broken, Cluster, Ended, Lost, Told, Window
from fsar_bench.engine.sweep import ListenerOf, Outcome, end, look_up
from fsar_bench.errors import CellCrashedError, FsarBenchError, ResultError
from fsar_bench.io import write_atomically, write_cached
from fsar_bench.progress.events import WARNING, Event, Listener, relay
from fsar_bench.results.store import Stored
from fsar_bench.writing.temporary import temporary_of

ATTEMPTS = 4  # how often a task whose node is lost is handed over

Opener = Callable[[RunOptions], AbstractContextManager[Cluster[Task]]]


class Drive:
    """Runs cells on a cluster, which is opened for the first of them. A context manager: at its end nothing runs there.

    Args:
        options: of the run.
        opener: opens the cluster.
        listener_of: gives the listener of a cell, just before it begins.
        tell_slots: is told how many cells run at a time.
        claimed: hashes of cells that jobs of an earlier driver run, which the cluster takes over.
    """

    def __init__(
        self,
        options: RunOptions,
        opener: Opener,
        listener_of: ListenerOf,
        tell_slots: Callable[[int], None],
        claimed: frozenset[str] = frozenset(),
    ) -> None:
        folders = {"out": options.out.absolute(), "work_dir": options.work_dir.absolute()}
        self._options, self._opener = options.model_copy(update=folders), opener
        self._listener_of, self._tell_slots = listener_of, tell_slots
        self._claimed = claimed
        self._stack = contextlib.ExitStack()
        self._cluster: Cluster[Task] | None = None
        self._mark = temporary_of(self._options.work_dir / "seen by nodes"), secrets.token_bytes(16)
        self._listeners: dict[str, Listener] = {}
        self._waiting: dict[str, Cell] = {}  # cells that have not ended, by hash
        self._began: dict[str, float] = {}  # when cells first told something

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, cells: list[Cell]) -> Iterator[tuple[Outcome, Listener]]:
        """Outcomes as cells end, each with the listener of its cell; finished cells first."""
        for table in (self._listeners, self._waiting, self._began):
            table.clear()
        for cell in cells:
            outcome = look_up(cell, self._options)
            if outcome is None or (outcome.state == "busy" and cell.hash in self._claimed):
                self._waiting[cell.hash] = cell
            else:
                yield outcome, self._listener(cell)
        if not self._waiting:
            return
        cluster = self._opened()
        self._tell_slots(cluster.slots)
        groups = chains(self._waiting.values())
        window = Window(cluster, (Task.of(group, self._options, self._mark, cluster.share) for group in groups))
        for task, told in window:
            for outcome in self._hear(task, told, window):
                yield outcome, self._listener(outcome.cell)

    def _opened(self) -> Cluster[Task]:
        if self._cluster is None:
            path, content = self._mark
            write_atomically(path, content, hint="work_dir=")
            self._stack.callback(partial(path.unlink, missing_ok=True))
            self._cluster = self._stack.enter_context(self._opener(self._options))
        return self._cluster

    def _listener(self, cell: Cell) -> Listener:
        if cell.hash not in self._listeners:
            self._listeners[cell.hash] = self._listener_of(cell)
        return self._listeners[cell.hash]

    def _hear(self, task: Task, told: Told, window: Window[Task]) -> Iterator[Outcome]:
        """Outcomes that follow from what a task tells."""
        if isinstance(told, bytes):
            try:
                yield from self._read(task, told)
            except ResultError as error:
                yield from self._fail(task, error)
        elif isinstance(told, Lost):
            yield from self._lose(task, told, window)
        elif isinstance(told, Broken):
            yield from self._fail(task, CellCrashedError(told.reason))
        elif isinstance(told, Ended):
            yield from self._fail(task, CellCrashedError("Its node ended the work without a result of this cell."))

    def _read(self, task: Task, line: bytes) -> Iterator[Outcome]:
        """Take a message.

        Raises:
            ResultError: it is none, or of a cell that the task does not have.
        """
        message = decode(line)
        cell = self._waiting.get(message.cell)
        if cell is None or cell not in task.cells:
            raise ResultError(f"a node answered for {message.cell[:8]}, a cell that was not sent to it.")
        began = self._began.setdefault(cell.hash, perf_counter())
        if isinstance(message, Progress):
            relay(message.event, self._listener(cell))
            return
        del self._waiting[cell.hash]
        self._keep_log(cell, message)
        yield end(cell, self._options, partial(_result, message, cell, self._options), began)

    def _lose(self, task: Task, lost: Lost, window: Window[Task]) -> Iterator[Outcome]:
        """Hand a task over again without the cells that have ended, unless it was lost too often."""
        cells = self._left(task)
        if not cells:
            return
        if task.attempt >= ATTEMPTS:
            reason = f"what ran it was lost {task.attempt} times, last so: {lost.reason}"
            yield from self._fail(task, CellCrashedError(reason))
            return
        note = f"{cells[0]}: {lost.reason}; handed over again, attempt {task.attempt + 1} of {ATTEMPTS}"
        self._listener(cells[0])(Event(WARNING, 0, 0, note))
        window.again(replace(task, cells=cells, attempt=task.attempt + 1))

    def _fail(self, task: Task, error: FsarBenchError) -> Iterator[Outcome]:
        """All cells of a task that have not ended fail."""
        for cell in self._left(task):
            del self._waiting[cell.hash]
            began = self._began.get(cell.hash, perf_counter())
            yield end(cell, self._options, partial(_raise, error), began)

    def _left(self, task: Task) -> tuple[Cell, ...]:
        """The cells of a task that have not ended."""
        return tuple(cell for cell in task.cells if cell.hash in self._waiting)

    def _keep_log(self, cell: Cell, answer: Answer) -> None:
        if answer.log:
            path: Path = self._options.work_dir / cell.work_folder / LOG
            write_cached(path, lambda file: file.write(answer.log))


def _result(message: Answer, cell: Cell, options: RunOptions) -> Stored:
    """Store the result of a cell, or raise its error, which names the node where that is another machine."""
    if isinstance(message, Parcel):
        return accept(message, cell, options.out)
    assert isinstance(message, Failure)
    error = message.exception()
    raise error if message.node == socket.gethostname() else type(error)(f"{error} (on the node {message.node})")


def _raise(error: FsarBenchError) -> Stored:
    raise error
