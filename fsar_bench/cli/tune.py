"""`fsar-bench tune`: settings of methods, chosen on val with one budget for all; and what earlier tunings chose."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsar_bench.config.choice import DatasetChoice, MethodChoice
from fsar_bench.config.files import names
from fsar_bench.config.overrides import parse_pairs, several
from fsar_bench.config.search import Values, describe, spell
from fsar_bench.config.settings import RunOptions
from fsar_bench.config.tuned import AUTO, Tuning, read_tuning
from fsar_bench.engine.forecast import estimate_of_trainings
from fsar_bench.engine.jobs import job_options
from fsar_bench.engine.preflight import preflight
from fsar_bench.engine.sweep import Outcome
from fsar_bench.engine.tuning.proposals import require_optuna
from fsar_bench.engine.tuning.subject import Asked, Subject, subjects_of
from fsar_bench.engine.tuning.trial import Measured
from fsar_bench.engine.tuning.tune import Tuned, complete, tune
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import check_writable
from fsar_bench.progress.estimate import Estimate
from fsar_bench.progress.events import Event, Listener
from fsar_bench.progress.screen import Screen
from fsar_bench.progress.words import about
from fsar_bench.texts.characters import counted
from fsar_bench.texts.console import PlainConsole

INTERRUPTED = 130  # exit code, as of any program that Ctrl-C ends
NOTE = (
    "Val accuracies, on the same episodes for all trials and methods; that of the best of several trials is somewhat too high. "
    "Nothing was tested: fsar-bench run takes the chosen values from now on (tuned=none takes those of configs)."
)
WIDE = 200  # characters of a line that no terminal folds


def tune_command(arguments: list[str], *, show: bool = False, dry_run: bool = False) -> int:
    """Tune methods, show what earlier tunings chose, or list what would be done; returns the exit code."""
    settings = _settings(arguments)
    console = PlainConsole(file=sys.stdout)
    if show:
        return _show(settings, console)
    asked = subjects_of(settings)
    for note in asked.notes:
        print(f"note: {note}", file=sys.stderr)
    left = [subject for subject in asked.subjects if complete(subject) is None]
    trials = sum(subject.budget.trials for subject in left)
    options = asked.options.model_copy(update={"jobs": len(job_options(asked.options, trials))})
    estimate = _estimate(left, options)
    if dry_run:
        _list(asked, left, estimate, console)
        return 0
    if left:
        require_optuna()
        _check(left, options)
    return _end(_tune(asked, left, options, estimate, console), console)


def _settings(arguments: list[str]) -> dict[str, str]:
    """Settings by key; words without "=" are methods."""
    settings = parse_pairs([argument for argument in arguments if "=" in argument])
    methods = [argument for argument in arguments if "=" not in argument]
    if methods and "methods" in settings:
        raise ConfigError(f"Methods are named twice: {' '.join(methods)} and methods={settings['methods']}.")
    return {**settings, "methods": ",".join(methods)} if methods else settings


def _check(subjects: list[Subject], options: RunOptions) -> None:
    """Raise `FsarBenchError` for what can be known to fail before the first trial.

    Nothing is tuned then: a method that is left out is not to be missed in a table of equal budgets.
    """
    for folder in dict.fromkeys(subject.file.parent for subject in subjects):
        check_writable(folder, "tuned=")
    check_writable(options.work_dir, "work_dir=")
    with PlainConsole(stderr=True).status("checking methods and backbones"):
        found = preflight([subject.cell for subject in subjects], options, isolate=True, tests=False)
    if found.errors:
        more = (
            f" And {counted(len(found.errors) - 1, 'more problem', 'more problems')}." if len(found.errors) > 1 else ""
        )
        raise type(found.errors[0])(f"{found.errors[0]}{more} Nothing was tuned.")


def _estimate(subjects: list[Subject], options: RunOptions) -> Estimate:
    """The time of all trials, by their numbers."""
    cells = [subject.cell for subject in subjects for _ in range(subject.budget.trials)]
    return estimate_of_trainings(cells, options)


@dataclass
class _Done:
    """What became of a tuning, also of one that was interrupted.

    Attributes:
        outcomes: of the methods that ended.
        count: number of methods.
        doing: trials that ran when it was interrupted.
        is_interrupted: whether Ctrl-C ended it.
    """

    count: int
    outcomes: list[Tuned] = field(default_factory=list)
    doing: list[str] = field(default_factory=list)
    is_interrupted: bool = False


def _tune(asked: Asked, left: list[Subject], options: RunOptions, estimate: Estimate, console: Console) -> _Done:
    """Tune what is left, with lines of progress; what is complete is told with it."""
    done = _Done(len(asked.subjects))
    names: list[str] = []
    first: dict[Path, int] = {}
    for subject in left:
        first[subject.file] = len(names)
        names += [subject.name(number) for number in range(subject.budget.trials)]
    options = options.model_copy(update={"out": options.work_dir})  # trials have no results
    with Screen(console, names, estimate) as screen:
        shown = _Shown(screen, first)
        try:
            for outcome in tune(asked.subjects, options, shown.begin, shown.end):
                done.outcomes.append(outcome)
        except KeyboardInterrupt:
            done.doing, done.is_interrupted = screen.doing, True
    return done


@dataclass
class _Shown:
    """Shows trials on a screen.

    Attributes:
        screen: it.
        first: number of the first trial of each method, by its file.
        best: best val accuracy of each method so far.
    """

    screen: Screen
    first: dict[Path, int]
    best: dict[Path, float] = field(default_factory=dict)

    def begin(self, subject: Subject, trial: int) -> Listener:
        """A trial begins."""
        number = self.first[subject.file] + trial
        self.screen.begin(number)

        def listen(event: Event) -> None:
            self.screen.show(event, number)

        return listen

    def end(self, subject: Subject, trial: int, outcome: Outcome[Measured]) -> None:
        """A trial ended."""
        number, found = self.first[subject.file] + trial, outcome.stored
        if found is None:
            words = "busy in another run" if outcome.state == "busy" else "failed"
        elif found.accuracy is None:
            words = "diverged"
        else:
            best = self.best[subject.file] = max(found.accuracy, self.best.get(subject.file, 0.0))
            words = f"val {found.accuracy:.2f} %, best {best:.2f} %{' (done before)' * (outcome.state == 'reused')}"
        self.screen.end(words, finished=found is not None, number=number)


def _end(done: _Done, console: Console) -> int:
    """Print the table and what went wrong; returns the exit code."""
    tuned = [outcome.tuning for outcome in done.outcomes if outcome.tuning]
    failed = [outcome for outcome in done.outcomes if outcome.error]
    if tuned:
        _wide(console).print(_table(tuned))
        console.print(NOTE, soft_wrap=True, highlight=False)
        for folder in dict.fromkeys(outcome.subject.file.parent for outcome in done.outcomes if outcome.tuning):
            console.print(f"stored in {folder}", soft_wrap=True, highlight=False, markup=False)
    for outcome in failed:
        print(f"error: {outcome.subject.title} on {outcome.subject.dataset}: {outcome.error}", file=sys.stderr)
    if done.is_interrupted:
        for doing in done.doing:
            console.print(f"  interrupted: {doing}", soft_wrap=True, highlight=False, markup=False)
        count = counted(done.count, "method", "methods")
        print(f"{len(tuned)} of {count} tuned. Interrupted. Run the same command again to resume.", file=sys.stderr)
        return INTERRUPTED
    return 1 if failed else 0


HEADINGS = ("method", "dataset", "trials", "episodes", "untuned val %", "best val %", "hours", "chosen")


def _table(tuned: Iterable[Tuning]) -> Table:
    """What tunings chose, a line each."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for heading in HEADINGS:
        is_number = heading.endswith(("%", "s"))
        table.add_column(
            heading, justify="right" if is_number else "left", overflow="fold", min_width=6 if is_number else None
        )
    for tuning in tuned:
        budget, best = tuning.budget, tuning.trials[tuning.chosen]
        row = (
            tuning.method,
            tuning.dataset + (f" at {tuning.shot} shots" if tuning.shot > 1 else ""),
            str(budget.trials),
            str(budget.episodes),
            _percent(tuning.trials[0].accuracy),
            _percent(best.accuracy),
            f"{sum(tuning.spent.seconds) / 3600:.2f}",
            _spelled(best.values) + ("" if tuning.chosen else " (as before)"),
        )
        table.add_row(*map(Text, row))
    return table


def _wide(console: Console) -> Console:
    """The console for a table, with long lines where a file or another program reads it."""
    return console if console.is_terminal else PlainConsole(file=console.file, width=max(WIDE, console.width))


def _percent(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{accuracy:.2f}"


def _spelled(values: Values) -> str:
    return " ".join(f"{key}={spell(value)}" for key, value in values.items())


def _list(asked: Asked, left: list[Subject], estimate: Estimate, console: Console) -> None:
    """Print what would be tuned, over which values, and for how long."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for heading in ("method", "dataset", "trials", "episodes", "state", "space"):
        table.add_column(heading, overflow="fold")
    waiting = {subject.file for subject in left}
    for subject in asked.subjects:
        state = "to do" if subject.file in waiting else "finished"
        budget = subject.budget
        row = (
            subject.method,
            subject.dataset,
            str(budget.trials),
            str(budget.episodes),
            state,
            describe(subject.space),
        )
        table.add_row(*map(Text, row))
    _wide(console).print(table)
    seconds = estimate.remaining()
    trials = counted(sum(subject.budget.trials for subject in left), "trial", "trials")
    time = (
        "no estimate: out= holds no result with this backbone"
        if seconds is None
        else f"estimated {about(seconds)} in all"
    )
    console.print(f"{trials}: {time if left else 'nothing to do'}", highlight=False, soft_wrap=True)


def _show(settings: dict[str, str], console: Console) -> int:
    """Print what stored tunings chose; of a single one, every trial."""
    for key in settings:
        if key not in ("methods", "dataset", "tuned"):
            raise ConfigError(f"tune --show has no key {key!r}.{suggest(key, ['methods', 'dataset', 'tuned'])}")
    found = _stored(settings)
    if not found:
        raise ConfigError("Nothing that was named is tuned: fsar-bench tune METHODS dataset=… tunes it.")
    _wide(console).print(_table(tuning for _, tuning in found))
    if len(found) == 1:
        path, tuning = found[0]
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
        for heading in ("trial", "val %", "after episodes", "seconds", *tuning.space):
            table.add_column(heading, justify="right", overflow="fold")
        for number, (trial, seconds) in enumerate(zip(tuning.trials, tuning.spent.seconds, strict=True)):
            best = next((str(after) for after, accuracy in trial.curve if accuracy == trial.accuracy), "–")
            values = [spell(trial.values[key]) for key in tuning.space]
            mark = " *" * (number == tuning.chosen)
            table.add_row(f"{number + 1}{mark}", _percent(trial.accuracy), best, f"{seconds:.0f}", *map(Text, values))
        _wide(console).print(table)
        console.print(
            f"*: chosen. Space: {describe(tuning.space)}. {path}", soft_wrap=True, highlight=False, markup=False
        )
    return 0


def _stored(settings: dict[str, str]) -> list[tuple[Path, Tuning]]:
    """Stored tunings of some methods (all, unless they are named) on some datasets, those with other backbones too."""
    asked = several("methods", settings["methods"]) if settings.get("methods") else ["all"]
    methods = [each for name in asked for each in (names("methods") if name == "all" else [name])]
    default = ",".join(names("datasets"))
    found = []
    for dataset in several("dataset", settings.get("dataset", default)):
        on = DatasetChoice.load(dataset)
        for name in methods:
            method = MethodChoice.load(name)
            folder = method.tuned_folder(on, settings.get("tuned", AUTO))
            if folder is not None:
                place = folder / on.config.dataset.name
                paths = [place / f"{method.name}.json", *sorted(place.glob(f"{method.name}@*.json"))]
                found += [(path, read_tuning(path)) for path in paths if path.exists()]
    return found
