"""Statistics of the rows of a board: intervals, paired tests, and ranks.

All pairs are tested among the `MOST_COMPARED` most accurate rows of a board, and the best row is tested against every other
one: time and memory grow with the number of rows, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from fsar_bench.config.settings import Frozen
from fsar_bench.leaderboard.intervals import (
    LEVEL,
    adjusted_with_others,
    class_interval,
    seed_interval,
    tie_ranks,
)
from fsar_bench.leaderboard.jackknife import (
    FEW_EPISODES,
    Places,
    Uncertainty,
    jackknife,
    jackknife_over_clips,
    unpaired,
)
from fsar_bench.leaderboard.outcomes import Outcomes
from fsar_bench.leaderboard.rows import Row
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import report

DIGITS = 4  # of accuracies and intervals; further digits depend on the machine
MOST_COMPARED = 200  # rows of a board of which all pairs are tested: the most accurate ones
COMPARING = "comparing rows"  # the stage that is reported
_AT_A_TIME = 64  # other rows that are read together


class RowStatistics(Frozen):
    """Rank, accuracy and intervals of one row. Half-widths are those of 95 % intervals in percent; None: not known.

    Attributes:
        rank: rows not significantly different from the best share rank 1, and so on; see `intervals.tie_ranks`. None: the row
            is significantly worse than the best and was compared with no other, see `rank_rows`.
        p_against_best: adjusted p-value over clips of the difference from the best row; 1 for that row itself.
        accuracy: percent.
        episodes: half-width over episodes.
        clips: half-width over clips.
        classes: half-width over classes.
        seeds: half-width over training seeds.
        classwise: accuracy in percent by class number; None for a class that is in no episode.
    """

    rank: int | None
    p_against_best: float
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
        p: p-values over clips of all pairs of the C rows that are compared in pairs, adjusted (Holm), `[C, C]`.
        fewest_clips: number of clips of the class of which the fewest appear.
    """

    rows: tuple[RowStatistics, ...]
    p: tuple[tuple[float, ...], ...]
    fewest_clips: int


@dataclass(frozen=True)
class _Group:
    """Rows that share their episodes clip by clip.

    Attributes:
        members: numbers of the rows, in ascending order.
        plan: the episodes.
        places: of the plan.
        outcomes: of these rows.
        uncertainty: of these rows.
    """

    members: list[int]
    plan: EpisodePlan
    places: Places
    outcomes: Outcomes
    uncertainty: Uncertainty


def rank_rows(rows: list[Row], plan_of: Callable[[Row], EpisodePlan]) -> BoardStatistics:
    """Compare rows and rank them.

    All pairs of the C = `MOST_COMPARED` most accurate rows are tested, and the best row against each of the others. Holm's
    correction counts all R (R - 1) / 2 pairs of the board, as if the others had been tested and were not significant. So
    every true null hypothesis that is tested is protected as in a test of all pairs, although the same predictions decide
    which rows are the most accurate; the price is that more rows tie. On a board of up to C rows, these are all pairs.

    A row beyond the C that is not significantly different from the best shares rank 1, so rank 1 is complete; other such rows
    have no rank. Later ranks count the rows that have one.

    Args:
        rows: in the board's order, the most accurate first.
        plan_of: the episodes of a row as they were on its machine.

    Raises:
        ResultError: predictions or a plan are missing or damaged.
    """
    accuracy = np.array([row.accuracy for row in rows])
    count = min(len(rows), MOST_COMPARED)
    top = list(_groups(rows, range(count), plan_of, at_a_time=count))
    p, against_best = _p_values(top, accuracy[:count]), np.ones(len(rows) - count)
    best = next(group for group in top if group.members[0] == 0)
    found: dict[int, RowStatistics] = {}
    fewest = min(int(group.places.clip_count.min()) for group in top)
    for group in _groups(rows, range(count, len(rows)), plan_of, at_a_time=_AT_A_TIME, best=best):
        against_best[np.array([i for i in group.members if i]) - count] = _against_best(best, group, accuracy)
        found |= _statistics(rows, group)
        fewest = min(fewest, int(group.places.clip_count.min()))
    for group in top:
        found |= _statistics(rows, group)
    p, against_best = adjusted_with_others(p, against_best)
    ranks = _ranks(accuracy[:count], p, against_best)
    to_best = [1.0, *p[0, 1:], *against_best]
    return BoardStatistics(
        rows=tuple(
            found[number].model_copy(update={"rank": ranks[number], "p_against_best": _significant(to_best[number])})
            for number in range(len(rows))
        ),
        p=tuple(tuple(map(_significant, line)) for line in p),
        fewest_clips=fewest,
    )


def _groups(
    rows: list[Row],
    numbers: range,
    plan_of: Callable[[Row], EpisodePlan],
    *,
    at_a_time: int,
    best: _Group | None = None,
) -> Iterator[_Group]:
    """Rows by their realised plan, with their uncertainty.

    Args:
        rows: of the board.
        numbers: of the rows that are read.
        plan_of: as of `rank_rows`.
        at_a_time: the most rows of a group; rows of one plan may be several groups.
        best: the group of row 0, which joins all groups of its plan as their first row.
    """
    members: dict[str, list[int]] = {}
    for number in numbers:
        members.setdefault(rows[number].realised, []).append(number)
    done = numbers.start
    for realised, of_plan in members.items():
        plan = plan_of(rows[of_plan[0]])
        places = Places.of(plan.classes, plan.support, plan.query)
        for start in range(0, len(of_plan), at_a_time):
            chosen = of_plan[start : start + at_a_time]
            done += len(chosen)
            outcomes = Outcomes.of([rows[number] for number in chosen])
            if best is not None and realised == rows[0].realised:
                chosen, outcomes = [0, *chosen], best.outcomes.first_rows(1).with_rows_of(outcomes)
            yield _Group(chosen, plan, places, outcomes, jackknife(outcomes, places))
            report(COMPARING, done, len(rows))


def _statistics(rows: list[Row], group: _Group) -> dict[int, RowStatistics]:
    """Intervals of the rows of a group by their number; ranks and p-values are filled in later."""
    episodes, clips = _half_widths(group, "episodes"), _half_widths(group, "clips")
    out = {}
    for place, number in enumerate(group.members):
        right, row = group.outcomes[place : place + 1, :][0], rows[number]
        out[number] = RowStatistics(
            rank=None,
            p_against_best=1.0,
            accuracy=round(float(row.accuracy), DIGITS),
            episodes=_rounded(episodes[place]),
            clips=_rounded(clips[place]),
            classes=_rounded(class_interval(right, group.plan.classes)),
            seeds=_rounded(seed_interval(np.array([s.result.metrics.accuracy for s in row.seeds]))),
            classwise=_classwise(right, group.plan, row.result.data.classes),
        )
    return out


def _half_widths(group: _Group, source: Literal["episodes", "clips"]) -> list[float | None]:
    """Of each member; None where they are not known, as on a single episode."""
    widths = group.uncertainty.half_widths(source)
    return [None] * len(group.members) if widths is None or len(group.plan) < 2 else [float(width) for width in widths]


def _p_values(groups: list[_Group], accuracy: np.ndarray) -> np.ndarray:
    """p-values of all pairs of some rows before they are adjusted, `[C, C]`; 1 on the diagonal."""
    p = np.ones((len(accuracy), len(accuracy)))
    for group in groups:
        later = np.tril(group.uncertainty.p_values(accuracy[group.members]), -1)
        p[np.ix_(group.members, group.members)] = later + later.T + np.eye(len(later))
    for first, second in combinations(groups, 2):
        between = _p_between(first, second)
        p[np.ix_(first.members, second.members)] = between
        p[np.ix_(second.members, first.members)] = between.T
    return p


def _against_best(best: _Group, group: _Group, accuracy: np.ndarray) -> np.ndarray:
    """p-values of the best row against the other rows of a group, before they are adjusted."""
    if group.members[0] == 0:
        return group.uncertainty.p_values(accuracy[group.members])[1:, 0]
    return _p_between(best, group, rows=1)[0]


def _ranks(accuracy: np.ndarray, p: np.ndarray, against_best: np.ndarray) -> list[int | None]:
    """Rank of each row: of those that are compared in pairs, then of the others."""
    ranks, ties = tie_ranks(accuracy, p), against_best >= LEVEL
    ranks[ranks > 1] += ties.sum()
    return [*map(int, ranks), *(1 if tie else None for tie in ties)]


def shared_episodes(first: EpisodePlan, second: EpisodePlan) -> np.ndarray:
    """Which episodes hold the same clips in two realisations of a plan, bool `[E]`."""
    return (first.support == second.support).all((1, 2)) & (first.query == second.query).all((1, 2))


def _p_between(first: _Group, second: _Group, rows: int | None = None) -> np.ndarray:
    """p-values of rows of one realised plan against those of another, `[rows of the first, rows of the second]`.

    They are paired on the episodes that the plans share, and unpaired where these are fewer than `FEW_EPISODES`.

    Args:
        first: its rows are compared.
        second: its rows are compared.
        rows: how many rows of the first are compared, from its beginning; None: all.
    """
    mine, theirs = first.outcomes.first_rows(rows), second.outcomes
    count = mine.shape[0]
    shared = shared_episodes(first.plan, second.plan)
    if shared.sum() < FEW_EPISODES:
        a, b = mine.accuracy(), theirs.accuracy()
        return np.array(
            [
                [unpaired(first.uncertainty, second.uncertainty, i, j).p_value(a[i] - b[j]) for j in range(len(b))]
                for i in range(count)
            ]
        )
    both, plan = mine.of_episodes(shared).with_rows_of(theirs.of_episodes(shared)), second.plan
    uncertainty = jackknife_over_clips(
        both, classes=plan.classes[shared], support=plan.support[shared], query=plan.query[shared]
    )
    return uncertainty.p_values(both.accuracy())[:count, count:]


def _classwise(right: np.ndarray, plan: EpisodePlan, class_count: int) -> tuple[float | None, ...]:
    """Accuracy in percent by class number."""
    correct, queries = np.zeros(class_count), np.zeros(class_count, np.int64)
    of_class = right.reshape(*plan.query.shape).sum(2)  # [E, N]
    for place, classes in enumerate(plan.classes.T):
        correct += np.bincount(classes, of_class[:, place], minlength=class_count)
        queries += np.bincount(classes, minlength=class_count) * plan.query.shape[2]
    return tuple(round(100 * c / q, 2) if q else None for c, q in zip(correct.tolist(), queries.tolist(), strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def _significant(p: float) -> float:
    """A p-value with four significant digits; further ones depend on the machine."""
    return float(f"{p:.4g}")
