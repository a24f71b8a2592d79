"""Where classes, clips and recordings stand in the episodes of one plan, or of several that differ in their clips alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Protocol

import numpy as np


class Episodes(Protocol):
    """What is read of a plan."""

    @property
    def classes(self) -> np.ndarray:
        """Class numbers, `[E, N]`."""

    @property
    def support(self) -> np.ndarray:
        """Clip numbers, `[E, N, K]`."""

    @property
    def query(self) -> np.ndarray:
        """Clip numbers, `[E, N, q]`."""


@dataclass(frozen=True)
class ClassClips:
    """The n clips of one class that appear in any plan, and their units: recordings whose clips are not independent.

    Attributes:
        unit: number of each clip's unit among those of the class, `[n]`.
        shared: number of each unit among those that several classes have, -1 for a unit of this class alone, `[units]`.
        present: whether each plan has each clip, bool `[P, n]`.
    """

    unit: np.ndarray
    shared: np.ndarray
    present: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """Number of clips in each plan, n, `[P]`."""
        return np.asarray(self.present.sum(1))

    @property
    def per_unit(self) -> np.ndarray:
        """Number of clips of each unit in each plan, m, `[P, units]`."""
        return np.stack([np.bincount(self.unit, held, minlength=len(self.shared)) for held in self.present])

    @property
    def unit_count(self) -> np.ndarray:
        """Number of units in each plan, `[P]`."""
        return np.asarray((self.per_unit > 0).sum(1))


@dataclass(frozen=True)
class Places:
    """Where classes and clips stand in the E episodes of P plans; classes are numbered 0..C-1, the clips of a class 0..n-1.

    Attributes:
        order: places of each class, class after class, as numbers e N + n, int64 `[E N]`.
        start: where the places of each class begin in `order`, `[C + 1]`.
        clips: number of each clip among those of its class: supports, then queries, `[E, N, K + q]`, of each plan.
        of_class: clips of each class.
        shared_units: number of units that several classes have.
        shot: K.
    """

    order: np.ndarray
    start: np.ndarray
    clips: tuple[np.ndarray, ...]
    of_class: tuple[ClassClips, ...]
    shared_units: int
    shot: int

    @classmethod
    def of(cls, plans: Sequence[Episodes], units: np.ndarray | None = None) -> Places:
        """Number the classes, clips and units that appear.

        Args:
            plans: they hold the same classes at the same places. Each is looked at alone, and twice.
            units: number of the recording of each clip, by clip number; None: every clip is one of its own.

        Raises:
            ValueError: the plans hold other classes, or clips without a unit.
        """
        classes, shot = plans[0].classes, plans[0].support.shape[2]
        numbers = _distinct(classes)
        class_of = _place_in(numbers, classes)
        appear = [_appearing(class_of, classes, plan) for plan in plans]
        span = 1 + max(int(clips.max()) for _, clips in appear)
        if units is not None and span > len(units):
            raise ValueError("they hold clips whose recordings are not known")
        held = [of_class * span + clips for of_class, clips in appear]
        known = reduce(np.union1d, held)
        first = np.searchsorted(known, span * np.arange(len(numbers) + 1))
        small = np.uint16 if np.diff(first).max() <= np.iinfo(np.uint16).max + 1 else np.int32
        clips = tuple(
            (_place_in(known, _pairs(class_of, span, plan)) - first[class_of][..., None]).astype(small)
            for plan in plans
        )
        present = np.stack([np.isin(known, pairs, assume_unique=True) for pairs in held])
        unit_of = known % span if units is None else units[known % span]
        shared = _shared_units(unit_of, first) if units is not None else np.empty(0, np.int64)
        parts = [slice(*ends) for ends in pairwise(first.tolist())]
        of_class = tuple(_class_clips(unit_of[part], present[:, part], shared) for part in parts)
        is_small = len(numbers) <= np.iinfo(np.uint16).max  # numpy sorts small numbers in linear time
        order = np.argsort(class_of.ravel().astype(np.uint16 if is_small else np.int64), kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(class_of.ravel()))])
        return cls(order, start, clips, of_class, len(shared), shot)

    def __len__(self) -> int:
        """Number of classes, C."""
        return len(self.of_class)

    @property
    def per_class(self) -> int:
        """Places of a class in an episode, K + q."""
        return self.clips[0].shape[2]

    @property
    def most_clips(self) -> int:
        """Clips of the class that has the most."""
        return max(len(clips.unit) for clips in self.of_class)

    @property
    def clip_count(self) -> int:
        """Number of clips."""
        return sum(len(clips.unit) for clips in self.of_class)

    @property
    def unit_count(self) -> int:
        """Number of units, those that several classes have counted once."""
        return self.shared_units + sum(int((clips.shared < 0).sum()) for clips in self.of_class)

    def units_of_plan(self, number: int) -> int:
        """Number of units in a plan; those that several classes have are counted in each."""
        return sum(int(clips.unit_count[number]) for clips in self.of_class)

    @property
    def fewest_units(self) -> int:
        """Units of the class that has the fewest, in the plan where these are fewest."""
        return min(int(clips.unit_count.min()) for clips in self.of_class)

    @property
    def fewest_clips(self) -> int:
        """Clips of the class that has the fewest, in the plan where these are fewest."""
        return min(int(clips.count.min()) for clips in self.of_class)

    def where(self, number: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Episodes of a part of the plans that hold a class, and its place in each."""
        held, way = self.order[self.start[number] : self.start[number + 1]], self.clips[0].shape[1]
        first, last = np.searchsorted(held, [part.start * way, part.stop * way])
        return np.divmod(held[first:last], way)


def _appearing(class_of: np.ndarray, classes: np.ndarray, plan: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Class and number of each clip that appears in a plan, by class and number.

    Raises:
        ValueError: the plan holds other classes.
    """
    if not np.array_equal(classes, plan.classes):
        raise ValueError("they hold other classes")
    span = 1 + int(max(plan.support.max(), plan.query.max()))
    of_class, clips = np.divmod(_distinct(_pairs(class_of, span, plan)), span)
    return of_class, clips


def _pairs(class_of: np.ndarray, span: int, plan: Episodes) -> np.ndarray:
    """One number for class and clip of each place, `[E, N, K + q]`."""
    return class_of[..., None] * np.int64(span) + np.concatenate([plan.support, plan.query], axis=2)


def _class_clips(unit_of: np.ndarray, present: np.ndarray, shared: np.ndarray) -> ClassClips:
    """Clips of a class, by their units' numbers over all classes."""
    units, unit = np.unique(unit_of, return_inverse=True)
    place = np.searchsorted(shared, units)
    is_shared = np.isin(units, shared, assume_unique=True)
    return ClassClips(unit, np.where(is_shared, place, -1), present)


def _shared_units(unit_of: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Sorted numbers of the units of which several classes have clips; clips are sorted by class, which begin at `first`."""
    class_of = np.repeat(np.arange(len(first) - 1), np.diff(first))
    pairs = np.unique(np.stack([unit_of, class_of]), axis=1)
    units, count = np.unique(pairs[0], return_counts=True)
    return np.asarray(units[count > 1])


def _distinct(values: np.ndarray) -> np.ndarray:
    """`np.unique`, without sorting where the values are small."""
    size = int(values.max()) + 1
    if size > 8 * values.size + 2**20:
        return np.unique(values)
    is_there = np.zeros(size, bool)
    is_there[values] = True
    return np.flatnonzero(is_there)


def _place_in(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place of each value among sorted ones that have all of them; by a table where they are small."""
    size = int(known[-1]) + 1
    if size > 8 * values.size + 2**20:
        return np.searchsorted(known, values)
    table = np.zeros(size, np.int64)
    table[known] = np.arange(len(known))
    return table[values]
