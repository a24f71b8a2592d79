"""`fsar-bench check`: the contract of methods, tested on tiny random input."""

from __future__ import annotations

import logging
import warnings
from collections import Counter

from rich.console import Console
from rich.markup import escape

from fsar_bench.config.cell import Cell
from fsar_bench.config.files import names
from fsar_bench.errors import ConfigError, FsarBenchError, suggest

SIGNS = {"holds": "[green]✓[/]", "broken": "[red]✗[/]", "skipped": "[dim]–[/]"}


def check_command(methods: list[str], pairs: list[str]) -> int:
    """Check methods and print what holds; returns the exit code (1 if something is broken)."""
    if not methods:
        raise ConfigError(f"Which methods? Say fsar-bench check NAME…, or all.{suggest('', names('methods'))}")
    from fsar_bench.engine.contract import cells_to_check

    cells = [cell for name in methods for cell in cells_to_check(name, pairs)]
    logging.disable(logging.WARNING)  # open_clip says that random weights are random
    warnings.simplefilter("ignore")
    console = Console()
    broken = [_check(cell, console, show_all=len(cells) == 1) for cell in cells]
    return 1 if any(broken) else 0


def _check(cell: Cell, console: Console, *, show_all: bool) -> bool:
    """Check one cell and print all properties, or the broken ones; returns whether any is broken."""
    from fsar_bench.engine.contract import make_tester

    title = f"[bold]{escape(cell.name)}[/]"
    if cell.label.changed:
        title += f" [dim]{escape(', '.join(f'{key}={value}' for key, value in cell.label.changed.items()))}[/]"
    try:
        outcomes = make_tester(cell).run()
    except FsarBenchError as error:
        console.print(f"{SIGNS['broken']} {title} cannot be built: {escape(str(error))}", soft_wrap=True)
        return True
    count = Counter(outcome.state for outcome in outcomes)
    summary = f"{count['holds']} hold, {count['broken']} broken, {count['skipped']} do not apply"
    console.print(f"{SIGNS['broken' if count['broken'] else 'holds']} {title}: {summary}", soft_wrap=True)
    for outcome in outcomes:
        if show_all or outcome.state == "broken":
            reason = f": {escape(outcome.reason)}" if outcome.reason else ""
            console.print(f"  {SIGNS[outcome.state]} {outcome.name}{reason}", soft_wrap=True)
    return count["broken"] > 0
