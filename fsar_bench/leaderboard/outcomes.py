"""Which queries rows have right: a bit in memory for each query and seed, and numbers for some episodes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    def first_rows(self, count: int | None) -> Outcomes:
        """The first rows alone; None: all of them."""
        return Outcomes(self.bits[:count], self.queries)

    def with_rows_of(self, other: Outcomes) -> Outcomes:
        """The rows of both, on the same episodes."""
        return Outcomes(self.bits + other.bits, self.queries)

    def of_episodes(self, kept: np.ndarray) -> Outcomes:
        """The same rows on the episodes of a mask, bool `[E]`."""
        return Outcomes(tuple(row[:, kept] for row in self.bits), self.queries)

    def accuracy(self) -> np.ndarray:
        """Mean over all queries, in percent, `[R]`."""
        rows, episodes, queries = self.shape
        correct = sum(self[:, part].sum((1, 2)) for part in blocks((rows, episodes, queries)))
        return 100 * np.asarray(correct) / (episodes * queries)


def blocks(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Episodes of R rows on E episodes of Q queries, so many at a time that they are at most `BLOCK` outcomes."""
    rows, episodes, queries = shape
    step = max(1, BLOCK // (rows * queries))
    for start in range(0, episodes, step):
        yield slice(start, min(start + step, episodes))
