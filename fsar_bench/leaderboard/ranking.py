"""Statistics of the rows of a board: intervals, paired tests, and ranks.

All pairs are tested among the `MOST_COMPARED` most accurate rows of a board, and the best row is tested against every other
one: time and memory grow with the number of rows, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from fsar_bench.config.settings import Frozen
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.intervals import class_interval, interval, seed_interval
from fsar_bench.leaderboard.jackknife import FEW_EPISODES, Uncertainty, jackknife
from fsar_bench.leaderboard.outcomes import Outcomes, PairOutcomes
from fsar_bench.leaderboard.places import Places
from fsar_bench.leaderboard.ranks import LEVEL, adjusted_with_others, may_be_best, rank_intervals
from fsar_bench.leaderboard.rows import Row
from fsar_bench.leaderboard.trainings import Trainings
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import report

DIGITS = 4  # of accuracies and intervals; further digits depend on the machine
NO_CHANGE = 1.0  # points: a control that changes less is said to change nothing
MOST_COMPARED = 200  # rows of a board of which all pairs are tested: the most accurate ones
COMPARING = "comparing rows"  # the stage that is reported
_AT_A_TIME = 64  # other rows that are read together
_PAIR_BYTES = 2**26  # outcomes of pairs that are read together


class Widths(Frozen):
    """How far a 95 % interval reaches below and above an accuracy, in percent."""

    below: float
    above: float

    @property
    def half(self) -> float:
        """Half of the interval's length."""
        return (self.below + self.above) / 2


class Change(Frozen):
    """By how many points a control differs from its row, paired on the same queries; None: the half-width is not known."""

    difference: float
    half_width: float | None

    @property
    def is_none(self) -> bool:
        """Whether the true difference is within `NO_CHANGE` points, with 95 % confidence or because no prediction changed."""
        return self.half_width is not None and abs(self.difference) + self.half_width <= NO_CHANGE


class RowStatistics(Frozen):
    """Rank, accuracy and intervals of one row. Half-widths are those of 95 % intervals in percent; None: not known.

    Attributes:
        rank: best and worst rank that the row may have, see `ranks.rank_intervals`.
        may_be_best: see `ranks.may_be_best`.
        above_chance: whether the accuracy is significantly above 1 / N.
        p_against_best: adjusted p-value of the difference from the best row; 1 for that row itself.
        accuracy: percent.
        episodes: half-width over episodes.
        clips: over clips (by recording, where recordings are known).
        overall: over clips and trainings; None for a trained row where no row of the board has several trainings.
        classes: half-width over classes.
        seeds: half-width over training seeds.
        pairs: half-width of the pair accuracy over clips.
        classwise: accuracy in percent by class number; None for a class that is in no episode.
        controls: what changes with other frames, by `frames_as`.
    """

    rank: tuple[int, int]
    may_be_best: bool
    above_chance: bool
    p_against_best: float
    accuracy: float
    episodes: float | None
    clips: Widths | None
    overall: Widths | None
    classes: float | None
    seeds: float | None
    pairs: float | None
    classwise: tuple[float | None, ...]
    controls: dict[str, Change] = Field({})

    @property
    def is_blind_to_order(self) -> bool | None:
        """Whether nothing is lost when the frames are shuffled; None where that is not known."""
        shuffled = self.controls.get("shuffled")
        return None if shuffled is None or shuffled.half_width is None else shuffled.is_none

    @property
    def is_first(self) -> bool:
        """Whether its rank may be 1 and it is told from chance."""
        return self.rank[0] == 1 and self.above_chance


class BoardStatistics(Frozen):
    """Statistics of all rows of a board.

    Attributes:
        rows: in the board's order.
        p: p-values of all pairs of the C rows that are compared in pairs, adjusted (Holm), `[C, C]`.
        widths: half-widths of the 95 % intervals of their differences in percent, `[C, C]`; None where they are not known.
        of_checkpoints: rows were trained, and none has several trainings: other trainings are in no interval and no test.
        fewest_clips: number of clips of the class of which the fewest appear.
        fewest_units: the same of recordings, or of clips where recordings are not known.
        clips: number of clips that appear.
        recordings: of how many recordings they are; None where these are not known.
    """

    rows: tuple[RowStatistics, ...]
    p: tuple[tuple[float, ...], ...]
    widths: tuple[tuple[float | None, ...], ...]
    of_checkpoints: bool
    fewest_clips: int
    fewest_units: int
    clips: int
    recordings: int | None

    @property
    def found_differences(self) -> tuple[float, float] | None:
        """True differences in percent that a median pair of rows shows in 80 % of cases: in one test, and in the ranks.

        2.8 standard errors, as (1.96 + 0.84) of them; more where p-values are corrected for all pairs (Bonferroni). None: not
        known.
        """
        known = [width for place, line in enumerate(self.widths) for width in line[:place] if width]
        if not known:
            return None
        error, pairs = float(np.median(known)) / 1.96, len(self.rows) * (len(self.rows) - 1) // 2
        return (1.96 + 0.84) * error, float(-ndtri(0.025 / pairs) + 0.84) * error


@dataclass(frozen=True)
class Compared:
    """Some rows of a board, on all episodes, with their uncertainty.

    Attributes:
        numbers: of the rows in the board.
        rows: the rows.
        plans: the different plans of these rows.
        plan_of_row: number of each row's plan.
        outcomes: which queries the rows have right.
        places: of the plans.
        over_clips: uncertainty over episodes and clips.
        overall: the same with that over trainings.
    """

    numbers: Sequence[int]
    rows: Sequence[Row]
    plans: Sequence[EpisodePlan]
    plan_of_row: np.ndarray
    outcomes: Outcomes
    places: Places
    over_clips: Uncertainty
    overall: Uncertainty

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Percent, `[R]`."""
        return np.array([row.accuracy for row in self.rows])


@dataclass(frozen=True)
class Reader:
    """Reads rows of a board and compares them.

    Attributes:
        rows: of the board.
        plan_of: the episodes of a row as they were on its machine.
        units: number of the recording of each clip; None where these are not known.
    """

    rows: Sequence[Row]
    plan_of: Callable[[Row], EpisodePlan]
    units: np.ndarray | None

    @cached_property
    def trainings(self) -> Trainings:
        """Of all rows."""
        accuracies = [[seed.result.metrics.accuracy for seed in row.seeds] for row in self.rows]
        return Trainings.of(accuracies, [row.is_trained for row in self.rows])

    def compare(self, numbers: Sequence[int], first: Outcomes | None = None) -> Compared:
        """Read some rows and compare them with each other.

        Args:
            numbers: of the rows.
            first: outcomes of the first of them, where they were read before.

        Raises:
            ResultError: predictions or a plan are missing or damaged, or plans hold other classes.
        """
        rows = [self.rows[number] for number in numbers]
        files = {row.result.plan_name: row for row in rows}
        places_of = {name: place for place, name in enumerate(files)}
        plan_of_row = np.array([places_of[row.result.plan_name] for row in rows])
        plans = _Plans(list(files.values()), self.plan_of)
        try:
            places = Places.of(plans, self.units)
        except ValueError as error:
            raise ResultError(
                f"{rows[0].title} cannot be compared with other rows of its plan: {error}. Delete the result that does not "
                "belong there, or run its cell again with overwrite=true."
            ) from error
        outcomes = Outcomes.of(rows) if first is None else first.with_rows_of(Outcomes.of(rows[1:]))
        over_clips = jackknife(outcomes, places, plan_of_row, _ignore_supports(rows))
        overall = self.trainings.of_rows(numbers).added_to(over_clips)
        return Compared(numbers, rows, plans, plan_of_row, outcomes, places, over_clips, overall)


@dataclass(frozen=True)
class _Plans(Sequence[EpisodePlan]):
    """Plans of rows, each read when it is looked at: not all of them are in memory at a time."""

    rows: list[Row]
    plan_of: Callable[[Row], EpisodePlan]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> EpisodePlan: ...

    @overload
    def __getitem__(self, place: slice) -> _Plans: ...

    def __getitem__(self, place: int | slice) -> EpisodePlan | _Plans:
        return _Plans(self.rows[place], self.plan_of) if isinstance(place, slice) else self.plan_of(self.rows[place])


def _ignore_supports(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row.result.traits.ignores_supports for row in rows])


def rank_rows(reader: Reader) -> BoardStatistics:
    """Compare rows and rank them.

    All pairs of the C = `MOST_COMPARED` most accurate rows are tested, and the best row against each of the others. Holm's
    correction counts all R (R - 1) / 2 pairs of the board, as if the others had been tested and were not significant. So
    every true null hypothesis that is tested is protected as in a test of all pairs, although the same predictions decide
    which rows are the most accurate; the price is that intervals of ranks are wider. On a board of up to C rows, these are
    all pairs.

    Differences are uncertain over clips and trainings. Where no trained row has several trainings, nothing is known of
    other ones: then checkpoints are ranked, not methods.

    Args:
        reader: of the rows in the board's order, the most accurate first.

    Raises:
        ResultError: predictions or a plan are missing or damaged.
    """
    rows, count = reader.rows, min(len(reader.rows), MOST_COMPARED)
    top = reader.compare(range(count))
    report(COMPARING, count, len(rows))
    found = _statistics(reader, top)
    against_best = np.ones(len(rows) - count)
    fewest_clips, fewest_units = top.places.fewest_clips, top.places.fewest_units
    for start in range(count, len(rows), _AT_A_TIME):
        numbers = range(start, min(start + _AT_A_TIME, len(rows)))
        others = reader.compare([0, *numbers], top.outcomes.first_row())
        against_best[np.array(numbers) - count] = others.overall.p_values(others.accuracy)[0, 1:]
        found |= _statistics(reader, others)
        fewest_clips = min(fewest_clips, others.places.fewest_clips)
        fewest_units = min(fewest_units, others.places.fewest_units)
        report(COMPARING, numbers.stop, len(rows))
    p, against_best = adjusted_with_others(top.overall.p_values(top.accuracy), against_best)
    best, worst = rank_intervals(top.accuracy, p, against_best)
    stays = [*may_be_best(top.accuracy, top.overall, len(rows)), *(against_best >= LEVEL)]
    to_best = [1.0, *p[0, 1:], *against_best]
    return BoardStatistics(
        rows=tuple(
            found[number].model_copy(
                update={
                    "rank": (int(best[number]), int(worst[number])),
                    "may_be_best": bool(stays[number]),
                    "p_against_best": _significant(to_best[number]),
                    "controls": _changes(reader, rows[number]),
                }
            )
            for number in range(len(rows))
        ),
        p=tuple(tuple(map(_significant, line)) for line in p),
        widths=tuple(tuple(map(_width, line)) for line in top.overall.half_widths_of_differences()),
        of_checkpoints=reader.trainings.are_unknown,
        fewest_clips=fewest_clips,
        fewest_units=fewest_units,
        clips=top.places.clip_count,
        recordings=None if reader.units is None else top.places.unit_count,
    )


def _changes(reader: Reader, row: Row) -> dict[str, Change]:
    """What changes where a row is shown other frames: over clips and episodes, of the trainings that both have."""
    out: dict[str, Change] = {}
    for control in row.controls:
        pair = Reader(row.beside(control), reader.plan_of, reader.units).compare([0, 1])
        width = float(pair.over_clips.half_widths_of_differences()[0, 1])
        out[control.result.protocol.frames_as] = Change(
            difference=round(float(pair.accuracy[1] - pair.accuracy[0]), DIGITS),
            half_width=None if np.isnan(width) else round(width, DIGITS),
        )
    return out


def _statistics(reader: Reader, compared: Compared) -> dict[int, RowStatistics]:
    """Intervals of rows by their number; ranks and p-values are filled in later."""
    pairs, out = _pair_widths(compared), {}
    unknown = np.isnan(reader.trainings.of_rows(compared.numbers).variance)
    several = compared.over_clips.episode_count > 1
    episodes = compared.over_clips.half_widths("episodes")
    for place, (number, row) in enumerate(zip(compared.numbers, compared.rows, strict=True)):
        right, plan = compared.outcomes[place : place + 1, :][0], compared.plans[compared.plan_of_row[place]]
        clips = _widths(compared, compared.over_clips, place) if several else None
        overall = _widths(compared, compared.overall, place) if clips and not unknown[place] else None
        if overall and clips and overall.half < clips.half:  # by its larger degrees of freedom
            overall = clips
        whole = overall or clips
        of_classes = class_interval(right, plan.classes)
        if of_classes is not None and clips is not None:
            of_classes = max(of_classes, clips.half)  # other classes have other clips
        out[number] = RowStatistics(
            rank=(1, 1),
            may_be_best=True,
            above_chance=whole is not None
            and len(plan) >= FEW_EPISODES
            and row.accuracy - whole.below > 100 / row.result.protocol.way,
            p_against_best=1.0,
            accuracy=round(float(row.accuracy), DIGITS),
            episodes=_rounded(float(episodes[place])) if several else None,
            clips=clips,
            overall=overall,
            classes=_rounded(of_classes),
            seeds=_rounded(seed_interval(np.array([s.result.metrics.accuracy for s in row.seeds]))),
            pairs=pairs.get(place),
            classwise=_classwise(right, plan, row.result.data.classes),
        )
    return out


def _widths(compared: Compared, uncertainty: Uncertainty, place: int) -> Widths | None:
    """The interval of a row; None where its error is not known."""
    error, accuracy = float(uncertainty.errors_of_rows[place]), float(compared.accuracy[place])
    if np.isnan(error):
        return None
    freedom = float(uncertainty.degrees_of_freedom[place, place])
    units = compared.places.units_of_plan(int(compared.plan_of_row[place]))
    low, high = interval(accuracy, error, freedom, units)
    return Widths(below=round(accuracy - low, DIGITS), above=round(high - accuracy, DIGITS))


def _pair_widths(compared: Compared) -> dict[int, float]:
    """Half-width of the pair accuracy of each row that has one, by its place."""
    having = [place for place, row in enumerate(compared.rows) if row.pair_accuracy is not None]
    out: dict[int, float] = {}
    step = max(1, _PAIR_BYTES // int(np.prod(compared.outcomes.shape[1:])))
    for start in range(0, len(having), step):
        places = having[start : start + step]
        rows = [compared.rows[place] for place in places]
        outcomes = PairOutcomes.of(rows)
        u = jackknife(outcomes, compared.places, compared.plan_of_row[places], _ignore_supports(rows))
        widths = u.half_widths("clips") / outcomes.counted
        out |= {place: round(float(w), DIGITS) for place, w in zip(places, widths, strict=True) if not np.isnan(w)}
    return out


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


def _width(width: float) -> float | None:
    return None if np.isnan(width) else round(float(width), DIGITS)
