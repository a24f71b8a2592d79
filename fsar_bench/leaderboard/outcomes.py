"""What rows make of the queries: a bit or a byte in memory for each query and seed, and numbers for some episodes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fsar_bench.leaderboard.rows import Row

BLOCK = 2**24  # outcomes that are unpacked at a time, 128 MiB as float64


@dataclass(frozen=True)
class Outcomes:
    """Which queries R rows have right, in E episodes of Q queries.

    Attributes:
        bits: of each row, whether each query was right in each of its S seeds, uint8 `[S, E, ceil(Q / 8)]`, eight queries a
            byte.
        queries: Q.
    """

    bits: tuple[np.ndarray, ...]
    queries: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Outcomes:
        """Read the predictions of rows, one seed after the other.

        Raises:
            ResultError: predictions are missing or damaged.
        """
        bits = [np.stack([np.packbits(seed.right(), axis=1) for seed in row.seeds]) for row in rows]
        return cls(tuple(bits), len(rows[0].result.labels))

    @property
    def shape(self) -> tuple[int, int, int]:
        """R, E and Q, as of an array."""
        return len(self.bits), self.bits[0].shape[1], self.queries

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Share of seeds in which each query was right, float64 `[rows, episodes, Q]`, of some rows and episodes."""
        rows, episodes = key
        parts = [row[:, episodes] for row in self.bits[rows]]
        out = np.empty((len(parts), parts[0].shape[1], self.queries))
        for place, part in enumerate(parts):
            unpacked = np.unpackbits(part, axis=2, count=self.queries)
            out[place] = unpacked[0] if len(unpacked) == 1 else unpacked.mean(0)
        return out

    def first_row(self) -> Outcomes:
        """The first row alone."""
        return Outcomes(self.bits[:1], self.queries)

    def with_rows_of(self, other: Outcomes) -> Outcomes:
        """The rows of both, on the same episodes."""
        return Outcomes(self.bits + other.bits, self.queries)


@dataclass(frozen=True)
class PairOutcomes:
    """How far the outcomes of queries against their time-reversed class deviate from the pair accuracy of their row.

    Attributes:
        wins: of each row, twice the number of its seeds in which the true class scores above its reverse, a tie being half,
            uint16 `[E, Q]`.
        counts: whether the reversed class of each query is in its episode, bool `[E, Q]`, of each row.
        seeds: S of each row.
    """

    wins: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> PairOutcomes:
        """Read the outcomes of rows that have a pair accuracy, one seed after the other.

        Raises:
            ResultError: predictions are missing or damaged.
        """
        wins, counts = [], []
        for row in rows:
            of_row, counted = _wins_and_counts(row.seeds[0].pairs())
            for seed in row.seeds[1:]:
                of_row += _wins_and_counts(seed.pairs())[0]
            wins.append(of_row)
            counts.append(counted)
        return cls(tuple(wins), tuple(counts), tuple(len(row.seeds) for row in rows))

    @property
    def shape(self) -> tuple[int, int, int]:
        """R, E and Q, as of an array."""
        return len(self.wins), *self.wins[0].shape

    @property
    def counted(self) -> np.ndarray:
        """Share of the queries that count, `[R]`."""
        return np.array([of_row.mean() for of_row in self.counts])

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """1 where the true class scores higher, 1/2 where both are equal, minus the pair accuracy: `[rows, episodes, Q]`.

        0 for queries that do not count; the mean over seeds.
        """
        rows, episodes = key
        return np.stack(
            [
                np.where(counts[episodes], wins[episodes] / (2 * seeds) - wins.sum() / (2 * seeds * counts.sum()), 0.0)
                for wins, counts, seeds in zip(self.wins[rows], self.counts[rows], self.seeds[rows], strict=True)
            ]
        )


def _wins_and_counts(outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one seed, from outcomes as of `results.metrics.pair_outcomes`."""
    counts = outcome != 255
    return np.where(outcome == 2, 1, 2 * (outcome == 1)).astype(np.uint16), counts


Source: TypeAlias = np.ndarray | Outcomes | PairOutcomes


def blocks(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Episodes of R rows on E episodes of Q queries, so many at a time that they are at most `BLOCK` outcomes."""
    rows, episodes, queries = shape
    step = max(1, BLOCK // (rows * queries))
    for start in range(0, episodes, step):
        yield slice(start, min(start + step, episodes))
