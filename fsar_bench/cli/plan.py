"""`fsar-bench plan`: what a study costs before it starts, from a machine profile or from stored results. Writes nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fsar_bench.config.resolve import Run, resolve
from fsar_bench.engine.machine import MachineProfile
from fsar_bench.engine.preflight import preflight
from fsar_bench.engine.study import MethodCost, Study, study_of
from fsar_bench.progress.estimate import PASSES, Kind
from fsar_bench.progress.words import about
from fsar_bench.texts.characters import counted
from fsar_bench.texts.console import PlainConsole

UNKNOWN = "–"
KINDS: dict[Kind, str] = {"train": "training", "encode": "encoding", "score": "scoring"}
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
WIDE = 160  # characters of a line that no terminal folds


def plan_command(pairs: list[str], machine: Path | None) -> int:
    """Print what the cells cost; returns the exit code (1 if some of them cannot be run)."""
    asked = resolve(pairs)
    for note in asked.notes:
        print(f"note: {note}", file=sys.stderr)
    profile = MachineProfile.read(machine) if machine else None
    found = preflight(asked.cells, asked.options, isolate=True, builds="none", reads=False)
    for error in found.errors:
        print(f"error: {error}", file=sys.stderr)
    run = replace(asked, cells=found.sound)
    study = study_of(run.cells, run.options, (profile, profile.known(machine)) if profile and machine else None)
    console = PlainConsole(file=sys.stdout)
    if not console.is_terminal:  # a file or another program reads it
        console = PlainConsole(file=sys.stdout, width=max(WIDE, console.width))
    console.print(_methods(study))
    for line in _totals(run, study):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 1 if found.errors else 0


def _methods(study: Study) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column("method", overflow="fold")
    for heading in ("cells", "finished", "trainings", *KINDS.values(), "disk", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in study.methods:
        times = [_time(row, kind) for kind in KINDS]
        sizes = list(row.disk.values())
        disk = UNKNOWN if None in sizes else amount(sum(size or 0 for size in sizes))
        memory = UNKNOWN if row.memory is None else amount(row.memory)
        table.add_row(
            *map(Text, (row.title, str(row.cells), str(row.finished), str(row.trainings), *times, disk, memory))
        )
    return table


def _time(row: MethodCost, kind: Kind) -> str:
    if kind not in row.seconds:
        return ""
    seconds = row.seconds[kind]
    return UNKNOWN if seconds is None else about(seconds)


def _totals(run: Run, study: Study) -> list[str]:
    cells, finished = len(run.cells), sum(row.finished for row in study.methods)
    trainings = sum(row.trainings for row in study.methods)
    lines = [f"{counted(cells, 'cell', 'cells')} ({finished} finished), {counted(trainings, 'training', 'trainings')}"]
    if finished == cells:
        return [*lines, "nothing to do"]
    jobs = counted(study.jobs, "job", "jobs")
    if study.seconds is None or study.wall is None:
        lines.append(f"time: not known. {_advice(study)}")
    else:
        lines.append(f"time: {hours(study.seconds)} of a device, {about(study.wall)} with {jobs} at a time")
    parts = [f"{what} {UNKNOWN if size is None else amount(size)}" for what, size in study.disk.items()]
    whole = sum(size or 0 for size in study.disk.values())
    least = "at least " if None in study.disk.values() else "at most "
    lines.append(f"disk: {least}{amount(whole)} ({', '.join(parts)})")
    if study.memory is not None:
        lines.append(f"memory: {amount(study.memory)} for the largest cell, times {jobs}")
    return [*lines, *_sources(study)]


def _sources(study: Study) -> list[str]:
    """What was measured, what is estimated, and from what."""
    if not study.source:
        return []
    lines = [f"from: {study.source}"]
    for kind, what in KINDS.items():
        by_source: dict[str | None, list[str]] = {}
        for row in study.methods:
            if kind in row.sources:
                by_source.setdefault(row.sources[kind], []).append(row.title)
        texts = {
            "method": "measured for {}",
            "backbone": "estimated from other methods of the backbone for {}",
            "other pass": f"estimated for {{}}: a pass of training as {PASSES:g} forward passes",
            None: "not known for {}",
        }
        told = [text.format(_some(by_source[source])) for source, text in texts.items() if source in by_source]
        lines += [f"  {what}: {'; '.join(told)}"] if told else []
    measured = [row.title for row in study.methods if row.is_measured]
    known = [
        row.title
        for row in study.methods
        if row.memory is not None and row.finished < row.cells and not row.is_measured
    ]
    told = [f"measured for {_some(measured)}"] if measured else []
    told += [f"estimated for {_some(known)}"] if known else []
    lines += [f"  memory: {'; '.join(told)}"] if told else []
    return [*lines, "  disk: estimated from the sizes of episodes, clips and parameters, before anything is packed"]


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} methods"


def _advice(study: Study) -> str:
    if not study.source:
        return "No result with these backbones is stored in out=: measure them with fsar-bench profile METHOD --machine FILE."
    missing = [row.title for row in study.methods if None in row.seconds.values()]
    return f"Nothing is known of {_some(missing)}: measure with fsar-bench profile METHOD --machine FILE."


def amount(size: float) -> str:
    """Bytes in words: 12 kB, 3.4 GB."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} B"


def hours(seconds: float) -> str:
    """Hours, or less in words."""
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else about(seconds)
