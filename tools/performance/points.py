"""One point of a growth curve, each in a process of its own: the seconds of its stages, and the peak memory that it adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import torch

from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.device import MemoryMeter
from fsar_bench.engine.run import CellRun
from fsar_bench.engine.scoring import score_plan
from fsar_bench.leaderboard.files import read_boards, write_tables
from tools.performance.floors import Sizes
from tools.performance.heads import Scene, built
from tools.performance.machine import synchronise


@dataclass
class Point:
    """What a point took.

    Attributes:
        seconds: of each stage, in their order.
        peaks: bytes by which the peak of the process was above what it had before the point, at the end of each stage; on the
            GPU where the work is there.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def memory(self) -> int:
        """Bytes that the point added at most."""
        return max(self.peaks.values(), default=0)


def whole_path(method: str, episodes: int, folder: str, device: str, *, threads: int) -> Point:
    """A cell on the built-in data through all stages, its tables included; the clips are encoded already.

    Args:
        method: name of one that is not trained.
        episodes: of the plan.
        folder: of results and work; a run before this has filled the cache.
        device: where the method runs.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    out = Path(folder, f"{method}-{episodes}")
    run = resolve(
        {
            "methods": method,
            "episodes": episodes,
            "controls": False,
            "device": device,
            "out": out,
            "work_dir": out / "work",
        }
    )
    clock = _Clock(torch.device(device))
    with CellRun.open(run.cells[0], run.options) as cell:
        with clock.stage("drawing"):
            plan = cell.test.plan
        with clock.stage("reading clips"):
            cell.check_clips()
            bank = cell.encode()
        with clock.stage("scoring"):
            scores = cell.score(bank)
        with clock.stage("writing"):
            cell.store(bank, scores)
        del plan, bank, scores
        with clock.stage("statistics"):
            write_tables(run.options.out, read_boards(run.options.out))
    return clock.point


def from_bank(
    head: str, sizes: Sizes, episodes: int, device: str, *, threads: int, classes: int = 24, clips: int = 100
) -> Point:
    """A head on a bank of random features: drawing, and scoring with what is computed once a video."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    method, clock = built(head, sizes, where), _Clock(where)
    scene = Scene.of(sizes, 1, where, classes=classes, clips=clips)
    bank = scene.bank(method)
    with clock.stage("drawing"):
        plan = scene.drawn(episodes)
    with clock.stage("scoring"):
        batch = RunOptions.model_fields["score_batch"].default
        score_plan(method, bank, plan, scene.text, batch=batch)
    return clock.point


def in_a_process(function: Callable[..., Point], *arguments: object, **settings: object) -> Point:
    """A point from a fresh process; what it imports is loaded in the process that it is forked from."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # its processes may have children, which decode clips
        return pool.submit(function, *arguments, **settings).result()


class _Clock:
    """Measures stages and the memory of this process, from now on."""

    def __init__(self, device: torch.device) -> None:
        self.point, self._device, self._memory = Point(), device, MemoryMeter(device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens meanwhile."""
        began = perf_counter()
        yield
        synchronise(self._device)
        self.point.seconds[name] = perf_counter() - began
        self.point.peaks[name] = self._memory.added
