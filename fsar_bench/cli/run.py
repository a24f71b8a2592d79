"""`fsar-bench run`: cells one after the other or several at a time, each in a process of its own; then the table."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from time import monotonic

from rich.console import Console
from rich.text import Text

from fsar_bench.config.cell import Cell, short_names
from fsar_bench.config.resolve import Run, resolve
from fsar_bench.engine.forecast import estimate_of
from fsar_bench.engine.jobs import settled
from fsar_bench.engine.preflight import Builds, preflight
from fsar_bench.engine.sweep import Outcome, in_order, run_isolated, sweep_on
from fsar_bench.errors import ResultError
from fsar_bench.io import check_writable
from fsar_bench.progress.estimate import Estimate
from fsar_bench.progress.events import HASHING, Event
from fsar_bench.progress.screen import Screen, Stages
from fsar_bench.progress.task import EVERY
from fsar_bench.texts.console import PlainConsole

INTERRUPTED = 130  # exit code, as of any program that Ctrl-C ends


@dataclass
class _Done:
    """What became of a run, also of one that was interrupted.

    Attributes:
        outcomes: of the cells that ended.
        doing: the cells that ran when the run was interrupted, and how far each was.
        is_interrupted: whether Ctrl-C ended it.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    doing: list[str] = field(default_factory=list)
    is_interrupted: bool = False


def run_command(pairs: list[str], *, dry_run: bool = False) -> int:
    """Run all cells, or with `dry_run` only list them; returns the exit code (1 if a cell failed, 130 after Ctrl-C)."""
    asked = resolve(pairs)
    console = PlainConsole(file=sys.stdout)
    for note in asked.notes:
        print(f"note: {note}", file=sys.stderr)
    _warn_of_overlaps(asked.cells)
    if not dry_run:
        check_writable(asked.options.out, "out=")
        check_writable(asked.options.work_dir, "work_dir=")
    run = _sound(asked, console, builds="changed" if dry_run else "all")
    if dry_run:
        from fsar_bench.cli.dry_run import show_cells

        show_cells(run, console)
        return 0 if run == asked else 1
    run = replace(run, options=settled(run.options, run.cells))
    done = _run(run, estimate_of(run.cells, run.options), console)
    if done.is_interrupted:
        return _end_early(run, done, console)
    _tell(done.outcomes)
    _show_tables(run, console)
    _name_curves(run, done.outcomes, console)
    _tell_of_committed(done.outcomes, console)
    left_out = len(asked.cells) - len(run.cells)
    if left_out:
        count = "1 cell was" if left_out == 1 else f"{left_out} cells were"
        print(f"{count} not run: see the errors above the first cell.", file=sys.stderr)
    return 1 if left_out or any(outcome.state == "failed" for outcome in done.outcomes) else 0


def _tell(outcomes: list[Outcome]) -> None:
    """Print why cells failed, each reason once, and which another run works on."""
    failed: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.state == "failed":
            failed[str(outcome.error)].append(str(outcome.cell))
        if outcome.state == "busy":
            print(f"busy: {outcome.cell}: {outcome.error} Run the same command again for its row.", file=sys.stderr)
    for reason, cells in failed.items():
        more = f" (and {len(cells) - 1} more: {'; '.join(cells[1:])})" if len(cells) > 1 else ""
        print(f"error: {cells[0]}: {reason}{more}", file=sys.stderr)


def _sound(run: Run, console: Console, builds: Builds) -> Run:
    """The run without cells that are known to fail, of which each reason is printed once.

    Raises:
        FsarBenchError: no cell that was asked for can be run.
    """
    told: dict[str, float] = {}  # when each stage was last printed
    stages = Stages()
    with PlainConsole(stderr=True).status("checking") as status:

        def listener(event: Event) -> None:
            text, now = stages.text(event), monotonic()
            status.update(Text(text))  # a string would be markup
            is_long = event.stage == HASHING and now - told.get(event.stage, now) >= EVERY
            if not console.is_terminal and (event.stage not in told or is_long):
                print(text if is_long else event.stage, flush=True)
                told[event.stage] = now

        found = preflight(run.cells, run.options, listener, isolate=True, builds=builds)
    for error in found.errors:
        print(f"error: {error}", file=sys.stderr)
    return replace(run, cells=found.sound)


def _run(run: Run, estimate: Estimate, console: Console) -> _Done:
    done = _Done()
    with Screen(console, short_names(run.cells), estimate) as screen:
        try:
            for outcome in sweep_on(screen, run.cells, run.options, run_isolated):
                done.outcomes.append(outcome)
        except KeyboardInterrupt:
            done.doing, done.is_interrupted = screen.doing, True
    return replace(done, outcomes=in_order(done.outcomes, run.cells))


def _end_early(run: Run, done: _Done, console: Console) -> int:
    """Say what Ctrl-C left: cells that are done, those that ran, and the table so far."""
    counted = Counter(outcome.state for outcome in done.outcomes)
    finished = [outcome for outcome in done.outcomes if outcome.stored]
    states = ", ".join(f"{count} {state}" for state, count in counted.items()) or "none done"
    names = dict(zip((cell.hash for cell in run.cells), short_names(run.cells), strict=True))
    console.print(f"\n{len(done.outcomes)} of {len(run.cells)} cells ended ({states})", soft_wrap=True, highlight=False)
    for outcome in done.outcomes:
        console.print(f"  {outcome.state}: {names[outcome.cell.hash]}", soft_wrap=True, highlight=False, markup=False)
    for doing in done.doing:
        console.print(f"  interrupted: {doing}", soft_wrap=True, highlight=False, markup=False)
    print("Interrupted. Run the same command again to resume.", file=sys.stderr, flush=True)
    if finished:
        _show_tables(run, console)
    return INTERRUPTED


def _show_tables(run: Run, console: Console) -> None:
    """Write all tables; print the boards that have a row of this run, and where their pages are."""
    from fsar_bench.cli.leaderboard import show, telling
    from fsar_bench.leaderboard.files import read_boards, write_tables

    with telling(console):
        boards = read_boards(run.options.out)
    hashes = {cell.hash for cell in run.cells}
    touched = [
        board for board in boards if any(seed.result.config_hash in hashes for row in board.rows for seed in row.seeds)
    ]
    with telling(console):
        show(console, touched, highlight=hashes)  # first: a full disk does not hide what was measured
        written = write_tables(run.options.out, boards)
    pages = {f"{board.page}.md" for board in touched}
    for path in written:
        if path.name in pages:
            console.print(f"table: {path}", soft_wrap=True, highlight=False)


def _name_curves(run: Run, outcomes: list[Outcome], console: Console) -> None:
    """Say where the curves of this run's trainings are; nodes of a cluster that sees no folder of ours keep none."""
    folders = {
        outcome.cell.training_folder(outcome.stored.result.training_key): None
        for outcome in outcomes
        if outcome.state == "done" and outcome.stored and outcome.stored.result.training_key
    }
    for path in (run.options.work_dir / folder / "curve.png" for folder in folders):
        if path.exists():
            console.print(f"curves: {path}", soft_wrap=True, highlight=False)


def _tell_of_committed(outcomes: list[Outcome], console: Console) -> None:
    """Say which of the results that ship with fsar-bench were reproduced."""
    from fsar_bench.leaderboard.committed import committed_file, compare, read_committed, told

    finished = [(outcome, outcome.stored) for outcome in outcomes if outcome.stored]
    names = short_names([outcome.cell for outcome, _ in finished])
    try:
        path = committed_file()
        table, home = read_committed(path), path.parent.resolve()
        compared = [
            compare(
                name, stored, table, is_itself=outcome.state == "reused" and home in stored.folder.resolve().parents
            )
            for name, (outcome, stored) in zip(names, finished, strict=True)
        ]
    except ResultError as error:  # the results themselves are stored and shown
        print(f"warning: the committed rows cannot be compared with: {error}", file=sys.stderr)
        return
    for line in told([each for each in compared if each], len(finished)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _warn_of_overlaps(cells: list[Cell]) -> None:
    """Warn where a dataset's train split holds clips that another dataset tests on."""
    trained = {cell.identity.dataset.name: cell.setup.overlaps for cell in cells if cell.identity.train}
    for name, overlaps in trained.items():
        for other, count in overlaps.items():
            print(
                f"warning: the train split of {name} holds {count} val and test clips of {other}: do not test there what is "
                "trained here.",
                file=sys.stderr,
            )
