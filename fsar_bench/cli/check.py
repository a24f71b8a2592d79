"""`fsar-bench check`: the contract of methods, tested on tiny random input."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from fsar_bench.config.resolve import names, resolve
from fsar_bench.errors import ConfigError, FsarBenchError, suggest

if TYPE_CHECKING:
    from fsar_bench.testing import MethodTester

FRAMES = 4
SIGNS = {"holds": "[green]✓[/]", "broken": "[red]✗[/]", "skipped": "[dim]–[/]"}


def cells(name: str, pairs: list[str]) -> list[dict]:
    """Resolved cells of a method (or of the rows of an ablation) with settings, on a tiny backbone unless they name one.

    Raises:
        ConfigError: unknown method or settings.
    """
    settings = [f"methods={name}", "controls=false", *pairs]
    for key, default in (("backbone", "tiny_clip"), ("frames", FRAMES)):
        if not any(pair.startswith(f"{key}=") for pair in pairs):
            settings.append(f"{key}={default}")
    return resolve(settings).cells


def build_tester(cell: dict) -> MethodTester:
    """The tester of a cell's method.

    Raises:
        ConfigError: a method or backbone that cannot be built.
    """
    from fsar_bench.engine.run import build_method
    from fsar_bench.testing import MethodTester

    backbone = build_method(cell).backbone
    return MethodTester(
        lambda: build_method(cell),
        frames=cell["protocol"]["frames"],
        crop=backbone.crop,
        text_width=backbone.embedding_width if backbone.has_text else 0,
    )


def check_command(methods: list[str], pairs: list[str]) -> int:
    """Check methods and print what holds; returns the exit code (1 if something is broken)."""
    if not methods:
        raise ConfigError(f"Which methods? Say fsar-bench check NAME…, or all.{suggest('', names('methods'))}")
    found = [cell for name in methods for cell in cells(name, pairs)]
    logging.disable(logging.WARNING)  # open_clip says that random weights are random
    warnings.simplefilter("ignore")
    console = Console()
    return 1 if sum(_check(cell, console, whole=len(found) == 1) for cell in found) else 0


def _check(cell: dict, console: Console, *, whole: bool) -> bool:
    """Check one cell and print it, `whole` or what is broken alone; returns whether something is."""
    title = f"[bold]{escape(cell['name'])}[/]"
    if settings := cell["title"].removesuffix(")").partition(" (")[2]:
        title += f" [dim]{escape(settings)}[/]"
    try:
        outcomes = build_tester(cell).run()
    except FsarBenchError as error:
        console.print(f"{SIGNS['broken']} {title} cannot be built: {escape(str(error))}", soft_wrap=True)
        return True
    count = Counter(outcome.state for outcome in outcomes)
    summary = f"{count['holds']} hold, {count['broken']} broken, {count['skipped']} do not apply"
    console.print(f"{SIGNS['broken' if count['broken'] else 'holds']} {title}: {summary}", soft_wrap=True)
    for outcome in outcomes:
        if whole or outcome.state == "broken":
            reason = f": {escape(outcome.reason)}" if outcome.reason else ""
            console.print(f"  {SIGNS[outcome.state]} {outcome.name}{reason}", soft_wrap=True)
    return count["broken"] > 0
