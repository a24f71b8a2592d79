"""A sweep: cells one after the other, finished ones reused. Imports no torch unless cells run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.progress.events import Listener, silent
from fsar_bench.errors import FsarBenchError, NotApplicableError, ResultError
from fsar_bench.results.store import RECORD, Stored, read

CellRunner = Callable[[Cell, RunOptions, Listener], Stored]
State = Literal["done", "reused", "left out", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: the cell.
        state: "done", "reused" (finished before), "left out" (a control that does not apply) or "failed".
        stored: its result; None where it was left out or failed.
        error: why it failed or was left out.
        seconds: how long it took.
    """

    cell: Cell
    state: State
    stored: Stored | None
    error: FsarBenchError | None
    seconds: float


def sweep(
    cells: list[Cell], options: RunOptions, runner: CellRunner, listener_of: Callable[[Cell], Listener] | None = None
) -> Iterator[Outcome]:
    """Run cells in their order; a failing cell does not stop the rest.

    Args:
        cells: what to run.
        options: how to run it.
        runner: `run_cell`, or `run_isolated`.
        listener_of: gives the listener of a cell, just before it begins.

    Raises:
        ResultError: a folder cannot be written; nothing was run then.
    """
    check_writable(options.out, "out")
    check_writable(options.work_dir, "work_dir")
    for cell in cells:
        yield _run_or_reuse(cell, options, runner, listener_of(cell) if listener_of else silent)


def _run_or_reuse(cell: Cell, options: RunOptions, runner: CellRunner, listener: Listener) -> Outcome:
    began = perf_counter()

    def outcome(state: State, stored: Stored | None = None, error: FsarBenchError | None = None) -> Outcome:
        return Outcome(cell, state, stored, error, perf_counter() - began)

    try:
        stored = None if options.overwrite else finished(cell, options.out)
        if stored:
            return outcome("reused", stored)
        return outcome("done", runner(cell, options, listener))
    except NotApplicableError as error:
        return outcome("left out" if cell.setup.is_added else "failed", error=error)
    except FsarBenchError as error:
        return outcome("failed", error=error)


def finished(cell: Cell, out: Path) -> Stored | None:
    """The stored result of a cell, if there is one.

    Raises:
        ResultError: it is damaged.
    """
    folder = out / "results" / cell.folder
    if not (folder / RECORD).exists():
        return None
    try:
        stored = read(folder)
    except ResultError as error:
        raise ResultError(f"{error} Or run with overwrite=true.") from error
    return stored if stored.result.config_hash == cell.hash else None


def check_writable(folder: Path, key: str) -> None:
    """Raise `ResultError` unless a folder exists or can be made, and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResultError(
            f"The folder {folder} cannot be written ({error.strerror}). Choose another with {key}=."
        ) from error
