"""`fsar-bench run`: cells one after the other, each in a process of its own, with progress; then the table."""

from __future__ import annotations

import sys

from rich.console import Console

from fsar_bench.config.cell import Cell
from fsar_bench.config.resolve import Run, resolve
from fsar_bench.engine.sweep import Outcome, run_isolated, sweep
from fsar_bench.progress.events import Listener
from fsar_bench.progress.screen import Screen

STATES = {"reused": "finished before, reused", "left out": "left out, a control that does not apply here"}


def run_command(pairs: list[str]) -> int:
    """Run all cells; returns the exit code (1 if a cell failed)."""
    run = resolve(pairs)
    console = Console()
    _warn_of_overlaps(run.cells)
    outcomes = _run(run, console)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        print(f"error: {outcome.cell}: {outcome.error}", file=sys.stderr)
    _show_tables(run, console)
    _name_curves(run, outcomes, console)
    return 1 if failed else 0


def _run(run: Run, console: Console) -> list[Outcome]:
    outcomes = []
    with Screen(console, len(run.cells)) as screen:

        def listener_of(cell: Cell) -> Listener:
            screen.begin(str(cell))
            return screen.show

        for outcome in sweep(run.cells, run.options, run_isolated, listener_of):
            screen.end(STATES.get(outcome.state, outcome.state), outcome.seconds)
            outcomes.append(outcome)
    return outcomes


def _show_tables(run: Run, console: Console) -> None:
    """Write all tables; print the boards that have a row of this run, and where their pages are."""
    from fsar_bench.cli.leaderboard import show
    from fsar_bench.leaderboard.files import read_boards, write_tables

    boards = read_boards(run.options.out)
    hashes = {cell.hash for cell in run.cells}
    touched = [
        board for board in boards if any(seed.result.config_hash in hashes for row in board.rows for seed in row.seeds)
    ]
    written = write_tables(run.options.out, boards)
    show(console, touched, highlight=hashes)
    pages = {f"{board.page}.md" for board in touched}
    for path in written:
        if path.name in pages:
            console.print(f"table: {path}", soft_wrap=True, highlight=False)


def _name_curves(run: Run, outcomes: list[Outcome], console: Console) -> None:
    """Say where the curves of this run's trainings are."""
    folders = {
        outcome.cell.training_folder(outcome.stored.result.training_key): None
        for outcome in outcomes
        if outcome.state == "done" and outcome.stored and outcome.stored.result.training_key
    }
    for folder in folders:
        console.print(f"curves: {run.options.work_dir / folder / 'curve.png'}", soft_wrap=True, highlight=False)


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
