"""Signals at random moments of a run, to the command, its cell, a decode process or all; then the same command to its end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from campaign import ground

KINDS = (
    "KILL main", "KILL cell", "KILL decoder", "KILL group", "KILL server", "TERM main", "TERM group", "INT main", "INT group",
    "HUP main", "STOP cell, KILL main", "STOP decoder, KILL main", "STOP server, KILL main", "KILL decoder, KILL cell",
)  # fmt: skip
PATIENCE = 15.0  # seconds after which nothing of a run that was struck may live


@dataclass
class Undisturbed:
    """A run that nothing disturbs.

    Attributes:
        repeats: the bytes that it gives.
        files: the names of its files.
        seconds: how long it took.
    """

    repeats: dict[str, bytes]
    files: set[str]
    seconds: float


def undisturbed(base: Path, dataset: Path, cell: str) -> Undisturbed:
    """Run a cell to its end.

    Raises:
        RuntimeError: it fails.
    """
    began = time.monotonic()
    if ground.run(base, ground.pairs(dataset, cell)):
        raise RuntimeError(f"The undisturbed run of {cell} failed: {ground.last_words(base)}")
    return Undisturbed(ground.repeats(base), ground.files(base), time.monotonic() - began)


def strike(process: subprocess.Popen[bytes], kind: str) -> int:
    """Send the signals of a kind, such as "STOP cell, KILL main"; returns how many were sent."""
    sent = 0
    for part in kind.split(", "):
        name, target = part.split()
        for number in _targets(process.pid)[target]:
            try:
                os.kill(number, getattr(signal, f"SIG{name}"))
                sent += 1
            except ProcessLookupError:
                continue
    return sent


def _targets(main: int) -> dict[str, list[int]]:
    """The processes of a run by what they do; servers are those from which cells and decode processes are forked."""
    tree = {number: row for number, row in ground.processes(main).items() if "resource_tracker" not in row[1]}
    servers = {
        n
        for n, (parent, command) in tree.items()
        if "forkserver" in command and "forkserver" not in _command(tree, parent)
    }

    def below(numbers: set[int]) -> set[int]:
        children = {number for number, (parent, _) in tree.items() if parent in numbers}
        return (children - servers) | (below(children & servers) if children & servers else set())

    cells = below({main})
    decoders = sorted(below(cells)) if cells else []
    return {
        "main": [main], "cell": sorted(cells), "decoder": decoders[:1], "server": sorted(servers)[:1], "group": sorted(tree),
    }  # fmt: skip


def _command(tree: dict[int, tuple[int, str]], number: int) -> str:
    return tree[number][1] if number in tree else ""


def trial(
    base: Path, dataset: Path, cell: str, truth: Undisturbed, rng: random.Random, counts: ground.Counts, least: int = 1
) -> None:
    """Strike a run `least` to `least` + 2 times, each time starting it again; then let it end, and compare.

    Args:
        base: folder of the trial, which is deleted where nothing is wrong.
        dataset: config of the dataset.
        cell: name of the cell in `ground.CELLS`.
        truth: the same cell, undisturbed.
        rng: chooses signals, targets and moments.
        counts: is told what was done, and what is wrong.
        least: strikes.
    """
    told = []
    for _ in range(least + rng.randrange(3)):
        kind, at = rng.choice(KINDS), rng.uniform(0.1, 1.0) * truth.seconds
        process = ground.start(base, ground.pairs(dataset, cell))
        ground.until(lambda p=process: p.poll() is not None, at)
        sent = strike(process, kind)
        told.append(f"{kind} at {at:.1f} s")
        counts.add("signals", sent)
        counts.add("kills", sent > 0)
        if not ground.until(lambda p=process: p.poll() is not None, 120):
            counts.fault(f"{cell} after {'; '.join(told)}: the command hangs")
        if not ground.until(lambda p=process: not ground.processes(p.pid), PATIENCE):
            counts.fault(f"{cell} after {'; '.join(told)}: these live on: {[*ground.end_all(process)]}")
        process.wait()
    counts.add("trials of kills")
    code = ground.run(base, ground.pairs(dataset, cell))
    verdict(base, f"{cell} after {'; '.join(told)}", code, truth, counts)


def verdict(
    base: Path, what: str, code: int, truth: Undisturbed, counts: ground.Counts, *, is_kept: bool = False
) -> None:
    """Compare a run that has ended with an undisturbed one; delete its folder where nothing is wrong, unless it is kept."""
    before = len(counts.faults)
    if code:
        counts.fault(f"{what}: exit code {code}: {ground.last_words(base)}")
    elif changed := ground.differences(base, truth.repeats):
        counts.fault(f"{what}: other bytes: {changed}")
    if left := ground.leftovers(base, truth.files):
        counts.fault(f"{what}: left behind: {left}")
    if words := [word for word in ground.UNFORESEEN[:3] if word in ground.said(base)]:
        counts.fault(f"{what}: {words[0]} in its output: {base / 'log'}")
    if len(counts.faults) == before and not is_kept:
        shutil.rmtree(base)


def together(base: Path, dataset: Path, cell: str, truth: Undisturbed, number: int, counts: ground.Counts) -> None:
    """Start the same command several times at once: one result; every command ends well, or in one clear error."""
    runs = [ground.start(base, ground.pairs(dataset, cell)) for _ in range(number)]
    codes = [process.wait(600) for process in runs]
    counts.add("runs at once", number)
    what = f"{number} runs of {cell} at once"
    if 0 not in codes or not {*codes} <= {0, 1}:
        counts.fault(f"{what}: exit codes {codes}: {ground.last_words(base)}")
    for process in runs:
        if not ground.until(lambda p=process: not ground.processes(p.pid), PATIENCE):
            counts.fault(f"{what}: these live on: {[*ground.end_all(process)]}")
    verdict(base, what, 0, truth, counts)
