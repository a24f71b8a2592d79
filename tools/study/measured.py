"""What the stored results of the study say: accuracies of places, and paired differences with their intervals."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import stdtr, stdtrit

from fsar_bench.config.cell import Cell
from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.ranking import Compared
from fsar_bench.leaderboard.ranks import LEVEL, holm
from fsar_bench.leaderboard.rows import group_seeds
from fsar_bench.results.store import RECORD, Stored, read
from tools.study.design import Design, Group, Place

CURVES = "curves"  # folder of the store: val accuracies of trainings, by their keys


@dataclass(frozen=True)
class Accuracy:
    """Of one place, in percent.

    Attributes:
        percent: the mean over trainings.
        width: half-width of its 95 % interval over clips and trainings; None where it is not known.
        trainings: how many there are.
        parameters: number of trained ones.
        episodes: of the training; None where there is none.
    """

    percent: float
    width: float | None
    trainings: int
    parameters: int
    episodes: int | None


@dataclass(frozen=True)
class Gap:
    """A difference of places, paired over clips, in points.

    Attributes:
        points: the difference.
        width: half-width of its 95 % interval over clips and trainings; None where it is not known.
        p: two-sided p-value of this difference alone.
    """

    points: float
    width: float | None
    p: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0."""
        if self.width is None or abs(self.points) <= self.width:
            return 0
        return 1 if self.points > 0 else -1

    def __str__(self) -> str:
        if self.width is None:
            return f"{self.points:+.1f} (no interval)"
        return f"{self.points:+.1f} ± {self.width:.1f}"


class Pool:
    """Results that share their episodes: those of one dataset and split, of all backbones.

    Args:
        stored: the results.
    """

    def __init__(self, stored: Sequence[Stored]) -> None:
        self._board = Board(group_seeds(list(stored)))
        self._number = {seed.result.config_hash: n for n, row in enumerate(self._board.rows) for seed in row.seeds}
        self._reader = self._board.reader

    @cached_property
    def _compared(self) -> Compared:
        return self._reader.compare(range(len(self._board)))

    @property
    def knows_trainings(self) -> bool:
        """Whether other trainings are in the intervals."""
        return not self._reader.trainings.are_unknown

    def number(self, cells: Iterable[Cell]) -> int | None:
        """Number of the row that holds some of these cells; None where none is stored."""
        return next((self._number[cell.hash] for cell in cells if cell.hash in self._number), None)

    def accuracy(self, number: int) -> Accuracy:
        """Of a row."""
        row, width = self._board.rows[number], float(self._compared.overall.half_widths("clips")[number])
        train = row.result.cell.identity.train if row.is_trained else None
        return Accuracy(
            percent=row.accuracy,
            width=None if math.isnan(width) else width,
            trainings=len(row.seeds) if row.is_trained else 0,
            parameters=row.result.parameters.trainable,
            episodes=train.episodes if train else None,
        )

    def gap(self, first: int, second: int) -> Gap:
        """Of a row minus another one."""
        points = self._board.rows[first].accuracy - self._board.rows[second].accuracy
        if first == second:
            return Gap(0.0, 0.0, 1.0)
        difference = self._compared.overall.difference(first, second)
        return Gap(points, difference.half_width(), difference.p_value(points))

    def gap_of_gaps(self, first: tuple[int, int], second: tuple[int, int]) -> Gap:
        """A difference minus another difference, by the covariances of all four rows.

        The degrees of freedom are the fewer of those of the two differences. Never less than over episodes.
        """
        numbers, signs = np.array([*first, *second]), np.array([1.0, -1.0, -1.0, 1.0])
        both = [self._compared.overall.clips, self._compared.overall.episodes]
        variance = max(float(signs @ covariance[np.ix_(numbers, numbers)] @ signs) for covariance in both)
        points = self.gap(*first).points - self.gap(*second).points
        if math.isnan(variance):
            return Gap(points, None, 1.0)
        error = math.sqrt(max(variance, 0.0))
        freedom = min(float(self._compared.overall.degrees_of_freedom[pair]) for pair in (first, second))
        p = 2 * float(stdtr(freedom, -abs(points) / error)) if error else 1.0
        return Gap(points, float(stdtrit(freedom, 0.975)) * error, p)


class Measured:
    """The stored results of a study.

    Args:
        design: the study.
        store: folder that holds `results/`, `plans/` and the curves.

    Raises:
        ResultError: a result is damaged.
    """

    def __init__(self, design: Design, store: Path) -> None:
        self.design, self._store = design, store
        self._stored = {
            cell.hash: stored for cell in design.cells() if (stored := _stored(cell, store / "results")) is not None
        }
        pools: dict[tuple[str, str], list[Stored]] = {}
        for stored in self._stored.values():
            pools.setdefault((stored.result.dataset, stored.result.protocol.split), []).append(stored)
        self._pools = {key: Pool(each) for key, each in pools.items()}

    def __len__(self) -> int:
        """Number of stored cells."""
        return len(self._stored)

    def progress(self, group: Group) -> tuple[int, int]:
        """How many cells of a group are stored, and how many there are."""
        cells = self.design.cells_of(group)
        return sum(cell.hash in self._stored for cell in cells), len(cells)

    @property
    def hours(self) -> float:
        """Spent on trainings, encoding and scoring, each training once."""
        trainings = {stored.result.training_key: stored.cost.seconds.train or 0.0 for stored in self._stored.values()}
        others = [(s.cost.seconds.encode or 0.0) + (s.cost.seconds.score or 0.0) for s in self._stored.values()]
        return (sum(trainings.values()) + sum(others)) / 3600

    @property
    def of_checkpoints(self) -> list[tuple[str, str]]:
        """Datasets and splits on which no row has several trainings: their intervals are over clips alone."""
        return [key for key, pool in self._pools.items() if not pool.knows_trainings]

    @property
    def digest(self) -> str:
        """Twelve digits that stand for all stored results."""
        told = sorted((key, stored.result.predictions) for key, stored in self._stored.items())
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    def any_cell(self, place: Place) -> Cell | None:
        """A stored cell of a place, as it was run; None where there is none."""
        cells = [
            self._stored[cell.hash].result.cell for cell in self.design.of_place(place) if cell.hash in self._stored
        ]
        return cells[0] if cells else None

    def accuracy(self, place: Place) -> Accuracy | None:
        """Of a place; None where nothing of it is stored."""
        row = self._find(place)
        return None if row is None else row[0].accuracy(row[1])

    def gap(self, first: Place, second: Place) -> Gap | None:
        """A place minus another one of the same dataset and split; None where one of them is not stored."""
        a, b = self._find(first), self._find(second)
        return None if a is None or b is None else a[0].gap(a[1], b[1])

    def gap_of_gaps(self, first: tuple[Place, Place], second: tuple[Place, Place]) -> Gap | None:
        """A difference of two places minus that of two others; None where one of them is not stored."""
        rows = [self._find(place) for place in (*first, *second)]
        if any(each is None for each in rows):
            return None
        (pool, a), (_, b), (_, c), (_, d) = (each for each in rows if each is not None)
        return pool.gap_of_gaps((a, b), (c, d))

    def curve(self, place: Place) -> list[tuple[int, float]]:
        """Val accuracies of the first training of a place: (training episodes, percent); empty where they are not stored."""
        cell = self.any_cell(place)
        key = None if cell is None else self._stored[cell.hash].result.training_key
        path = self._store / CURVES / f"{key}.csv"
        if key is None or not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [(int(line["episodes"]), float(line["val_accuracy"])) for line in csv.DictReader(file)]

    def _find(self, place: Place) -> tuple[Pool, int] | None:
        pool = self._pools.get((place.dataset, place.split))
        number = None if pool is None else pool.number(self.design.of_place(place))
        return None if pool is None or number is None else (pool, number)


def significant(gaps: Sequence[Gap]) -> list[bool]:
    """Which of some differences are significant at 5 %, corrected for their number (Holm)."""
    return [bool(p < LEVEL) for p in holm(np.array([gap.p for gap in gaps]))] if gaps else []


def _stored(cell: Cell, results: Path) -> Stored | None:
    folder = results / cell.folder
    if not (folder / RECORD).exists():
        return None
    stored = read(folder)
    return stored if stored.result.config_hash == cell.hash else None
