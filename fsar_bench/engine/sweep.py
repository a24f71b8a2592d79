"""A sweep: cells one after the other or several at a time, each in a process of its own; finished ones are reused.

Imports no torch here. A process of its own keeps crashes, memory peaks and the global state of libraries apart. `run_cell` also
works as the runner, in this process, one cell at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Literal, TextIO, TypeVar

from fsar_bench import errors, processes
from fsar_bench.config.cell import LOG, Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.jobs import PRELOAD, Crew, job_options, longest_first, next_cell, share_cores, start_method
from fsar_bench.engine.locks import holder, is_locked
from fsar_bench.engine.state import finished
from fsar_bench.errors import BusyError, CellCrashedError, FsarBenchError, NotApplicableError
from fsar_bench.io import cache_folder, check_writable, naming_disks, reason_of
from fsar_bench.progress.events import POSTPONED, STARTING, WARNING, Event, Listener, relay, silent
from fsar_bench.progress.screen import Screen
from fsar_bench.progress.words import about
from fsar_bench.results.store import Stored, read, relabel
from fsar_bench.writing.streams import open_log
from fsar_bench.writing.temporary import sweep as sweep_parts
from fsar_bench.writing.temporary import sweep_temporary_folders

IN_WORDS = {
    "reused": "finished before, reused",
    "left out": "left out, a control that does not apply here",
    "busy": "busy in another run",
    "failed": "failed",
}
S = TypeVar("S")  # what is stored of a cell that is done: its result, or of a trial its training
CellRunner = Callable[[Cell, RunOptions, Listener], Stored]
Finder = Callable[[Cell, RunOptions], S | None]
ListenerOf = Callable[[Cell], Listener]
State = Literal["done", "reused", "left out", "busy", "failed"]
IMPORTING = f"{STARTING}: importing torch and the methods"


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What became of a cell.

    Attributes:
        cell: the cell.
        state: "done", "reused" (finished before), "left out" (a control that does not apply), "busy" (another run works on
            it, after all other cells too) or "failed".
        stored: what is stored of it, of a run its result; None unless it is done or reused.
        error: why there is none.
        seconds: how long it took.
    """

    cell: Cell
    state: State
    stored: S | None
    error: FsarBenchError | None
    seconds: float


def stored_result(cell: Cell, options: RunOptions) -> Stored | None:
    """The stored result of a finished cell, with what people now call it."""
    stored = None if options.overwrite else finished(cell, options.out)
    return stored if stored is None or stored.result.cell.label == cell.label else relabel(stored, cell)


def sweep(
    cells: list[Cell],
    options: RunOptions,
    runner: Callable[[Cell, RunOptions, Listener], S],
    listener_of: ListenerOf | None = None,
    tell_jobs: Callable[[int], None] = lambda _: None,
    find: Finder[Any] = stored_result,
) -> Iterator[Outcome[S]]:
    """Run cells, `options.jobs` at a time or on a cluster; a failing cell does not stop the rest.

    A cell that another run works on is looked at again after the others; its listener is told that it is postponed.

    Args:
        cells: what to run.
        options: how to run it.
        runner: `run_cell`, which runs one cell at a time, or `run_isolated`. With several jobs it is called in threads. Nodes
            of a cluster always take the latter.
        listener_of: gives the listener of a cell, just before it begins.
        tell_jobs: is told how many cells run at a time, once a cluster is known.
        find: gives what is stored of a cell that is done; nodes of a cluster know results alone.

    Returns:
        Outcomes as cells end; see `in_order`.

    Raises:
        ResultError: a folder cannot be written; nothing was run then.
        ConfigError: the cluster cannot be reached, or has no room for a cell.
    """
    check_writable(options.out, "out=")
    check_writable(options.work_dir, "work_dir=")
    postponed = []
    work = _Work(runner, find)
    with _swept(options), _launched(len(cells), options, work, listener_of or _silence, tell_jobs) as run_all:
        for outcome, listener in run_all(cells):
            if outcome.state == "busy":
                listener(Event(POSTPONED, 0, 1, "another run is working on it; looked at again at the end"))
                postponed.append(outcome.cell)
            else:
                yield outcome
        for outcome, _ in run_all(postponed):
            yield outcome


def _silence(_: Cell) -> Listener:
    return silent


@dataclass(frozen=True)
class _Work(Generic[S]):
    """What is done with a cell: look for what is stored of it, or else run it."""

    runner: Callable[[Cell, RunOptions, Listener], S]
    find: Finder[S]

    def __call__(self, cell: Cell, options: RunOptions, listener: Listener) -> Outcome[S]:
        began = perf_counter()
        return look_up(cell, options, self.find) or end(
            cell, options, lambda: self.runner(cell, options, listener), began
        )


@contextlib.contextmanager
def _launched(
    cells: int, options: RunOptions, work: _Work[S], listener_of: ListenerOf, tell_jobs: Callable[[int], None]
) -> Iterator[Callable[[list[Cell]], Iterator[tuple[Outcome, Listener]]]]:
    """What runs a list of cells, here or on a cluster; it may be called more than once."""
    if options.launcher == "local":
        jobs = job_options(options, cells)
        yield partial(_one_by_one if len(jobs) == 1 else _at_a_time, jobs, work, listener_of)
        return
    from fsar_bench.engine.launchers.choice import driver

    with driver(options, listener_of, tell_jobs) as drive:
        yield drive


def _one_by_one(
    jobs: list[RunOptions], work: _Work[S], listener_of: ListenerOf, cells: list[Cell]
) -> Iterator[tuple[Outcome[S], Listener]]:
    for cell in cells:
        listener = listener_of(cell)
        yield work(cell, jobs[0], listener), listener


def _at_a_time(
    jobs: list[RunOptions], work: _Work[S], listener_of: ListenerOf, cells: list[Cell]
) -> Iterator[tuple[Outcome[S], Listener]]:
    """Outcomes as cells end, of which as many run at a time as there are jobs."""
    waiting = longest_first(cells)
    running: dict[int, tuple[Cell, Listener]] = {}
    with Crew[Outcome[S]]() as crew:
        while waiting or running:
            for job in [number for number in range(len(jobs)) if number not in running][: len(waiting)]:
                cell = waiting.pop(next_cell(waiting, [cell for cell, _ in running.values()]))
                running[job] = cell, listener_of(cell)
                crew.start(job, partial(work, cell, jobs[job], running[job][1]))
            job, outcome = crew.wait()
            yield outcome, running.pop(job)[1]


def in_order(outcomes: list[Outcome], cells: list[Cell]) -> list[Outcome]:
    """Outcomes in the order of their cells, whichever ended first."""
    numbers = {cell.hash: number for number, cell in enumerate(cells)}
    return sorted(outcomes, key=lambda outcome: numbers[outcome.cell.hash])


@contextlib.contextmanager
def _swept(options: RunOptions) -> Iterator[None]:
    """Delete temporary files of dead processes before and after cells run: one that is still dying then is gone in the end."""
    folders = [options.out / "results", options.out / "plans", options.work_dir, cache_folder()]

    def delete() -> None:
        sweep_parts(folders)
        sweep_temporary_folders()

    delete()
    try:
        yield
    finally:
        delete()


def sweep_on(screen: Screen, cells: list[Cell], options: RunOptions, runner: CellRunner) -> Iterator[Outcome]:
    """Run cells as `sweep` does, and show them on a screen that was made for them."""
    numbers = {cell.hash: number for number, cell in enumerate(cells)}

    def listener_of(cell: Cell) -> Listener:
        number = numbers[cell.hash]
        screen.begin(number)
        return lambda event: screen.show(event, number)

    for outcome in sweep(cells, options, runner, listener_of, screen.share):
        words = f"done in {about(outcome.seconds)}" if outcome.state == "done" else IN_WORDS[outcome.state]
        screen.end(words, finished=outcome.stored is not None, number=numbers[outcome.cell.hash])
        yield outcome


def look_up(cell: Cell, options: RunOptions, find: Finder[Any] = stored_result) -> Outcome[Any] | None:
    """The outcome of a cell that is finished, or that another run works on; None for a cell that is to be run."""
    return _ended(cell, options, "reused", partial(_reusable, cell, options, find), perf_counter())


def end(cell: Cell, options: RunOptions, work: Callable[[], S], began: float) -> Outcome[S]:
    """What becomes of a cell by some work, which gives its result or raises.

    Args:
        cell: it.
        options: how it runs.
        work: gives its result.
        began: when its work began, by `perf_counter`.
    """
    outcome = _ended(cell, options, "done", work, began)
    assert outcome is not None, "work gives a result"
    return outcome


def _ended(
    cell: Cell, options: RunOptions, state: State, work: Callable[[], S | None], began: float
) -> Outcome[S] | None:
    """The outcome of some work; None if it gives no result."""

    def outcome(state: State, stored: S | None = None, error: FsarBenchError | None = None) -> Outcome[S]:
        return Outcome(cell, state, stored, error, perf_counter() - began)

    try:
        with naming_disks(out=options.out, work_dir=options.work_dir):
            stored = work()
            return outcome(state, stored) if stored else None
    except BusyError as error:
        return outcome("busy", error=error)
    except NotApplicableError as error:
        return outcome("left out" if cell.setup.is_added else "failed", error=error)
    except FsarBenchError as error:
        return outcome("failed", error=error)


def _reusable(cell: Cell, options: RunOptions, find: Finder[S]) -> S | None:
    """What is stored of a finished cell.

    Raises:
        BusyError: another run works on the cell.
    """
    if (stored := find(cell, options)) is not None:
        return stored
    folder = options.work_dir / cell.work_folder
    if is_locked(folder):  # told here without a process that finds out
        raise BusyError(f"Another run is working in {folder}{holder(folder)}.")
    return None


@dataclass(frozen=True)
class Finished:
    """The cell is stored in a folder."""

    folder: Path


@dataclass(frozen=True)
class Failed:
    """The cell failed with an error of `fsar_bench.errors`, by the name of its class."""

    kind: str
    message: str


def run_isolated(
    cell: Cell, options: RunOptions, progress: Listener = silent, *, method: processes.Method | None = None
) -> Stored:
    """Run a cell in a process of its own; arguments and errors as those of `run_cell`.

    Args:
        cell: what to run.
        options: how to run it.
        progress: is told how far each stage is.
        method: how the process is started; None takes the platform's fastest.

    Raises:
        CellCrashedError: the process died, or met an error that is not the user's.
    """
    return read(in_process(cell, options, _body, progress, method=method))


def in_process(
    cell: Cell,
    options: RunOptions,
    body: Callable[[Cell, RunOptions, Connection], None],
    progress: Listener = silent,
    *,
    method: processes.Method | None = None,
) -> Path:
    """Do something with a cell in a process of its own; returns the folder where it stored what it found.

    Args:
        cell: it.
        options: how to run it.
        body: what the process runs, by `answer`.
        progress: is told how far each stage is.
        method: how the process is started; None takes the platform's fastest.

    Raises:
        CellCrashedError: the process died, or met an error that is not the user's.
    """
    progress(Event(STARTING if processes.is_warm(PRELOAD) else IMPORTING, 0, 1))
    answers: list[Finished | Failed] = []

    def hear(message: Event | Finished | Failed) -> None:
        if isinstance(message, Event):
            relay(message, progress)
        else:
            answers.append(message)

    exit_code = processes.converse(
        body, (cell, options), hear, preload=PRELOAD, method=method or start_method(options.device)
    )
    if not answers:
        raise _death(exit_code, options.work_dir / cell.work_folder / LOG)
    if isinstance(answers[-1], Failed):
        raise getattr(errors, answers[-1].kind)(answers[-1].message)
    return answers[-1].folder


def _death(exit_code: int | None, log: Path) -> CellCrashedError:
    return CellCrashedError(f"its process ended early ({processes.ending(exit_code)}). The log is {log}.")


def _body(cell: Cell, options: RunOptions, connection: Connection) -> None:
    def run(cell: Cell, options: RunOptions, send: Listener) -> Path:
        from fsar_bench.engine.run import run_cell

        return run_cell(cell, options, send).folder

    answer(cell, options, connection, run)


def answer(
    cell: Cell, options: RunOptions, connection: Connection, run: Callable[[Cell, RunOptions, Listener], Path]
) -> None:
    """What the process of a cell runs: everything that is printed goes to the log, events and the end to the connection."""
    lock = threading.Lock()

    def send(message: Event | Finished | Failed) -> None:
        with lock:
            connection.send(message)

    log = options.work_dir / cell.work_folder / LOG
    try:
        print_to(open_log(log, lambda error: send(unwritten(log, error))))

        share_cores(options.jobs if isinstance(options.jobs, int) else 1)
        send(Finished(run(cell, options, send)))
    except FsarBenchError as error:
        traceback.print_exc()
        send(Failed(type(error).__name__, str(error)))
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        send(Failed(CellCrashedError.__name__, f"Unexpected error: {reason}. Full traceback: {log}"))


def unwritten(log: Path, error: OSError) -> Event:
    """The warning that a log is not whole."""
    text = f"The log {log} cannot be written ({reason_of(error)}): the run goes on without. work_dir= names another folder."
    return Event(WARNING, 0, 0, text)


def print_to(log: TextIO) -> None:
    """Send standard output and error to a log, those of C libraries too."""
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    sys.stdout = sys.stderr = log
