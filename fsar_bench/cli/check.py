"""`fsar-bench check`: the contract of methods, tested on tiny random input."""

from __future__ import annotations

import logging
import warnings

from rich.console import Console
from rich.markup import escape

from fsar_bench.config import names, resolve
from fsar_bench.errors import ConfigError, FsarBenchError, suggest

FRAMES = 4
SIGNS = {"holds": "[green]✓[/]", "broken": "[red]✗[/]", "skipped": "[dim]–[/]"}


def build_tester(name: str, pairs: list[str]):
    """A MethodTester of a method by name or path, with settings.

    Raises:
        ConfigError: unknown method or settings, or a backbone that the method cannot use.
    """
    from fsar_bench.cell import build_method
    from fsar_bench.testing import MethodTester

    settings = [f"methods={name}", "controls=false", *pairs]
    if not any(pair.startswith("backbone=") for pair in settings):
        settings.append("backbone=tiny_clip")
    if not any(pair.startswith("frames=") for pair in settings):
        settings.append(f"frames={FRAMES}")
    (cell,) = resolve(settings).cells
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
    logging.disable(logging.WARNING)  # open_clip says that random weights are random
    warnings.simplefilter("ignore")
    console = Console()
    failed = 0
    for name in [known for given in methods for known in (names("methods") if given == "all" else [given])]:
        try:
            outcomes = build_tester(name, pairs).run()
        except FsarBenchError as error:
            failed += 1
            console.print(f"{SIGNS['broken']} [bold]{escape(name)}[/] cannot be built: {escape(str(error))}")
            continue
        broken = [outcome for outcome in outcomes if outcome.state == "broken"]
        skipped = [outcome for outcome in outcomes if outcome.state == "skipped"]
        failed += bool(broken)
        held = len(outcomes) - len(broken) - len(skipped)
        counts = f"{held} hold, {len(broken)} broken, {len(skipped)} do not apply"
        console.print(f"{SIGNS['broken' if broken else 'holds']} [bold]{escape(name)}[/]: {counts}")
        shown = outcomes if len(methods) == 1 and methods != ["all"] else broken
        for outcome in shown:
            reason = f": {escape(outcome.reason)}" if outcome.reason else ""
            console.print(f"  {SIGNS[outcome.state]} {outcome.name}{reason}", soft_wrap=True)
    return 1 if failed else 0
