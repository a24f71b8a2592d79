"""`fsar-bench check`: the contracts of methods, backbones and matchers, tested on tiny random input."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markup import escape

from fsar_bench.cli.list import entries
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.texts.console import PlainConsole

if TYPE_CHECKING:
    from fsar_bench.engine.contract import Subject

Kind = Literal["method", "backbone", "matcher"]
SIGNS = {"holds": "[green]✓[/]", "broken": "[red]✗[/]", "skipped": "[dim]–[/]"}


def check_command(names: list[str], pairs: list[str], kind: Kind = "method") -> int:
    """Check components of one kind and print what holds; returns the exit code (1 if something is broken)."""
    if not names:
        option = "" if kind == "method" else f"--{kind} "
        raise ConfigError(
            f"Which {kind}s? Say fsar-bench check {option}NAME…, or all.{suggest('', entries(f'{kind}s'))}"
        )
    from fsar_bench.engine.contract import subjects

    chosen = [subject for name in names for subject in subjects(kind, name, pairs)]
    console, before = PlainConsole(highlight=False, markup=True), logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip says that random weights are random
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            broken = [_check(subject, console, show_all=len(chosen) == 1) for subject in chosen]
    finally:
        logging.disable(before)
    return 1 if any(broken) else 0


def _check(subject: Subject, console: Console, *, show_all: bool) -> bool:
    """Check one component and print all properties, or the broken ones; returns whether any is broken."""
    title = f"[bold]{escape(subject.name)}[/]"
    if subject.changed:
        title += f" [dim]{escape(', '.join(f'{key}={value}' for key, value in subject.changed.items()))}[/]"
    try:
        with console.status(f"checking {title}"):
            outcomes = subject.tester().run()
    except ConfigError as error:
        console.print(f"{SIGNS['broken']} {escape(str(error))}", soft_wrap=True)
        return True
    count = Counter(outcome.state for outcome in outcomes)
    summary = f"{count['holds']} hold, {count['broken']} broken, {count['skipped']} do not apply"
    console.print(f"{SIGNS['broken' if count['broken'] else 'holds']} {title}: {summary}", soft_wrap=True)
    for outcome in outcomes:
        if show_all or outcome.state == "broken":
            reason = f": {escape(outcome.reason)}" if outcome.reason else ""
            console.print(f"  {SIGNS[outcome.state]} {escape(outcome.name)}{reason}", soft_wrap=True)
    return count["broken"] > 0
