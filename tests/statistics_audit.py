"""An audit of the statistics of boards: each claim about an interval, a test or a rank, measured where the truth is known.

    python tests/statistics_audit.py [--draws-factor 1.0] [--jobs 2] [--only NAME ...] [--seed 1]

It simulates boards with `statistics_generators`, which has no code of fsar_bench in it, applies the statistics of fsar_bench by
the adapters below, and prints one line per claim: what was measured, its Monte Carlo error, the bound, and whether it holds. The
exit status is 1 if any does not. A bound is the claim plus three standard errors of the simulation, so a line of which the claim
is just true fails by chance in about one of 700 audits.

An interval over clips speaks of fresh clips of the same classes: each draw is a fresh pool of clips with fresh episodes. The
draws of a check depend on its name and on the seed alone.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
from statistics_generators import (
    DIMENSIONS,
    FILMS_IN_TWO_CLASSES,
    FIVE_BY_6,
    HMDB51,
    HMDB51_RECORDINGS,
    KINETICS,
    PROJECTED,
    SSV2_FULL,
    SYNTHACT,
    TEN_BY_40,
    TEN_BY_129,
    UCF101_RECORDINGS,
    UNEVEN,
    WAY,
    Geometry,
    Linear,
    Methods,
    Plan,
    Pool,
    Rng,
    any_classes,
    draw_plan,
    fresh_outcomes,
    independent,
    outcomes,
    plans_with_missing,
    recorded,
    symmetric_classes,
    true_accuracy,
)
from stores import store

from fsar_bench.leaderboard.compare import compare_rows
from fsar_bench.leaderboard.files import read_boards
from fsar_bench.leaderboard.intervals import class_interval, interval, seed_interval
from fsar_bench.leaderboard.jackknife import Difference, Uncertainty, jackknife_of_plans, jackknife_over_clips
from fsar_bench.leaderboard.ranks import LEVEL, adjusted, may_be_best, rank_intervals
from fsar_bench.leaderboard.trainings import Trainings
from fsar_bench.plan import ClipList, EpisodePlan

MISSING = 0.05  # share of clips that an incomplete disk lacks

# ---------------------------------------------------------------------------------------------------------------------------
# Adapters: all that is audited is called here.


def estimate(
    right: np.ndarray, plan: Plan, pool: Pool | None = None, ignores_supports: np.ndarray | None = None
) -> Uncertainty:
    """Uncertainty of rows on one plan; by recording where the pool has recordings.

    Args:
        right: `[R, E, Q]`.
        plan: of all rows.
        pool: None: clips are independent.
        ignores_supports: of each row, bool `[R]`; None: no row does.
    """
    units = None if pool is None or not pool.has_recordings else pool.unit
    return jackknife_over_clips(right, **plan._asdict(), units=units, ignores_supports=ignores_supports)


def p_values(uncertainty: Uncertainty, accuracy: np.ndarray) -> np.ndarray:
    """p-values of all pairs of rows before any correction, `[R, R]`."""
    return uncertainty.p_values(accuracy)


def family(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the number of pairs, `[R, R]`."""
    return adjusted(p)


def ranks(accuracy: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best and worst possible rank of each row, `[R]` each, from adjusted p-values."""
    return rank_intervals(accuracy, p)


def best_set(accuracy: np.ndarray, uncertainty: Uncertainty) -> np.ndarray:
    """Which rows may be the best, bool `[R]`."""
    return may_be_best(accuracy, uncertainty)


def with_trainings(uncertainty: Uncertainty, accuracy: list[np.ndarray]) -> Uncertainty:
    """Uncertainty over clips and trainings.

    Args:
        uncertainty: of the rows over clips, trainings averaged.
        accuracy: of each training of each row in percent.
    """
    return Trainings.of([list(of_row) for of_row in accuracy], [True] * len(accuracy)).added_to(uncertainty)


def over_trainings(accuracy: np.ndarray) -> float:
    """Half-width of the interval over trainings, accuracy of each in percent."""
    width = seed_interval(accuracy)
    assert width is not None
    return width


def over_classes(right: np.ndarray, classes: np.ndarray) -> float:
    """Half-width of the interval over classes in percent, of outcomes `[E, Q]`."""
    width = class_interval(right, classes)
    assert width is not None
    return width


def near_100(right: np.ndarray, plan: Plan) -> tuple[float, float]:
    """Interval over clips of one row whose accuracy is close to 100 %, in percent; `right` is `[1, E, Q]`."""
    uncertainty, clips = estimate(right, plan), len(np.union1d(plan.support, plan.query))
    freedom = float(uncertainty.degrees_of_freedom[0, 0])
    return interval(100 * float(right.mean()), math.sqrt(uncertainty.clips[0, 0]), freedom, clips)


def incomplete(right: np.ndarray, plans: tuple[Plan, Plan]) -> Difference:
    """Two rows of which one lacks clips: errors of the difference of their accuracies.

    Args:
        right: `[2, E, Q]`, each row on its own plan.
        plans: of the rows.
    """
    parts = [(right[row : row + 1], *plan) for row, plan in enumerate(plans)]
    return jackknife_of_plans(parts).difference(0, 1)


def compared_in_a_store(right: list[np.ndarray], plans: list[EpisodePlan], missing: float) -> tuple[float, float]:
    """Two rows of which the second lacks a share of the clips, as files of a store.

    Args:
        right: bool `[E, Q]` of each row on its plan.
        plans: realised for each row.
        missing: the share.

    Returns:
        The difference in percent that is tested, and that of the accuracies in the table.
    """
    with TemporaryDirectory() as folder:
        for number, (of_row, plan) in enumerate(zip(right, plans, strict=True)):
            wrong = (plan.labels + 1) % WAY
            prediction = np.where(of_row, plan.labels, wrong).astype(np.uint8)
            store(Path(folder), f"m{number}", prediction, plan, coverage=1 - number * missing)
        (board,) = read_boards(Path(folder), use_cache=False)
        first, second = sorted(board.rows, key=lambda row: row.result.name)
        printed = {entry.result.name: entry.statistics.accuracy for entry in board.entries}
        return compare_rows(board, first, second).difference, printed["m0"] - printed["m1"]


# ---------------------------------------------------------------------------------------------------------------------------
# Lines of the table, and how much is drawn.


@dataclass(frozen=True)
class Line:
    """One claim.

    Attributes:
        what: is measured.
        measured: in percent, or a ratio, or as `what` says.
        error: standard error of the simulation; of a rate, at the claimed rate.
        low: the least that is allowed, three standard errors below the claim; minus infinity: no such bound.
        high: the most that is allowed.
        draws: number of independent draws.
    """

    what: str
    measured: float
    error: float
    low: float
    high: float
    draws: int

    @property
    def holds(self) -> bool:
        return self.low <= self.measured <= self.high

    def cells(self) -> list[str]:
        bound = " and ".join(
            [f">= {self.low:.4g}"] * math.isfinite(self.low) + [f"<= {self.high:.4g}"] * math.isfinite(self.high)
        )
        return [
            self.what, f"{self.measured:.4g}", f"{self.error:.2g}", bound, str(self.draws), "yes" if self.holds else "NO",
        ]  # fmt: skip


def rate(what: str, hits: np.ndarray, *, least: float = -math.inf, most: float = math.inf) -> Line:
    """A share of draws, in percent, that a claim bounds (in percent) from below or above."""
    bound = least if math.isfinite(least) else most
    error = math.sqrt(bound * (100 - bound) / len(hits))
    return Line(what, 100 * float(np.mean(hits)), error, least - 3 * error, most + 3 * error, len(hits))


def mean(what: str, values: np.ndarray, low: float, high: float) -> Line:
    """A mean over draws."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Line(what, float(np.mean(values)), error, low - 3 * error, high + 3 * error, len(values))


def width_to_ideal(what: str, accuracy: np.ndarray, widths: np.ndarray, most: float) -> Line:
    """Mean half-width over 1.96 standard deviations of the accuracy over draws; the error is that of this deviation."""
    ratio = float(np.mean(widths) / (1.96 * np.std(accuracy, ddof=1)))
    error = ratio / math.sqrt(2 * len(widths))
    return Line(what, ratio, error, -math.inf, most + 3 * error, len(widths))


@dataclass(frozen=True)
class Effort:
    """How much is drawn.

    Attributes:
        factor: of the numbers of draws of a whole audit; with fewer, the truth is sampled with fewer episodes, too.
        seed: of all draws.
    """

    factor: float = 1.0
    seed: int = 1

    def draws(self, whole: int) -> int:
        return max(8, round(whole * self.factor))

    @property
    def truth_episodes(self) -> int:
        return round(60_000 * min(1.0, max(0.15, self.factor)))

    def rng(self, *purpose: str | int) -> Rng:
        return np.random.default_rng([self.seed, *(crc32(p.encode()) if isinstance(p, str) else p for p in purpose)])


# ---------------------------------------------------------------------------------------------------------------------------
# Scenarios of the geometry.


@dataclass(frozen=True)
class Setting:
    """A pool, a protocol and methods of equal merit, or graded ones.

    Attributes:
        pool: of clips.
        episodes: E.
        shot: K.
        query: q.
        accuracy: of the first method over fresh clips, in percent.
        alike: share of the variance of a clip that its recording has.
        flips: 2^flips methods.
        noise: of the last method; the others have less, in even steps of the variance, and the first has none.
    """

    pool: Pool
    episodes: int
    shot: int = 1
    query: int = 1
    accuracy: float = 70.0
    alike: float = 0.0
    flips: int = 0
    noise: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """What a setting is made into: fixed classes and methods. `truth` is the accuracy over fresh clips in percent, `[R]`."""

    setting: Setting
    geometry: Geometry
    methods: Methods
    truth: np.ndarray

    def draw(self, rng: Rng) -> tuple[np.ndarray, Plan]:
        """Outcomes `[R, E, Q]` on a fresh pool, and its episodes."""
        setting = self.setting
        plan = draw_plan(rng, setting.pool.sizes, setting.episodes, setting.shot, setting.query)
        return outcomes(self.methods.features(rng, self.points(rng)), plan), plan

    def points(self, rng: Rng) -> np.ndarray:
        """A fresh pool."""
        return self.geometry.points(rng, self.setting.pool.class_of, self.setting.pool.unit)


def scenario(name: str, setting: Setting, effort: Effort) -> Scenario:
    """Classes and methods of a setting, with distances between classes that give its accuracy."""
    rng = effort.rng(name, "classes")
    unscaled, signs = symmetric_classes(rng, len(setting.pool.sizes), setting.flips)
    projection = rng.normal(0, 1, (DIMENSIONS, PROJECTED)) / math.sqrt(PROJECTED)
    projections = signs[:, :, None] * projection
    methods = Methods(projections, setting.noise * np.sqrt(np.linspace(0, 1, len(signs))))
    alone = Methods(projections[:1], np.zeros(1))

    def at(scale: float) -> Geometry:
        return replace(unscaled, means=scale * unscaled.means, alike=setting.alike)

    def accuracy(scale: float) -> float:
        plan = draw_plan(effort.rng(name, "plan"), setting.pool.sizes, effort.truth_episodes // 10, setting.shot)
        return 100 * float(fresh_outcomes(effort.rng(name, "clips"), at(scale), setting.pool, alone, plan).mean())

    low, high = 0.05, 20.0
    for _ in range(9):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if accuracy(middle) < setting.accuracy else (low, middle)
    geometry = at(high)
    episodes = effort.truth_episodes
    truth = true_accuracy(
        effort.rng(name, "truth"), geometry, setting.pool, methods, shot=setting.shot, episodes=episodes
    )
    if not setting.noise:
        truth[:] = truth.mean()  # of equal merit, see `symmetric_classes`
    return Scenario(setting, geometry, methods, truth)


# ---------------------------------------------------------------------------------------------------------------------------
# Checks. Each takes how much to draw and gives its lines.


def brute_force(effort: Effort, *, name: str) -> list[Line]:
    """The exact variance of the linear generator against the variance of many fresh pools."""
    lines = []
    for sizes, episodes, shot, query in ((TEN_BY_40, 50, 1, 1), (TEN_BY_40, 50, 3, 2), (UNEVEN, 400, 1, 1)):
        generator, draws = Linear.of(sizes), effort.draws(3000)
        rng = effort.rng(name, len(sizes), shot)
        accuracy = [
            100 * generator.draw(rng, draw_plan(rng, generator.pool.sizes, episodes, shot, query)).mean()
            for _ in range(draws)
        ]
        ratio = float(np.var(accuracy, ddof=1)) / generator.variance(episodes, shot, query)
        error = math.sqrt(2 / draws)
        what = f"variance of {draws} pools / formula, {_sizes(sizes)}, {_protocol(episodes, shot, query)}"
        lines.append(Line(what, ratio, error, 1 - 3 * error, 1 + 3 * error, draws))
    return lines


def exact(
    effort: Effort,
    *,
    name: str,
    sizes: tuple[int, ...],
    episodes: int,
    shot: int = 1,
    query: int = 1,
    ignores_supports: bool = False,
    draws: int = 800,
) -> list[Line]:
    """The variance over clips, without what the finitely many episodes add, against its exact value."""
    generator, ratios = Linear.of(sizes), []
    if ignores_supports:
        generator = replace(generator, effects=(generator.effects[0], 0.0, 0.0))
    for number in range(effort.draws(draws)):
        rng = effort.rng(name, number)
        plan = draw_plan(rng, generator.pool.sizes, episodes, shot, query)
        uncertainty = estimate(
            generator.draw(rng, plan), plan, ignores_supports=np.array([True]) if ignores_supports else None
        )
        ratios.append((uncertainty.clips - uncertainty.episodes)[0, 0] / generator.over_clips())
    what = f"variance over clips / exact, {_sizes(sizes)}, {_protocol(episodes, shot, query)}"
    return [mean(what + ", supports ignored" * ignores_supports, np.array(ratios), 0.88, 1.12)]


def coverage(
    effort: Effort,
    *,
    name: str,
    setting: Setting,
    draws: int = 2000,
    least: float = 94.0,
    wide: float = 1.25,
    of_episodes: float = 80.0,
) -> list[Line]:
    """Intervals over clips and over episodes against the accuracy over fresh clips."""
    at, accuracy, over_clips, over_episodes = scenario(name, setting, effort), [], [], []
    for number in range(effort.draws(draws)):
        right, plan = at.draw(effort.rng(name, number))
        uncertainty = estimate(right, plan, setting.pool)
        accuracy.append(100 * right.mean())
        over_clips.append(uncertainty.half_widths("clips")[0])
        over_episodes.append(uncertainty.half_widths("episodes")[0])
    off, where = np.abs(np.array(accuracy) - at.truth[0]), _where(setting)
    return [
        rate(f"coverage of ± clips, {where}", off <= over_clips, least=least),
        rate(f"coverage of ± episodes, {where}", off <= over_episodes, most=of_episodes),
        width_to_ideal(f"± clips / ideal, {where}", np.array(accuracy), np.array(over_clips), wide),
    ]


def level(effort: Effort, *, name: str, setting: Setting, draws: int = 4000) -> list[Line]:
    """The paired test of two methods of equal merit with different accuracies of classes."""
    at, rejected = scenario(name, setting, effort), []
    for number in range(effort.draws(draws)):
        right, plan = at.draw(effort.rng(name, number))
        p = p_values(estimate(right, plan, setting.pool), 100 * right.mean((1, 2)))
        rejected.append(p[0, 1] < LEVEL)
    return [rate(f"type I error of the paired test, {_where(setting)}", np.array(rejected), most=5)]


def null_board(effort: Effort, *, name: str, setting: Setting, draws: int = 1500) -> list[Line]:
    """All methods of equal merit: any pair that is told apart is an error, and each row may be the best."""
    at, any_pair, is_out = scenario(name, setting, effort), [], []
    for number in range(effort.draws(draws)):
        right, plan = at.draw(effort.rng(name, number))
        accuracy, uncertainty = 100 * right.mean((1, 2)), estimate(right, plan)
        any_pair.append((family(p_values(uncertainty, accuracy)) < LEVEL).any())
        is_out.append(not best_set(accuracy, uncertainty)[0])
    where = f"{len(at.truth)} equal methods, {_where(setting)}"
    return [
        rate(f"any pair told apart, {where}", np.array(any_pair), most=5),
        rate(
            f"a method that is as good as the best is in the set that may be best, {where}", ~np.array(is_out), least=95
        ),
    ]


def graded_board(effort: Effort, *, name: str, setting: Setting, draws: int = 1500) -> list[Line]:
    """Methods of different merit: ranks against the true ranks."""
    at = scenario(name, setting, effort)
    better = at.truth[:, None] > at.truth[None, :] + 0.05  # by more than the sampling error of the truth
    first, last = 1 + better.sum(0), len(at.truth) - better.sum(1)
    best, wrong, out, kept, sizes = int(at.truth.argmax()), [], [], [], []
    for number in range(effort.draws(draws)):
        right, plan = at.draw(effort.rng(name, number))
        accuracy, uncertainty = 100 * right.mean((1, 2)), estimate(right, plan)
        p = family(p_values(uncertainty, accuracy))
        told = (p < LEVEL) & (accuracy[:, None] > accuracy[None, :])
        lowest, highest = ranks(accuracy, p)
        may_be_best = best_set(accuracy, uncertainty)
        wrong.append((told & better.T).any())
        kept.append((lowest[best] == 1, may_be_best[best]))
        out.append(((lowest > last) | (highest < first)).any())
        sizes.append((lowest == 1).sum() - may_be_best.sum())
    steps = f"{len(at.truth)} methods {-np.diff(np.sort(at.truth)[::-1]).mean():.2f} apart, {_where(setting)}"
    rank_1, in_set = np.array(kept).T
    return [
        rate(f"the best of {steps}: rank begins at 1", rank_1, least=95),
        rate(f"the best of {steps}: in the set that may be best", in_set, least=95),
        rate(f"some pair told apart in the wrong direction, {steps}", np.array(wrong), most=5),
        rate(f"all true ranks inside the intervals of ranks, {steps}", ~np.array(out), least=95),
        mean(f"rows of rank 1 minus rows that may be best, {steps}", np.array(sizes, float), 0, math.inf),
    ]


def trainings(
    effort: Effort, *, name: str, setting: Setting, sd: float, count: int, beside: int | None = None, draws: int = 1000
) -> list[Line]:
    """Two recipes of equal merit, each trained a few times; a training changes the accuracy by `sd` points.

    The second is trained `beside` times, where that is given, and borrows the variance of the first.

    With one training, the variance of trainings is that of three other rows of the board, of three trainings each.
    """
    at = scenario(name, setting, effort)
    effect = training_effect(at, sd, effort.rng(name, "effect"))
    alone = at.methods.first
    truth = true_accuracy(
        effort.rng(name, "trained"), at.geometry, setting.pool, alone,
        shot=setting.shot, episodes=effort.truth_episodes, training=effect,
    )  # fmt: skip
    told, covered = [], []
    for number in range(effort.draws(draws)):
        rng = effort.rng(name, number)
        points = at.points(rng)
        plan = draw_plan(rng, setting.pool.sizes, setting.episodes, setting.shot, setting.query)
        counts = [(at.methods, count)] + [(alone, 3)] * (3 if count == 1 else 0)
        rights = [
            np.stack([outcomes(methods.trained(rng, effect).features(rng, points), plan) for _ in range(n)], axis=1)
            for methods, n in counts
        ]  # each [rows, trainings, E, Q]
        of_rows = [of_row for right in rights for of_row in right]
        of_rows[1] = of_rows[1][:beside]
        accuracy = [100 * of_row.mean((1, 2)) for of_row in of_rows]
        both = with_trainings(estimate(np.stack([of_row.mean(0) for of_row in of_rows]), plan), accuracy)
        means = [float(of_row.mean()) for of_row in accuracy]
        told.append(both.difference(0, 1).p_value(means[0] - means[1]) < LEVEL)
        covered.append(abs(means[0] - truth[0]) <= both.half_widths("clips")[0])
    against = f" against {beside}" if beside else ""
    where = f"{count} training(s){against} of sd {sd}, {_where(setting)}"
    return [
        rate(f"equal recipes told apart, {where}", np.array(told), most=5),
        rate(f"coverage of ± all (clips and trainings), {where}", np.array(covered), least=94),
    ]


def training_effect(at: Scenario, sd: float, rng: Rng) -> float:
    """Size of the effect of a training that changes the accuracy of a method by `sd` points (standard deviation)."""
    points, seed = at.points(rng), int(rng.integers(2**32))
    plan = draw_plan(rng, at.setting.pool.sizes, 3000, at.setting.shot)
    alone = at.methods.first

    def spread(effect: float) -> float:
        again = np.random.default_rng(seed)
        rights = [outcomes(alone.trained(again, effect).features(again, points), plan).mean() for _ in range(30)]
        return 100 * float(np.std(rights, ddof=1))

    low, high = 0.003, 1.0
    for _ in range(7):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spread(middle) < sd else (low, middle)
    return high


def seeds(effort: Effort, *, name: str, setting: Setting) -> list[Line]:
    """Intervals over trainings of one method on fixed clips and episodes, against the mean of all trainings."""
    at = scenario(name, setting, effort)
    rng = effort.rng(name)
    effect = training_effect(at, 1.0, rng)
    points, plan = at.points(rng), draw_plan(rng, setting.pool.sizes, setting.episodes)
    count = effort.draws(600) * 30
    accuracy = np.array(
        [100 * outcomes(at.methods.trained(rng, effect).features(rng, points), plan).mean() for _ in range(count)]
    )
    lines = []
    for n in (2, 3, 5):
        groups = accuracy.reshape(-1, n)
        hits = np.array([abs(g.mean() - accuracy.mean()) <= over_trainings(g) for g in groups])
        error = 100 * math.sqrt(0.95 * 0.05 / len(hits))
        what = f"coverage of ± seeds, {n} trainings"
        lines.append(Line(what, 100 * hits.mean(), error, 93.8 - 3 * error, 96.2 + 3 * error, len(hits)))
    return lines


def classes(effort: Effort, *, name: str, sizes: tuple[int, ...], episodes: int, draws: int = 2000) -> list[Line]:
    """Intervals over classes: each draw has fresh classes, the truth is the accuracy over all classes."""
    rng = effort.rng(name, "truth")
    centres = rng.normal(0, 1, (15, DIMENSIONS))
    methods = Methods(rng.normal(0, 1, (1, DIMENSIONS, PROJECTED)) / math.sqrt(PROJECTED), np.zeros(1))
    scale, pool, five = 0.9, independent(sizes), independent((2,) * WAY)
    sampled = [
        fresh_outcomes(rng, any_classes(rng, centres, WAY, scale), five, methods, draw_plan(rng, five.sizes, 4)).mean()
        for _ in range(effort.truth_episodes // 4)
    ]
    truth, hits = 100 * float(np.mean(sampled)), []
    for number in range(effort.draws(draws)):
        rng = effort.rng(name, number)
        points = any_classes(rng, centres, len(sizes), scale).points(rng, pool.class_of, pool.unit)
        plan = draw_plan(rng, pool.sizes, episodes)
        (right,) = outcomes(methods.features(rng, points), plan)
        hits.append(abs(100 * right.mean() - truth) <= over_classes(right, plan.classes))
    return [rate(f"coverage of ± classes, {_sizes(sizes)}, {_protocol(episodes, 1, 1)}", np.array(hits), least=94)]


def ceiling(effort: Effort, *, name: str, setting: Setting, draws: int = 3000) -> list[Line]:
    """Intervals of rows with hardly any error, on few clips."""
    at, hits, inside = scenario(name, setting, effort), [], []
    for number in range(effort.draws(draws)):
        right, plan = at.draw(effort.rng(name, number))
        low, high = near_100(right, plan)
        hits.append(low <= at.truth[0] <= high)
        inside.append(low <= 100 * right.mean() + 1e-9 and high <= 100 + 1e-9)
    return [
        rate(f"coverage near 100 %, {_where(setting)}", np.array(hits), least=92),
        Line(
            f"% of intervals that end at 100 or below, {_where(setting)}",
            100 * float(np.mean(inside)),
            0,
            100,
            100,
            len(hits),
        ),
    ]


def missing(effort: Effort, *, name: str, setting: Setting, draws: int = 1000) -> list[Line]:
    """Two methods of equal merit, one of which lacks 5 % of the clips, at random."""
    at, rejected, differences, widths = scenario(name, setting, effort), [], [], []
    sizes = setting.pool.sizes
    for number in range(effort.draws(draws)):
        rng = effort.rng(name, number)
        plans = plans_with_missing(rng, int(sizes[0]), len(sizes), setting.episodes, setting.shot, MISSING)
        features = at.methods.features(rng, at.points(rng))
        right = np.concatenate([outcomes(features[i : i + 1], plan) for i, plan in enumerate(plans)])
        difference, errors = 100 * float(right[0].mean() - right[1].mean()), incomplete(right, plans)
        differences.append(difference)
        rejected.append(errors.p_value(difference) < LEVEL)
        widths.append(errors.half_width())
    where = f"5 % of clips missing in one row, {_where(setting)}"
    return [
        rate(f"type I error, {where}", np.array(rejected), most=5),
        width_to_ideal(f"± of the difference / ideal, {where}", np.array(differences), np.array(widths), 1.25),
    ]


def signs(effort: Effort, *, name: str, setting: Setting, draws: int = 100) -> list[Line]:
    """Stored results of two methods of equal merit, one of which lacks 5 % of the clips: what is tested is what is printed."""
    at, same = scenario(name, setting, effort), []
    names = [f"c{k:02d}_{i:03d}" for k, size in enumerate(setting.pool.sizes) for i in range(size)]
    clips = ClipList.of([(clip[:3], clip) for clip in names])
    for number in range(effort.draws(draws)):
        rng = effort.rng(name, number)
        lost = frozenset(clip for clip in names if rng.random() < MISSING)
        plans = [
            EpisodePlan.sample(
                clips, way=WAY, shot=setting.shot, query=1, episodes=setting.episodes, seed=number, purpose="test",
                missing=absent,
            )
            for absent in (frozenset(), lost)
        ]  # fmt: skip
        features = at.methods.features(rng, at.points(rng))
        right = [
            outcomes(features[i : i + 1], Plan(plan.classes, plan.support, plan.query))[0] > 0
            for i, plan in enumerate(plans)
        ]
        tested, printed = compared_in_a_store(right, plans, MISSING)
        same.append(np.sign(round(tested, 3)) == np.sign(round(printed, 3)))
    what = "% of boards where the test has the sign of the table, 5 % of clips missing in one row"
    return [Line(f"{what}, {_where(setting)}", 100 * float(np.mean(same)), 0, 100, 100, len(same))]


def invariance(effort: Effort, *, name: str) -> list[Line]:
    """Other numbers of clips, classes and episodes, and right for wrong, change no variance."""
    lines = []
    for recordings in (False, True):
        pool = (
            recorded(((5,) * 8, (3,) * 9, (2,) * 15, (1,) * 20, (9, 4, 4), (6,) * 4))
            if recordings
            else independent(UNEVEN)
        )
        setting = Setting(pool, 500, shot=2, query=2, flips=1, alike=0.5 if recordings else 0.0)
        right, plan = scenario(name, setting, replace(effort, factor=0.1)).draw(effort.rng(name))
        rng, base = effort.rng(name, "order"), estimate(right, plan, pool)
        clip, of_class = rng.permutation(len(pool.unit)), rng.permutation(len(pool.sizes))
        moved = Pool(pool.sizes, np.empty_like(pool.unit))
        moved.unit[clip] = rng.permutation(int(pool.unit.max()) + 1)[pool.unit]
        order = rng.permutation(setting.episodes)
        changed = [
            estimate(right, Plan(of_class[plan.classes], clip[plan.support], clip[plan.query]), moved),
            estimate(right[:, order], Plan(*(array[order] for array in plan)), pool),
            estimate(1 - right, plan, pool),
        ]
        off = max(
            float(np.abs(getattr(other, of) / getattr(base, of) - 1).max())
            for other in changed
            for of in ("clips", "episodes", "degrees_of_freedom")
        )
        kind = "recordings" if recordings else "independent clips"
        lines.append(Line(f"largest relative change by renumbering, {kind}", off, 0, -math.inf, 1e-9, len(changed)))
    return lines


def cost(effort: Effort, *, name: str) -> list[Line]:
    """Time and memory of one call for 5 rows, 10,000 episodes and 25 queries."""
    rng = effort.rng(name)
    plan = draw_plan(rng, np.array(HMDB51), 10_000, 1, 5)
    right = (rng.random((5, 10_000, 25)) < 0.7).astype(float)
    estimate(right, plan)  # libraries are loaded
    start = time.process_time()
    estimate(right, plan)
    seconds = time.process_time() - start
    tracemalloc.start()
    estimate(right, plan)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return [
        Line("seconds of CPU, 5 rows x 10,000 episodes x 25 queries", seconds, 0, 0, 2, 1),
        Line("MB beyond the input, 5 rows x 10,000 episodes x 25 queries", peak, 0, 0, 300, 1),
    ]


def _sizes(sizes: tuple[int, ...] | np.ndarray) -> str:
    low, high = min(sizes), max(sizes)
    return f"{len(sizes)} x {low}" if low == high else f"{len(sizes)} x {low}-{high}"


def _protocol(episodes: int, shot: int, query: int) -> str:
    return f"{episodes:,} ep, {shot} shot" + (f", {query} queries" if query > 1 else "")


def _where(setting: Setting) -> str:
    units = ""
    if setting.alike:
        units = f" in {int(setting.pool.unit.max()) + 1} recordings ({setting.alike} alike)"
    accuracy = f", at {setting.accuracy:g} %" if setting.accuracy > 95 else ""
    return f"{_sizes(setting.pool.sizes)}{units}, {_protocol(setting.episodes, setting.shot, setting.query)}{accuracy}"


_BY_RECORDING = {
    "6x25x5": recorded(((5,) * 25,) * 6),
    "ucf101": recorded(UCF101_RECORDINGS),
    "hmdb51": recorded(HMDB51_RECORDINGS, FILMS_IN_TWO_CLASSES),
}
_TEN, _FIVE, _MANY = independent(TEN_BY_40), independent(FIVE_BY_6), independent(SYNTHACT)
_UNEVEN, _HMDB51 = independent(UNEVEN), independent(HMDB51)

CHECKS: dict[str, Callable[..., list[Line]]] = {
    "brute-force": brute_force,
    "exact-10x129": partial(exact, sizes=TEN_BY_129, episodes=600),
    "exact-ssv2": partial(exact, sizes=SSV2_FULL, episodes=2000),
    "exact-37x16-5-queries": partial(exact, sizes=SYNTHACT, episodes=600, query=5),
    "exact-37x16-5-queries-5-shots": partial(exact, sizes=SYNTHACT, episodes=600, query=5, shot=5),
    "exact-10x40": partial(exact, sizes=TEN_BY_40, episodes=2000),
    "exact-5x6": partial(exact, sizes=FIVE_BY_6, episodes=600),
    "exact-10x7-5-shots": partial(exact, sizes=(7,) * 10, episodes=3000, shot=5),
    "exact-10x40-5-shots": partial(exact, sizes=TEN_BY_40, episodes=2000, shot=5),
    "exact-supports-ignored": partial(exact, sizes=SYNTHACT, episodes=2000, shot=5, ignores_supports=True),
    "coverage-10x40": partial(coverage, setting=Setting(_TEN, 2000)),
    "coverage-uneven-5-shots": partial(coverage, setting=Setting(_UNEVEN, 1000, shot=5)),
    "coverage-37x16": partial(coverage, setting=Setting(_MANY, 2000, accuracy=80)),
    "coverage-5x6": partial(coverage, setting=Setting(_FIVE, 600, accuracy=60), wide=1.5),
    "coverage-99": partial(coverage, setting=Setting(_HMDB51, 2000, accuracy=99), least=93),
    "published-hmdb51": partial(coverage, setting=Setting(_HMDB51, 10_000), draws=1000),
    "published-ssv2": partial(coverage, setting=Setting(independent(SSV2_FULL), 10_000, accuracy=50), draws=1000),
    "published-kinetics": partial(coverage, setting=Setting(independent(KINETICS), 10_000, accuracy=75), draws=1000),
    "published-synthact": partial(coverage, setting=Setting(_MANY, 10_000, accuracy=85), draws=1000),
    "published-5x6": partial(coverage, setting=Setting(_FIVE, 10_000, accuracy=60), draws=1000, wide=1.5),
    "level-10x40": partial(level, setting=Setting(_TEN, 1000, flips=1)),
    "level-uneven-5-shots": partial(level, setting=Setting(_UNEVEN, 1000, shot=5, flips=1)),
    "level-5x6": partial(level, setting=Setting(_FIVE, 600, accuracy=60, flips=1)),
    "null-board": partial(null_board, setting=Setting(_TEN, 1000, flips=3)),
    "graded-board": partial(graded_board, setting=Setting(_TEN, 1000, flips=3, noise=0.7)),
    "recordings-6x25x5": partial(coverage, setting=Setting(_BY_RECORDING["6x25x5"], 2000, alike=0.6)),
    "recordings-ucf101": partial(coverage, setting=Setting(_BY_RECORDING["ucf101"], 2000, alike=0.4)),
    "recordings-hmdb51": partial(coverage, setting=Setting(_BY_RECORDING["hmdb51"], 2000, alike=0.4)),
    "recordings-level": partial(level, setting=Setting(_BY_RECORDING["6x25x5"], 2000, alike=0.6, flips=1)),
    "trainings-3": partial(trainings, setting=Setting(_TEN, 2000, flips=1), sd=1.5, count=3),
    "trainings-5": partial(trainings, setting=Setting(_TEN, 1000, flips=1), sd=1.5, count=5),
    "trainings-3-beside-1": partial(trainings, setting=Setting(_TEN, 1000, flips=1), sd=1.5, count=3, beside=1),
    "trainings-1": partial(trainings, setting=Setting(_TEN, 1000, flips=1), sd=1.5, count=1),
    "ceiling-5x6": partial(ceiling, setting=Setting(_FIVE, 600, accuracy=98)),
    "signs-1-shot": partial(signs, setting=Setting(_TEN, 300, flips=1)),
    "signs-5-shots": partial(signs, setting=Setting(_TEN, 300, shot=5, flips=1)),
    "missing-1-shot": partial(missing, setting=Setting(_TEN, 1000, flips=1)),
    "missing-5-shots": partial(missing, setting=Setting(_TEN, 1000, shot=5, flips=1)),
    "seeds": partial(seeds, setting=Setting(_TEN, 500)),
    "classes-10": partial(classes, sizes=TEN_BY_40, episodes=1000),
    "classes-24": partial(classes, sizes=KINETICS, episodes=1000),
    "invariance": invariance,
    "cost": cost,
}


def run_check(name: str, effort: Effort) -> list[Line]:
    """Lines of one check."""
    return CHECKS[name](effort, name=name)


def _timed(name: str, effort: Effort) -> tuple[list[Line], float]:
    """Lines and seconds of CPU; a check that raises is a line that does not hold, and the others are still measured."""
    start = time.process_time()
    try:
        lines = run_check(name, effort)
    except Exception as error:
        traceback.print_exc()
        lines = [Line(f"{name} ended with {type(error).__name__}: {error}", math.nan, math.nan, 0, 0, 0)]
    return lines, time.process_time() - start


def run_all(names: list[str], effort: Effort, jobs: int) -> Iterator[tuple[str, list[Line], float]]:
    """Lines and seconds of CPU of checks as they finish, in that many processes."""
    if jobs == 1:
        yield from ((name, *_timed(name, effort)) for name in names)
        return
    with ProcessPoolExecutor(jobs) as pool:
        futures = {pool.submit(_timed, name, effort): name for name in names}
        try:
            for future in as_completed(futures):
                yield (futures[future], *future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    head = ["what", "measured", "error", "bound", "draws", "holds"]
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, [":--", *["--:"] * 5], *(x.cells() for x in lines)]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that the command line names, print their table, and tell whether all claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws-factor", type=float, default=1.0, help="of the numbers of draws")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(CHECKS), help="checks: " + ", ".join(CHECKS))
    parser.add_argument("--seed", type=int, default=1, help="of all draws")
    options = parser.parse_args(arguments)
    names = [name for name in CHECKS if name in (options.only or CHECKS)]
    by_name: dict[str, list[Line]] = {}
    for name, lines, seconds in run_all(names, Effort(options.draws_factor, options.seed), options.jobs):
        by_name[name] = lines
        verdict = "holds" if all(line.holds for line in lines) else "FAILS"
        print(f"{len(by_name)}/{len(names)} {name}: {verdict} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    found = [line for name in names for line in by_name[name]]
    failed = sum(not line.holds for line in found)
    print(table(found))
    print(f"\n{len(found) - failed} of {len(found)} claims hold.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
