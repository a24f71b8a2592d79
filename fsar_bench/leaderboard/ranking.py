"""Statistics of the rows of a board: intervals, paired tests of all pairs, and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fsar_bench.config.settings import Frozen
from fsar_bench.leaderboard.intervals import adjusted, class_interval, seed_interval, tie_ranks
from fsar_bench.leaderboard.jackknife import FEW_EPISODES, Uncertainty, jackknife_over_clips, unpaired
from fsar_bench.leaderboard.rows import Row
from fsar_bench.plan import EpisodePlan

DIGITS = 4  # of accuracies and intervals; further digits depend on the machine


class RowStatistics(Frozen):
    """Rank, accuracy and intervals of one row. Half-widths are those of 95 % intervals in percent; None: not known.

    Attributes:
        rank: rows not significantly different from the best share rank 1, and so on; see `intervals.tie_ranks`.
        accuracy: percent.
        episodes: half-width over episodes.
        clips: half-width over clips.
        classes: half-width over classes.
        seeds: half-width over training seeds.
        classwise: accuracy in percent by class number; None for a class that is in no episode.
    """

    rank: int
    accuracy: float
    episodes: float | None
    clips: float | None
    classes: float | None
    seeds: float | None
    classwise: tuple[float | None, ...]


class BoardStatistics(Frozen):
    """Statistics of all rows of a board.

    Attributes:
        rows: in the board's order.
        p: p-values of all pairs of rows over clips, adjusted for their number (Holm), `[R, R]`.
        fewest_clips: number of clips of the class of which the fewest appear.
    """

    rows: tuple[RowStatistics, ...]
    p: tuple[tuple[float, ...], ...]
    fewest_clips: int


@dataclass(frozen=True)
class _Episodes:
    """Rows that share their episodes clip by clip.

    Attributes:
        plan: the episodes.
        members: numbers of the rows.
        uncertainty: of these rows, in the order of `members`.
    """

    plan: EpisodePlan
    members: list[int]
    uncertainty: Uncertainty


def rank_rows(rows: list[Row], plans: list[EpisodePlan]) -> BoardStatistics:
    """Compare all pairs of rows and rank them.

    Args:
        rows: in the board's order.
        plans: the episodes of each row as they were on its machine; rows of one realised plan share one object.

    Raises:
        ResultError: predictions are missing or damaged.
    """
    right = np.stack([row.right() for row in rows])
    accuracy = np.array([row.accuracy for row in rows])
    groups = _by_episodes(rows, plans, right)
    p = adjusted(_p_values(groups, right, accuracy))
    ranks = tie_ranks(accuracy, p)
    statistics: dict[int, RowStatistics] = {}
    for group in groups:
        widths = {source: _half_widths(group, source) for source in ("episodes", "clips")}
        for place, number in enumerate(group.members):
            statistics[number] = RowStatistics(
                rank=int(ranks[number]),
                accuracy=round(float(accuracy[number]), DIGITS),
                episodes=_rounded(widths["episodes"][place]),
                clips=_rounded(widths["clips"][place]),
                classes=_rounded(class_interval(right[number], group.plan.classes)),
                seeds=_rounded(seed_interval(np.array([s.result.metrics.accuracy for s in rows[number].seeds]))),
                classwise=_classwise(right[number], group.plan, rows[number].result.data.classes),
            )
    return BoardStatistics(
        rows=tuple(statistics[number] for number in range(len(rows))),
        p=tuple(tuple(float(f"{value:.4g}") for value in line) for line in p),
        fewest_clips=min(_fewest_clips(group.plan) for group in groups),
    )


def _by_episodes(rows: list[Row], plans: list[EpisodePlan], right: np.ndarray) -> list[_Episodes]:
    """The rows of each realised plan, with their uncertainty."""
    members: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(row.realised, []).append(number)
    groups = []
    for numbers in members.values():
        plan = plans[numbers[0]]
        uncertainty = jackknife_over_clips(right[numbers], classes=plan.classes, support=plan.support, query=plan.query)
        groups.append(_Episodes(plan, numbers, uncertainty))
    return groups


def _half_widths(group: _Episodes, source: str) -> list[float | None]:
    """Of each member; None where they are not known, as on a single episode."""
    widths = group.uncertainty.half_widths("episodes" if source == "episodes" else "clips")
    return [None] * len(group.members) if widths is None or len(group.plan) < 2 else [float(width) for width in widths]


def _p_values(groups: list[_Episodes], right: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """p-values of all pairs of rows before they are adjusted, `[R, R]`."""
    p = np.ones((len(right), len(right)))
    for group in groups:
        for (a, i), (b, j) in combinations(enumerate(group.members), 2):
            # the later row minus the earlier one
            p[i, j] = p[j, i] = group.uncertainty.difference(b, a).p_value(accuracy[j] - accuracy[i])
    for first, second in combinations(groups, 2):
        for i in first.members:
            for j in second.members:
                (low, low_plan), (high, high_plan) = sorted([(i, first.plan), (j, second.plan)], key=lambda of: of[0])
                p[i, j] = p[j, i] = _p_value_between(right[[high, low]], high_plan, low_plan)
    return p


def shared_episodes(first: EpisodePlan, second: EpisodePlan) -> np.ndarray:
    """Which episodes hold the same clips in two realisations of a plan, bool `[E]`."""
    return (first.support == second.support).all((1, 2)) & (first.query == second.query).all((1, 2))


def _p_value_between(right: np.ndarray, first: EpisodePlan, second: EpisodePlan) -> float:
    """p-value of the difference of two rows of two realised plans.

    It is paired on the episodes that they share, and unpaired where these are fewer than `FEW_EPISODES`.

    Args:
        right: float `[2, E, Q]`.
        first: episodes of the first row.
        second: episodes of the second.
    """
    shared = shared_episodes(first, second)
    if shared.sum() < FEW_EPISODES:
        a, b = (
            jackknife_over_clips(row[None], classes=plan.classes, support=plan.support, query=plan.query)
            for row, plan in zip(right, (first, second), strict=True)
        )
        return unpaired(a, b).p_value(100 * float(right[0].mean() - right[1].mean()))
    right = right[:, shared]
    uncertainty = jackknife_over_clips(
        right, classes=first.classes[shared], support=first.support[shared], query=first.query[shared]
    )
    return uncertainty.difference(0, 1).p_value(100 * float(right[0].mean() - right[1].mean()))


def _fewest_clips(plan: EpisodePlan) -> int:
    """Number of clips of the class of which the fewest appear."""
    clips = np.concatenate([plan.support, plan.query], 2)
    of_class = np.broadcast_to(plan.classes[..., None], clips.shape)
    pairs = np.unique(np.stack([of_class.ravel(), clips.ravel()], 1), axis=0)
    return int(np.unique(pairs[:, 0], return_counts=True)[1].min())


def _classwise(right: np.ndarray, plan: EpisodePlan, class_count: int) -> tuple[float | None, ...]:
    """Accuracy in percent by class number."""
    classes = plan.classes.ravel()
    queries = np.bincount(classes, minlength=class_count) * plan.query.shape[2]
    correct = np.bincount(classes, right.reshape(len(classes), -1).sum(1), minlength=class_count)
    return tuple(round(100 * c / q, 2) if q else None for c, q in zip(correct.tolist(), queries.tolist(), strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)
