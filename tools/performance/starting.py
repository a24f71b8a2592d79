"""What is not scoring: start-up, the cost of one more cell, planning a thousand cells, and several jobs or ranks at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from fsar_bench.config.settings import RunOptions

THOUSAND = ("methods=all", "shot=1,5", "way=2,5", "seed=0,1,2,3", "dataset=synthact")  # 976 cells of 61 methods
MAIN_JOB = ("methods=ma_clip,clip_fsar", "controls=false", "dataset=synthact")
THIRD = ("train.episodes=40",)  # of its training
SHORTEST = ("train.episodes=2", "train.val_interval=2", "episodes=200")  # decodes the clips
PARALLEL = {"jobs": 2, "devices": 2}  # keys that spread work, and the number that is compared with 1


@dataclass(frozen=True)
class Taken:
    """Seconds of a command, or why it was not measured."""

    title: str
    seconds: float | None = None
    reason: str = ""


class Commands:
    """Runs `fsar-bench` in a folder with a cache of its own."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        self.folder, self._device = folder, device
        self._environment = {**os.environ, "FSAR_BENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}

    def seconds(self, *arguments: str) -> float:
        """Seconds of a command.

        Raises:
            RuntimeError: it failed; with what it printed.
        """
        began = perf_counter()
        command = [sys.executable, "-m", "fsar_bench.cli.main", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr}{done.stdout}")
        return perf_counter() - began

    def run(self, out: str, *pairs: str) -> float:
        """Seconds of `fsar-bench run` with results and work in a folder."""
        return self.seconds("run", *pairs, f"out={out}", f"work_dir={out}/work", f"device={self._device}")


@contextmanager
def _commands(device: str, threads: int) -> Iterator[Commands]:
    with tempfile.TemporaryDirectory() as folder:
        yield Commands(Path(folder), device, threads)


def start_ups(device: str, threads: int, *, quick: bool) -> Iterator[Taken]:
    """Seconds of light commands, of a cell more, and of planning."""
    with _commands(device, threads) as commands:
        repeats = 1 if quick else 3
        for verb in ("--help", "list"):
            yield Taken(f"`fsar-bench {verb}`", min(commands.seconds(verb) for _ in range(repeats)))
        yield from _cells(commands, more=1 if quick else 4)
        pairs = THOUSAND[1:2] if quick else THOUSAND[1:]
        methods = "methods=prototype_frozen,otam_frozen" if quick else THOUSAND[0]
        count = "a few cells" if quick else "976 cells"
        dry = min(commands.run("plan", methods, *pairs, "--dry-run") for _ in range(repeats))
        yield Taken(f"{count} planned (`run {methods} … --dry-run`)", dry)
        arguments = methods, *pairs, "out=plan", "work_dir=plan/work"
        plan = min(commands.seconds("plan", *arguments) for _ in range(repeats))
        yield Taken(f"what {count} cost (`plan {methods} …`)", plan)


def _cells(commands: Commands, more: int) -> Iterator[Taken]:
    """Seconds that one more cell of 200 episodes takes, and one more that is finished; clips are encoded already."""
    tiny = ("methods=prototype_frozen", "controls=false", "episodes=200")
    seeds = "seed=" + ",".join(map(str, range(more + 1)))
    commands.run("warm", *tiny)
    one, several = commands.run("one", *tiny), commands.run("several", *tiny, seeds)
    yield Taken("a command with one cell of 200 episodes", one)
    yield Taken("one more cell", (several - one) / more)
    one, several = commands.run("one", *tiny), commands.run("several", *tiny, seeds)
    yield Taken("the same command again: the cell is finished", one)
    yield Taken("one more finished cell", (several - one) / more)


def spread(device: str, threads: int, *, quick: bool) -> Iterator[tuple[str, Taken, Taken]]:
    """Seconds of the main job with one and with two jobs or ranks, by the key that says so; clips are decoded already."""
    with _commands(device, threads) as commands:
        for number, (key, count) in enumerate(PARALLEL.items()):
            both = Taken(f"`{key}=1`"), Taken(f"`{key}={count}`")
            is_known = key in RunOptions.model_fields
            if quick or not is_known:
                reason = "a quick run leaves it out" if is_known else f"this version has no key {key}="
                yield key, *(Taken(one.title, reason=reason) for one in both)
                continue
            if not number:
                commands.run("warm", *MAIN_JOB, *SHORTEST)
            job = MAIN_JOB if key == "jobs" else ("methods=ma_clip", *MAIN_JOB[1:])
            times = [commands.run(f"{key}-{n}", *job, *THIRD, f"{key}={n}") for n in (1, count)]
            yield key, *(Taken(one.title, seconds) for one, seconds in zip(both, times, strict=True))
