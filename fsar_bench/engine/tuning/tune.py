"""Tuning several methods with one budget: rounds of trials, and the files that hold what was tried and chosen. Imports no torch.

Methods are tuned one after the other, or as many side by side as it takes to give every job a trial. All trials are run by
`sweep`, as cells are: in processes of their own, with locks, reused where they are done, resumed where they were killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version

from fsar_bench.config.cell import Cell
from fsar_bench.config.search import Values
from fsar_bench.config.settings import RunOptions
from fsar_bench.config.tuned import Spent, Trial, Tuning, best_of, read_tuning
from fsar_bench.engine.sweep import Outcome, sweep
from fsar_bench.engine.tuning.proposals import ROUND
from fsar_bench.engine.tuning.subject import Subject
from fsar_bench.engine.tuning.trial import Measured, measured, trial_in_process
from fsar_bench.errors import ConfigError, FsarBenchError, TrainingError
from fsar_bench.io import to_json, write_atomically
from fsar_bench.progress.events import Listener

Begin = Callable[[Subject, int], Listener]
End = Callable[[Subject, int, Outcome[Measured]], None]


@dataclass(frozen=True)
class Tuned:
    """What became of the tuning of a method.

    Attributes:
        subject: it.
        tuning: all of it; None where it failed.
        error: why it failed.
        is_reused: it was complete before.
    """

    subject: Subject
    tuning: Tuning | None
    error: FsarBenchError | None = None
    is_reused: bool = False


@dataclass
class _Study:
    """A method while it is tuned.

    Attributes:
        subject: it.
        trials: that are done, in their order.
        spent: what each of them gave and took; one whose training an earlier trial had took nothing.
        error: of a trial that cannot be run.
    """

    subject: Subject
    trials: list[Trial] = field(default_factory=list)
    spent: list[Measured] = field(default_factory=list)
    error: FsarBenchError | None = None

    def take(self, values: list[Values], measured: list[Measured | None]) -> None:
        """Add the trials of a round, in their order."""
        for of_trial, found in zip(values, measured, strict=True):
            assert found is not None, "a trial without an error was measured"
            self.trials.append(
                Trial(values=of_trial, accuracy=found.accuracy, curve=found.curve, training=found.training)
            )
            self.spent.append(found)

    def tuning(self) -> Tuning:
        """All of it.

        Raises:
            TrainingError: every training diverged.
        """
        subject, chosen = self.subject, best_of(self.trials)
        if chosen is None:
            raise TrainingError(
                f"All {len(self.trials)} trainings of {subject.method} diverged. Give it another search in its config."
            )
        identity, first = subject.cell.identity, self.spent[0].environment
        packages = {**first.packages, "optuna": version("optuna")}
        assert identity.train is not None, "it is trained"
        assert identity.train.way is not None, "the training of a cell is resolved"
        assert identity.train.shot is not None, "the training of a cell is resolved"
        return Tuning(
            method=subject.method,
            dataset=subject.dataset,
            backbone=str(identity.backbone["name"]),
            way=identity.train.way,
            shot=identity.train.shot,
            seed=subject.seed,
            setup=subject.setup,
            budget=subject.budget,
            space=subject.space,
            trials=self.trials,
            chosen=chosen,
            spent=Spent(seconds=self._seconds(), **{**first.model_dump(), "packages": packages}),
        )

    def _seconds(self) -> list[float]:
        seen: set[str] = set()
        seconds = []
        for found in self.spent:
            seconds.append(0.0 if found.training in seen else found.seconds)
            seen.add(found.training)
        return seconds


def complete(subject: Subject) -> Tuning | None:
    """The tuning of a subject if it is complete: the same space, settings and budget."""
    if not subject.file.exists():
        return None
    tuning = read_tuning(subject.file)
    return tuning if (tuning.setup, tuning.budget) == (subject.setup, subject.budget) else None


def tune(subjects: list[Subject], options: RunOptions, begin: Begin, end: End) -> Iterator[Tuned]:
    """Tune methods, `options.jobs` trials at a time; one that fails does not stop the others.

    Args:
        subjects: what is tuned.
        options: how; `jobs` is a number.
        begin: is told that a trial begins, and gives its listener.
        end: is told what became of it.

    Returns:
        What became of each method, as they are complete and stored.

    Raises:
        ResultError: a folder cannot be written.
    """
    jobs = options.jobs if isinstance(options.jobs, int) else 1
    side_by_side = max(1, -(-jobs // ROUND))
    waiting = []
    for subject in subjects:
        if (tuning := complete(subject)) is not None:
            yield Tuned(subject, tuning, is_reused=True)
        else:
            waiting.append(subject)
    for first in range(0, len(waiting), side_by_side):
        studies = [_Study(subject) for subject in waiting[first : first + side_by_side]]
        for number in range(len(waiting[first].rounds())):  # all have the same budget
            _run_round(studies, number, options, begin, end)
        yield from map(_stored, studies)


def _stored(study: _Study) -> Tuned:
    """What became of a method, after its file was written."""
    if study.error is None:
        try:
            tuning = study.tuning()
            write_atomically(study.subject.file, to_json(tuning.model_dump(mode="json")), hint="tuned=")
            return Tuned(study.subject, tuning)
        except TrainingError as error:
            study.error = error
    return Tuned(study.subject, None, study.error)


def _run_round(studies: list[_Study], number: int, options: RunOptions, begin: Begin, end: End) -> None:
    """Run a round of each method that has not failed."""
    proposed: list[tuple[_Study, list[Values], list[Cell]]] = []
    places: dict[str, list[tuple[Subject, int]]] = {}  # trials of each cell: values may be proposed twice
    keys: dict[str, tuple[str, ...]] = {}
    unique: dict[str, Cell] = {}
    for study in [study for study in studies if study.error is None]:
        subject = study.subject
        wanted = subject.rounds()[number]
        try:
            values = subject.propose(study.trials, wanted)
            cells = [subject.trial(of_trial) for of_trial in values]
        except ConfigError as error:  # two values that do not go together
            study.error = error
            continue
        proposed.append((study, values, cells))
        for trial, cell in zip(wanted, cells, strict=True):
            places.setdefault(cell.hash, []).append((subject, trial))
            unique[cell.hash], keys[cell.hash] = cell, tuple(subject.space)
    results = _sweep(list(unique.values()), keys, places, options, begin, end)
    for study, values, cells in proposed:
        failed = [results[cell.hash].error for cell in cells if results[cell.hash].error]
        if failed:
            study.error = failed[0]
        else:
            study.take(values, [results[cell.hash].stored for cell in cells])


def _sweep(
    cells: list[Cell],
    keys: dict[str, tuple[str, ...]],
    places: dict[str, list[tuple[Subject, int]]],
    options: RunOptions,
    begin: Begin,
    end: End,
) -> dict[str, Outcome[Measured]]:
    """Outcomes of the trials of a round, by the hash of their cells."""

    def runner(cell: Cell, options: RunOptions, progress: Listener) -> Measured:
        return trial_in_process(keys[cell.hash], cell, options, progress)

    def listener_of(cell: Cell) -> Listener:
        listeners = [begin(*place) for place in places[cell.hash]]
        return listeners[0]

    results = {}
    for outcome in sweep(cells, options, runner, listener_of, find=measured):
        results[outcome.cell.hash] = outcome
        for place in places[outcome.cell.hash]:
            end(*place, outcome)
    return results
