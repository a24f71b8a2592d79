"""`fsar-bench profile`: where the time of a method goes, as a table and as a trace; and a machine profile for `plan`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fsar_bench.cli.plan import amount
from fsar_bench.config.cell import Cell
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.machine import MachineProfile
from fsar_bench.errors import ConfigError
from fsar_bench.io import check_writable
from fsar_bench.texts.console import PlainConsole

if TYPE_CHECKING:
    from fsar_bench.engine.profiling import MethodTimes, Step

TRACE = "{}_trace.json"  # in the current folder


def profile_command(method: str, pairs: list[str], trace: Path | None, machine: Path | None) -> int:
    """Measure a method and print what it takes; returns the exit code."""
    run = resolve([f"methods={method}", *pairs, *([] if _has(pairs, "controls") else ["controls=false"])])
    if len(run.cells) != 1:
        raise ConfigError(
            f"profile measures one cell, and these settings make {len(run.cells)}: name one method and one value of each key."
        )
    (cell,) = run.cells
    path = trace or Path(TRACE.format(cell.name))
    check_writable(path.parent, "--trace")
    if machine is not None:
        check_writable(machine.parent, "--machine")
        if machine.exists():
            MachineProfile.read(machine)  # a damaged one is told before anything is measured
    console = PlainConsole(file=sys.stdout)
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "5"
    )  # read when torch is imported: its profiler prints what concerns nobody
    with PlainConsole(stderr=True).status("measuring"), _quiet():
        from fsar_bench.engine.preflight import preflight
        from fsar_bench.engine.profiling import measure_method

        options = run.options.model_copy(update={"overwrite": True})  # a finished cell is measured too
        preflight(run.cells, options, isolate=False, reads=False)
        times = measure_method(cell, run.options, path)
    show_times(cell, times, console)
    console.print(f"trace: {path} (for chrome://tracing or ui.perfetto.dev)", soft_wrap=True, highlight=False)
    if machine is not None:
        MachineProfile.add(machine, times.device, times.for_machine(cell))
        console.print(f"machine profile: {machine}", soft_wrap=True, highlight=False)
    return 0


def _has(pairs: list[str], key: str) -> bool:
    return any(pair.startswith(f"{key}=") for pair in pairs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what libraries say of random weights and of profiling."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def show_times(cell: Cell, times: MethodTimes, console: PlainConsole) -> None:
    """Print the tables of what a method takes."""
    p = cell.protocol
    console.print(
        f"{cell.label.row}, {cell.identity.backbone['name']}, {p.way}-way {p.shot}-shot, {p.frames} frames; {times.device}",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("per")
    for what, milliseconds, per in _rows(times):
        table.add_row(*map(Text, (what, _digits(milliseconds), per)))
    console.print(table)
    console.print(_memory(times), soft_wrap=True, highlight=False)
    console.print(_operators(times))


def _rows(times: MethodTimes) -> list[tuple[str, float, str]]:
    roles = " (each is encoded twice: as a query and as a support)" if times.roles > 1 else ""
    rows = [
        ("encode", times.encode, f"clip{roles}"),
        ("index, once before scoring", times.index, "clip"),
        ("score, batched", times.batched, "episode"),
        ("score, one by one", times.single, "episode"),
    ]
    return [*rows, *_step(times.step)] if times.step else rows


def _step(step: Step) -> list[tuple[str, float, str]]:
    return [
        ("training step", step.whole, f"episode of {step.clips} clips"),
        ("  forward", step.forward, "episode"),
        ("  backward", step.backward, "episode"),
        ("  optimiser", step.optimizer, "update"),
        ("wait for frames", step.wait, "episode"),
    ]


def _memory(times: MethodTimes) -> str:
    parts = [
        f"memory: {amount(times.process)} with the method loaded",
        f"encoding and scoring add {amount(times.scoring)}",
        *([f"training adds {amount(times.step.memory)}"] if times.step else []),
        f"an encoded clip {amount(times.stored)}, indexed {amount(times.indexed)}",
    ]
    return "; ".join(parts)


def _operators(times: MethodTimes) -> Table:
    """The most expensive operators of encoding some clips, scoring some episodes and a training step."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for heading in ("calls", "ms", "share"):
        table.add_column(heading, justify="right")
    for one in times.operators:
        share = f"{100 * one.milliseconds / times.operators_total:.0f} %"
        table.add_row(*map(Text, (one.name, str(one.calls), _digits(one.milliseconds), share)))
    return table


def _digits(milliseconds: float) -> str:
    digits = 0 if milliseconds >= 100 else 2 if milliseconds >= 1 else 4
    return f"{milliseconds:,.{digits}f}"
