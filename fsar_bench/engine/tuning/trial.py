"""A trial: the training of a cell and its val accuracies, with the test split closed. Imports no torch here.

A trial is the training of a run: same key, same folder, same bytes, so that a run with the chosen settings reuses it. What it
gave is noted in the cell's work folder, sealed with the hash of the cell; a trial that was killed resumes from the state of its
training.
"""

from __future__ import annotations

from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fsar_bench.config.cell import Cell, Sha
from fsar_bench.config.settings import Frozen, RunOptions
from fsar_bench.engine.sweep import answer, in_process
from fsar_bench.errors import ConfigError, NotNumbersError, ResultError, TrainingError
from fsar_bench.io import naming_disks, read_whole, to_json, write_atomically
from fsar_bench.progress.events import Listener, report, silent
from fsar_bench.results.record import Environment, Percent
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import seal_json, unseal_json

if TYPE_CHECKING:
    from fsar_bench.engine.run import CellRun

NOTE = "trial.json"  # in a cell's work folder


class Measured(Frozen):
    """What a trial gave.

    Attributes:
        training: key of its training.
        curve: (training episodes, val accuracy) of each validation; empty where it diverged.
        diverged: the loss or the scores were no numbers.
        seconds: that the training took, validations included.
        environment: what it ran on.
    """

    training: Sha
    curve: list[tuple[int, Percent]] = Field(max_length=100_000)
    diverged: bool = False
    seconds: float = Field(ge=0)
    environment: Environment

    @property
    def accuracy(self) -> float | None:
        """The best val accuracy in percent; None where the training diverged."""
        return None if self.diverged else max(accuracy for _, accuracy in self.curve)


def measured(cell: Cell, options: RunOptions) -> Measured | None:
    """What the trial of a cell gave, if it is done."""
    return recall(
        options.work_dir / cell.work_folder / NOTE,
        lambda path: Measured.model_validate_json(to_json(unseal_json(read_whole(path), cell.hash))),
        "what a trial gave",
        again="It is run again",
    )


def run_trial(cell: Cell, options: RunOptions, progress: Listener = silent, *, tuned: tuple[str, ...] = ()) -> Path:
    """Train, and note the val accuracies; the test split of every dataset stays closed.

    Args:
        cell: whose training it is.
        options: how to run it.
        progress: is told how far each stage is.
        tuned: keys whose values are tried.

    Returns:
        The folder that holds the note.

    Raises:
        FsarBenchError: something that the user can fix; the message names it.
    """
    from fsar_bench.data.dataset import split_closed
    from fsar_bench.engine.run import CellRun

    with (
        naming_disks(work_dir=options.work_dir),
        split_closed("test"),
        CellRun.open(cell, options, progress) as run,
    ):
        _check_trains(run.method.score_only, tuned, cell.name)
        write_atomically(run.folder / NOTE, seal_json(_train(run).model_dump(mode="json"), cell.hash), hint="work_dir=")
        return run.folder


def _check_trains(score_only: tuple[str, ...], tuned: tuple[str, ...], name: str) -> None:
    """No value is tried that changes the score alone: a training, which is built without it, would not show it."""
    without = [key for key in tuned if key.split(".")[:2][-1] in score_only and key.startswith("method.")]
    if without:
        raise ConfigError(
            f"search[{without[0]!r}] of {name} changes the score alone, and not its training, whose val accuracy is what a trial "
            "is measured by. Leave it out."
        )


def _train(run: CellRun) -> Measured:
    """Train, and give what it was measured to be; a training that diverges is a trial too."""
    from fsar_bench.engine.device import environment

    began = perf_counter()
    assert run.keys.training is not None, "a method that is tuned is trained"
    common: dict[str, Any] = {"training": run.keys.training, "environment": environment(run.device)}
    try:
        run.train()
    except (TrainingError, NotNumbersError) as error:
        report("training diverged", 1, 1, str(error)[:200])
        return Measured(curve=[], diverged=True, seconds=perf_counter() - began, **common)
    assert run.trained is not None, "it was trained"
    return Measured(curve=run.trained.curve, seconds=run.trained.seconds, **common)


def trial_in_process(tuned: tuple[str, ...], cell: Cell, options: RunOptions, progress: Listener = silent) -> Measured:
    """Run a trial in a process of its own; arguments and errors as those of `run_trial`."""
    in_process(cell, options, partial(_body, tuned), progress)
    found = measured(cell, options)
    if found is None:
        raise ResultError(f"{options.work_dir / cell.work_folder / NOTE} is gone. Run the same command again.")
    return found


def _body(tuned: tuple[str, ...], cell: Cell, options: RunOptions, connection: Connection) -> None:
    answer(cell, options, connection, partial(run_trial, tuned=tuned))
