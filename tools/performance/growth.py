"""How seconds and memory grow with episodes, clips, ways, shots and frames, and the exponents of their growth."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tools.performance.floors import Sizes
from tools.performance.points import Point, from_bank, in_a_process, whole_path

WHOLE = {  # frozen methods through the whole path, and their numbers of episodes
    "prototype_frozen": (1_000, 10_000, 100_000, 1_000_000),
    "otam_frozen": (1_000, 10_000, 100_000),
}
AXES: dict[str, tuple[int, ...]] = {
    "clips": (2_400, 9_600, 38_400),
    "ways": (5, 10, 20),
    "shots": (1, 2, 4, 8),
    "frames": (4, 8, 16, 32),
}
OF_AXES = ("prototype", "otam", "hyrsm", "trx, pairs")
EPISODES = 1_000  # of a point of an axis


@dataclass(frozen=True)
class Curve:
    """Points of one growth.

    Attributes:
        title: what grows, of what.
        axis: what it grows with.
        points: by the size on the axis.
    """

    title: str
    axis: str
    points: dict[int, Point]

    def exponent(self, value: Callable[[Point], float]) -> float:
        """Slope of the logarithms over the larger half of the sizes: 1 is linear. NaN where there is nothing to fit."""
        return slope({size: value(point) for size, point in self.points.items()})


def slope(values: dict[int, float]) -> float:
    """Slope of log(value) over log(size), by least squares over the larger half of the sizes, at least two.

    Fixed costs hide the growth of what is small.
    """
    sizes = sorted(values)
    kept = [size for size in sizes[len(sizes) // 2 if len(sizes) > 3 else 0 :] if values[size] > 0]
    if len(kept) < 2:
        return math.nan
    x, y = np.log(kept), np.log([values[size] for size in kept])
    return float(np.polyfit(x, y, 1)[0])


def curves(device: str, threads: int, *, quick: bool) -> Iterator[Curve]:
    """All growths, each point in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for method, sizes in WHOLE.items():
            in_a_process(whole_path, method, 100, folder, device, threads=threads)  # fills the cache
            chosen = (100, 400) if quick else sizes
            points = {size: in_a_process(whole_path, method, size, folder, device, threads=threads) for size in chosen}
            yield Curve(method, "episodes", points)
    for axis, sizes in AXES.items():
        for head in OF_AXES[:2] if quick else OF_AXES:
            yield Curve(
                head, axis, dict(_points(head, axis, sizes[:2] if quick else sizes, device, threads, quick=quick))
            )


def _points(
    head: str, axis: str, sizes: Iterable[int], device: str, threads: int, *, quick: bool
) -> Iterator[tuple[int, Point]]:
    episodes = 50 if quick else EPISODES
    for size in sizes:
        shape = Sizes(
            way=size if axis == "ways" else 5,
            shot=size if axis == "shots" else 1,
            frames=size if axis == "frames" else 8,
            width=128,
        )
        clips = size // 24 if axis == "clips" else 20
        yield size, in_a_process(from_bank, head, shape, episodes, device, threads=threads, clips=clips)
