"""The Python API: the verbs of the command line as functions. Re-exported by `fsar_bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar_bench.config.cell import short_names
from fsar_bench.config.resolve import Run, resolve
from fsar_bench.errors import ConfigError, shown
from fsar_bench.io import user_path
from fsar_bench.leaderboard.collection import Results
from fsar_bench.leaderboard.files import read_boards, write_tables
from fsar_bench.texts.characters import plain

if TYPE_CHECKING:
    import numpy as np

    from fsar_bench.engine.contract import Outcomes
    from fsar_bench.engine.submission import Episodes
    from fsar_bench.engine.sweep import CellRunner, Outcome
    from fsar_bench.errors import FsarBenchError
    from fsar_bench.results.store import Stored


def run(
    methods: str | Path | Sequence[str | Path], *, isolate: bool = False, progress: bool = True, **settings: Any
) -> Results:
    """Train and evaluate methods, as `fsar-bench run` does, and write the tables.

    Args:
        methods: names, or paths of configs; several in a list.
        isolate: run each cell in a process of its own, as the command line does; `jobs=` above 1 and `launcher=` need it.
            Otherwise cells run in this process, one after the other.
        progress: show a progress bar.
        **settings: the keys of the command line, with lists instead of commas: `shot=[1, 5]`, `device="cpu"`;
            `method={"alpha": [0, 0.3]}` and `train={"episodes": 500}` stand for `method.alpha=` and `train.episodes=`.

    Returns:
        The results of these cells, those that were finished before included.

    Raises:
        ConfigError: a name or key that does not exist, a value of the wrong type, or several jobs or a launcher in this process;
            nothing was run then.
        ProtocolError: episodes that a dataset cannot give; nothing was run then.
        FsarBenchError: what is known to fail; the cells that can be run were run, if there were any that were asked for.
        BusyError: another run works on a cell; the others were run and stored.
        FsarBenchError: a cell failed; the others were run and stored.

    Example:
        >>> import fsar_bench
        >>> results = fsar_bench.run(["zero_shot", "otam_frozen"], dataset="synthact", shot=[1, 5], episodes=500)
        >>> results.to_frame()[["title", "shot", "accuracy"]]
    """
    work = resolve({**settings, "methods": _names(methods)})
    if not isolate:
        work = _in_this_process(work)
    outcomes, refused = _sweep(work, isolate=isolate, progress=progress)
    write_tables(work.options.out, read_boards(work.options.out))
    if refused:
        more = f" {len(refused) - 1} more problems." if len(refused) > 1 else ""
        raise type(refused[0])(f"{refused[0]}{more} {len(outcomes)} other cells were run.") from refused[0]
    _raise_first(outcomes)
    return Results([outcome.stored for outcome in outcomes if outcome.stored], work.options.out)


def _in_this_process(work: Run) -> Run:
    """The run with one job.

    Raises:
        ConfigError: the user wants several, or a cluster.
    """
    if work.options.launcher != "local":
        raise ConfigError(
            f"launcher={work.options.launcher} needs isolate=True: cells on a cluster run in processes of their own."
        )
    if work.options.jobs not in (1, "auto"):
        raise ConfigError(
            f"jobs={shown(work.options.jobs)} needs isolate=True: several cells at a time run in processes of their own."
        )
    return replace(work, options=work.options.model_copy(update={"jobs": 1}))


def _names(methods: object) -> list[str]:
    """Names and paths of configs as text.

    Raises:
        ConfigError: something else.
    """
    names = list(methods) if isinstance(methods, (list, tuple, set, dict)) else [methods]
    for name in names:
        if not isinstance(name, (str, Path)):
            raise ConfigError(f"methods={shown(name)} must be a name, the path of a config, or a list of them.")
    return [str(name) for name in names]


def _raise_first(outcomes: list[Outcome]) -> None:
    """Raise the error of the first cell that failed, if one did."""
    failed = [(outcome.cell, outcome.error) for outcome in outcomes if outcome.state in ("failed", "busy")]
    for cell, error in failed:
        assert error is not None
        rest = f" ({len(failed)} of {len(outcomes)} cells failed; the others are stored.)" if len(outcomes) > 1 else ""
        raise type(error)(f"{cell}: {error}{rest}") from error


def _sweep(work: Run, *, isolate: bool, progress: bool) -> tuple[list[Outcome], list[FsarBenchError]]:
    """Outcomes of the cells that can be run, and what is wrong with others."""
    from fsar_bench.engine.preflight import preflight

    found = preflight(work.cells, work.options, isolate=isolate)
    outcomes = _sweep_cells(replace(work, cells=found.sound), isolate=isolate, progress=progress)
    return outcomes, found.errors


def _sweep_cells(work: Run, *, isolate: bool, progress: bool) -> list[Outcome]:
    from fsar_bench.engine.jobs import settled
    from fsar_bench.engine.sweep import in_order, sweep, sweep_on

    run_cell = _runner(isolate=isolate)
    options = settled(work.options, work.cells)
    if not progress:
        return in_order(list(sweep(work.cells, options, run_cell)), work.cells)
    import sys

    for note in work.notes:
        print(f"note: {plain(note)}")
    from fsar_bench.engine.forecast import estimate_of
    from fsar_bench.progress.screen import Screen
    from fsar_bench.texts.console import PlainConsole

    estimate = estimate_of(work.cells, options)
    # A cell in this process sends standard output to its log, the screen keeps what it is now.
    with Screen(PlainConsole(file=sys.stdout), short_names(work.cells), estimate) as screen:
        return in_order(list(sweep_on(screen, work.cells, options, run_cell)), work.cells)


def _runner(*, isolate: bool) -> CellRunner:
    if isolate:
        from fsar_bench.engine.sweep import run_isolated

        return run_isolated
    from fsar_bench.engine.run import run_cell

    return run_cell


def check(component: str | Path | type, **settings: Any) -> Outcomes:
    """Test the contract of a method, backbone or matcher on tiny random input, in seconds.

    Args:
        component: a class (of a method, backbone or matcher), or the name or config path of a method.
        **settings: for a class, the arguments of its constructor, for a method beside the backbone; otherwise the keys of the
            command line.

    Returns:
        What became of each property; `.broken` holds those that do not hold.

    Raises:
        ConfigError: it cannot be built; the message says where.

    Example:
        >>> import fsar_bench
        >>> fsar_bench.check("prototype_frozen").broken
        []
    """
    from fsar_bench.engine.contract import Outcomes, class_subject, subjects

    if isinstance(component, type):
        return Outcomes(class_subject(component, settings).tester().run())
    chosen = subjects("method", str(component), settings)
    return Outcomes(outcome for subject in chosen for outcome in subject.tester().run())


def episodes(dataset: str | Path = "synthact", **settings: Any) -> Episodes:
    """The episodes of a protocol, for other code bases to evaluate on.

    Args:
        dataset: name of a dataset, or path of its config.
        **settings: keys of the protocol: `way`, `shot`, `query`, `episodes`, `seed`, `group_disjoint`, `protocol`.

    Returns:
        The plan as arrays, with class names, class texts, clip ids and clip paths.

    Raises:
        ConfigError: a key that does not exist, or a value of the wrong type.
        DataError: the dataset is not prepared on this machine.
        ProtocolError: the dataset has too few classes or clips for the protocol.

    Example:
        >>> import fsar_bench
        >>> plan = fsar_bench.episodes("synthact", way=5, shot=1, episodes=100)
        >>> plan.query.shape
        (100, 5, 1)
    """
    from fsar_bench.engine.submission import Episodes

    return Episodes.of(str(dataset), settings)


def score_predictions(
    plan: Episodes,
    predictions: np.ndarray | Sequence[Sequence[int]],
    *,
    name: str,
    out: str | Path = "leaderboards",
    **about: Any,
) -> Stored:
    """Store the predictions of another code base as a ranked row that is marked as submitted, and write the tables.

    Args:
        plan: from `episodes`.
        predictions: predicted label (0 to way - 1) of each query, `[E, Q]` in the order of `plan.labels`.
        name: of the method.
        out: folder of results and tables.
        **about: what tables say of it: `paper`, `backbone`, `pretraining`, `uses_class_names`, `transductive`,
            `trainable`, `order_sensitive`, `parameters`, `trained_parameters`.

    Returns:
        The stored result.

    Raises:
        ConfigError: the plan, the name or what else is told of the method is of the wrong type.
        ResultError: the predictions are not labels of these episodes.
    """
    from fsar_bench.engine.submission import Episodes, submit

    if not isinstance(plan, Episodes):
        raise ConfigError(f"{shown(plan)} is no plan: take what fsar_bench.episodes(...) gives.")
    folder = user_path(out)
    stored = submit(plan, predictions, name=name, out=folder, **about)
    write_tables(folder, read_boards(folder))
    return stored
