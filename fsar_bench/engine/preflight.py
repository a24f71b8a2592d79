"""Preflight: what can be known to fail is said once, before the first cell starts. Imports no torch here.

Episodes are checked against the annotation. Everything that a config names (methods, matchers, backbones with their weights,
readers, devices, optimisers, hooks) is built once, in a process of its own where cells run in processes of their own.
"""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.connection import Connection
from time import monotonic
from typing import Literal

from fsar_bench import errors, processes
from fsar_bench.config.cell import Cell, DatasetSource, short_names
from fsar_bench.config.settings import RunOptions
from fsar_bench.config.shipped import is_as_shipped
from fsar_bench.data.dataset import Dataset, Split, datasets_kept_open, open_dataset
from fsar_bench.data.importing.audit import known_recordings
from fsar_bench.engine.jobs import PRELOAD
from fsar_bench.engine.launchers.choice import check_launcher
from fsar_bench.engine.leaks import LeakCheck
from fsar_bench.engine.state import is_stored
from fsar_bench.errors import (
    CellCrashedError,
    ConfigError,
    DataError,
    FsarBenchError,
    NotApplicableError,
    ProtocolError,
)
from fsar_bench.io import disk_error
from fsar_bench.plan import EpisodePlan, check_plan
from fsar_bench.progress.events import HASHING, Event, Listener, silent

_NEWLINE = "\n"
STAGE = "checking methods and backbones"
IMPORTING = "checking: importing torch and the methods"
PATIENCE = 1.0  # seconds for which hashing clips is not worth a word
DRAWN = 200  # episodes that are drawn to see whether supports of other recordings suffice
EVERYWHERE = ("auto", "cpu")  # devices that every machine has

Builds = Literal["all", "changed", "none"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a cell.

    Attributes:
        cell: number of the cell.
        kind: class of the error, by its name in `fsar_bench.errors`.
        message: what is wrong, and what to do.
    """

    cell: int
    kind: str
    message: str


@dataclass(frozen=True)
class Findings:
    """What a check found.

    Attributes:
        sound: cells that can be run.
        errors: one for each problem, with the cells that have it.
    """

    sound: list[Cell]
    errors: list[FsarBenchError]


def preflight(
    cells: list[Cell],
    options: RunOptions,
    progress: Listener = silent,
    *,
    isolate: bool,
    builds: Builds = "all",
    reads: bool = True,
    tests: bool = True,
) -> Findings:
    """Check the cells that are not finished yet.

    Args:
        cells: what is to be run.
        options: how to run it.
        progress: is told how far the check is.
        isolate: build components in a process of its own.
        builds: which components are built: those of all cells, of those with parts that do not ship with fsar-bench
            unchanged (see `is_as_shipped`), whose tests build the others, or none.
        reads: read clips and look for leaks. Where nothing is built or read, episodes are checked alone, which takes no time.
        tests: cells are tested: without, their tested split is left alone, and cells that are finished are checked too.

    Raises:
        FsarBenchError: no cell that the user asked for can be run; it names each problem once.
        ConfigError: the launcher cannot be used here.
    """
    unfinished = [cell for cell in cells if options.overwrite or not tests or not is_stored(cell, options)]
    if not unfinished:
        return Findings(cells, [])
    check_launcher(options)
    with datasets_kept_open():
        problems = list(_episode_problems(unfinished, tests=tests))
        to_build = [number for number, cell in enumerate(unfinished) if _is_built(cell, options, builds)]
        if to_build:
            check = _check_isolated if isolate else _check_here
            found = check([unfinished[number] for number in to_build], options, progress)
            problems += [replace(problem, cell=to_build[problem.cell]) for problem in found]
        if reads and tests:
            problems += _leak_problems(unfinished, problems, progress)  # last: it reads every clip
    named = _errors(unfinished, problems)
    bad = {unfinished[problem.cell].hash for problem in problems}
    sound = [cell for cell in cells if cell.hash not in bad]
    if problems and all(cell.label.control and cell.setup.is_added for cell in sound):
        raise _together(named)
    return Findings(sound, named)


def _is_built(cell: Cell, options: RunOptions, builds: Builds) -> bool:
    """Whether components of a cell are built to see whether they can be."""
    if builds != "changed":
        return builds == "all"
    depends_on_machine = bool(options.log) or options.devices > 1 or options.device not in EVERYWHERE
    return depends_on_machine or not is_as_shipped(cell)


def _errors(cells: list[Cell], problems: list[Problem]) -> list[FsarBenchError]:
    """One error for each problem, with the cells that have it."""
    names, shown = short_names(cells), defaultdict(set)
    for problem in problems:
        shown[problem.kind, problem.message].add(problem.cell)
    return [
        getattr(errors, kind)(f"{message}{_of([names[cell] for cell in sorted(which)], len(cells))}")
        for (kind, message), which in shown.items()
    ]


def _together(found: list[FsarBenchError]) -> FsarBenchError:
    """One error that says each problem once."""
    if len(found) == 1:
        text = str(found[0])
        return type(found[0])(f"{text}{_NEWLINE if _NEWLINE in text else ' '}Nothing was run.")  # a command may end it
    lines = [f"  {number}. {error}" for number, error in enumerate(found, 1)]
    return ConfigError("\n".join([f"{len(found)} problems; nothing was run:", *lines]))


def _of(cells: list[str], all_cells: int) -> str:
    """Which cells have a problem, in brackets; nothing where all have it."""
    if len(cells) == all_cells:
        return ""
    more = f" and {len(cells) - 2} more" if len(cells) > 2 else ""
    return f" ({'; '.join(cells[:2])}{more})"


def _episode_problems(cells: list[Cell], *, tests: bool) -> Iterator[Problem]:
    """Datasets that cannot be opened, and episodes that they cannot give; what cells have in common is checked once."""
    known: dict[_EpisodeCheck, FsarBenchError | None] = {}
    for number, cell in enumerate(cells):
        if (error := _fault(lambda cell=cell: _check_splits(cell))) is not None:  # type: ignore[misc]  # called at once
            yield Problem(number, type(error).__name__, str(error))
        for check in _episode_checks(cell, tests=tests):
            if check not in known:
                known[check] = _fault(check)
            if (error := known[check]) is not None:
                yield Problem(number, type(error).__name__, str(error))


def _fault(check: Callable[[], None]) -> FsarBenchError | None:
    try:
        check()
    except FsarBenchError as error:
        return error
    return None


def _check_splits(cell: Cell) -> None:
    """The tested split is none that the method is trained or chosen on."""
    identity, setup = cell.identity, cell.setup
    if identity.train is None or setup.checkpoint:
        return
    if cell.protocol.split in ("train", "val"):
        raise ConfigError(
            f"The protocol tests on {cell.protocol.split!r}, which {cell.name} is trained or selected on."
        )
    shared = setup.overlaps.get(identity.dataset.name) if identity.train_dataset else None
    if identity.train_dataset and shared:
        raise ProtocolError(
            f"The train split of {identity.train_dataset.name} holds {shared} val and test clips of {identity.dataset.name}: "
            "what is trained there cannot be tested here. Choose another train_on=."
        )


def _leak_problems(cells: list[Cell], problems: list[Problem], progress: Listener) -> Iterator[Problem]:
    """Clips, classes and checkpoints through which cells without other problems would learn from what they test on."""
    bad = {problem.cell for problem in problems}
    check = LeakCheck(_patient(progress))
    for number, cell in enumerate(cells):
        if number in bad:
            continue
        trains = cell.identity.train is not None and not cell.setup.checkpoint
        try:
            check(cell, learns_from=("train", "val") if trains else ())
        except FsarBenchError as error:
            yield Problem(number, type(error).__name__, str(error))


def _patient(progress: Listener) -> Callable[[int, int], None]:
    """Reports of how many clips are hashed, where that takes longer than `PATIENCE`."""
    began = monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal began
        if done == 0:
            began = monotonic()
        if monotonic() - began > PATIENCE:
            progress(Event(HASHING, done, total))

    return tell


def _episode_checks(cell: Cell, *, tests: bool) -> list[_EpisodeCheck]:
    """A check for each split that the cell draws episodes of."""
    p, train = cell.protocol, cell.identity.train
    common = (p.group_disjoint, p.seed if p.group_disjoint else 0)
    checks = [_EpisodeCheck(cell.dataset.model_dump_json(), p.split, p.way, p.shot, p.query, *common)] if tests else []
    if train is not None and not cell.setup.checkpoint:
        source, way, shot = cell.train_dataset.model_dump_json(), train.way or p.way, train.shot or p.shot
        checks.append(_EpisodeCheck(source, "train", way, shot, train.query_per_class, *common))
        checks.append(_EpisodeCheck(source, "val", way, shot, 1, *common))
    return checks


@dataclass(frozen=True)
class _EpisodeCheck:
    """A split has enough classes and clips for some episodes, and no clip that is known not to decode.

    Attributes:
        source: where the dataset is listed, as JSON of `DatasetSource`.
        split: its name.
        way: classes of an episode.
        shot: supports per class.
        query: queries per class.
        group_disjoint: supports share no recording with the queries of their class.
        seed: of the plan of which some episodes are drawn; 0 where none are.
    """

    source: str
    split: str
    way: int
    shot: int
    query: int
    group_disjoint: bool
    seed: int

    def __call__(self) -> None:
        """Raise an `FsarBenchError` where that is not so."""
        dataset = open_dataset(**DatasetSource.model_validate_json(self.source).model_dump())
        split = dataset.split(self.split)
        _check_decoded(dataset, split)
        way, shot, query = self.way, self.shot, self.query
        check_plan(split.list, way=way, shot=shot, query=query, purpose=self.split, missing=split.missing)
        if self.group_disjoint:
            EpisodePlan.sample(
                split.list,
                way=way,
                shot=shot,
                query=query,
                episodes=DRAWN,
                seed=self.seed,
                purpose=self.split,
                missing=split.missing,
                recording=known_recordings(dataset.name, split),
            )


def _check_decoded(dataset: Dataset, split: Split) -> None:
    """No clip of the split is known not to decode."""
    bad = sorted(clip_id for class_name, clip_id in dataset.undecided if class_name in split.list.classes)
    if bad:
        shown = ", ".join(map(repr, bad[:3])) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise DataError(
            f"fsar-bench data verify found {len(bad)} clips of the {split.name} split of {dataset.name} that do not decode: "
            f"{shown}. "
            f"Replace the files and verify again, or leave them out with fsar-bench data verify {dataset.name} --accept."
        )


def _check_isolated(cells: list[Cell], options: RunOptions, progress: Listener) -> list[Problem]:
    """Problems of components, found in processes of their own: one for each set of custom modules."""
    problems: list[Problem] = []
    by_modules = sorted(enumerate(cells), key=lambda item: _modules(item[1]))
    for _, group in groupby(by_modules, key=lambda item: _modules(item[1])):
        numbers, members = zip(*group, strict=True)
        if not processes.is_warm(PRELOAD):
            progress(Event(IMPORTING, 0, 1))
        answers: list[list[Problem]] = []

        def hear(message: Event | list[Problem], answers: list[list[Problem]] = answers) -> None:
            if isinstance(message, Event):
                progress(message)
            else:
                answers.append(message)

        exit_code = processes.converse(_body, (list(members), options), hear, preload=PRELOAD)
        message = f"The check of methods and backbones ended early ({processes.ending(exit_code)})."
        died = [Problem(number, CellCrashedError.__name__, message) for number in range(len(members))]
        found = answers[-1] if answers else died
        problems += [Problem(numbers[problem.cell], problem.kind, problem.message) for problem in found]
    return problems


def _modules(cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(cell.identity.custom_imports), cell.setup.module_folders


def _body(cells: list[Cell], options: RunOptions, connection: Connection) -> None:
    """What the process of a check runs."""
    processes.silence()
    connection.send(_check_here(cells, options, connection.send))


def _check_here(cells: list[Cell], options: RunOptions, progress: Listener) -> list[Problem]:
    """Problems of components, found in this process."""
    from fsar_bench.engine.components import ComponentCheck

    check = ComponentCheck(options)
    quiet = logging.NullHandler()  # what libraries say of weights is said again in the log of each cell
    logging.getLogger().addHandler(quiet)
    problems: list[Problem] = []
    try:
        with datasets_kept_open():
            for number, cell in enumerate(cells):
                progress(Event(STAGE, number, len(cells)))
                problems += _problems_of(check(cell), number, cell, options)
    finally:
        logging.getLogger().removeHandler(quiet)
    progress(Event(STAGE, len(cells), len(cells)))
    return problems


def _problems_of(found: Iterator[Exception], number: int, cell: Cell, options: RunOptions) -> Iterator[Problem]:
    """Problems of one cell; a method that the user did not name may be one that does not apply."""
    for error in found:
        if isinstance(error, NotApplicableError) and cell.setup.is_added:
            continue
        if isinstance(error, FsarBenchError):
            yield Problem(number, type(error).__name__, str(error))
        else:
            of_disk = disk_error(error, out=options.out, work_dir=options.work_dir)
            yield Problem(number, ConfigError.__name__, of_disk or _unforeseen(cell, error))


def _unforeseen(cell: Cell, error: Exception) -> str:
    """An error that is not ours, with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
    return f"{cell.name} cannot be built: {reason} ({frame.filename}, line {frame.lineno})."
