"""Intervals, paired tests and ranks: by hand, against scipy, and against slow loops; `test_audit` has the simulations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from leaderboard.reference import SlowRow, slow_covariance, slow_difference
from scipy import optimize, stats

from fsar_bench.leaderboard.intervals import class_interval, interval, seed_interval
from fsar_bench.leaderboard.jackknife import (
    ClassEpisodes,
    Difference,
    Uncertainty,
    chance_influence,
    degrees_of_freedom,
    jackknife_of_plans,
    jackknife_over_clips,
)
from fsar_bench.leaderboard.ranks import adjusted, holm, may_be_best, rank_intervals
from fsar_bench.leaderboard.trainings import Trainings
from fsar_bench.plan import ClipList, EpisodePlan
from fsar_bench.results.metrics import episode_accuracy, episode_interval, pair_accuracy


def plan_of(
    classes: int, clips: int, *, episodes: int, shot: int = 1, query: int = 1, way: int = 5, seed: int = 0, **how
) -> EpisodePlan:
    clip_list = ClipList.of([(f"{c:03d}", f"{c:03d}_{i:03d}") for c in range(classes) for i in range(clips)])
    return EpisodePlan.sample(
        clip_list, way=way, shot=shot, query=query, episodes=episodes, seed=seed, purpose="test", **how
    )


def p_value(right: np.ndarray, uncertainty: Uncertainty) -> float:
    """Of the first two rows."""
    return uncertainty.difference(0, 1).p_value(100 * float(right[0].mean() - right[1].mean()))


def arrays(plan: EpisodePlan) -> dict[str, np.ndarray]:
    return {"classes": plan.classes, "support": plan.support, "query": plan.query}


def test_two_methods_and_three_episodes_by_hand():
    """Method A: 2, 1, 2 of 2 queries right; B: 1, 1, 1."""
    a, b = np.array([[0, 1], [0, 0], [0, 1]]), np.array([[0, 0], [1, 1], [0, 0]])
    labels = np.array([0, 1])
    assert episode_accuracy(a, labels).tolist() == [100, 50, 100]
    assert episode_accuracy(b, labels).tolist() == [50, 50, 50]
    assert episode_interval(episode_accuracy(a, labels)) == pytest.approx(1.96 * math.sqrt(2500 / 3) / math.sqrt(3))
    assert episode_interval(episode_accuracy(b, labels)) == 0
    right = np.stack([a == labels, b == labels]).astype(float)
    classes = np.array([[0, 1], [1, 0], [0, 1]])
    support, query = np.array([[[0], [3]], [[4], [1]], [[2], [5]]]), np.array([[[1], [4]], [[5], [2]], [[0], [3]]])
    uncertainty = jackknife_over_clips(right, classes=classes, support=support, query=query)
    assert (uncertainty.episode_count, uncertainty.clips.shape) == (3, (2, 2))
    # Deviations from the mean: A (1/6, -1/3, 1/6), B 0; covariance over episodes = sum of squares / (E (E - 1)).
    assert uncertainty.episodes == pytest.approx(1e4 * np.array([[1 / 36, 0], [0, 0]]))
    # Over clips, the difference is A's alone.
    assert uncertainty.difference(0, 1).clips == pytest.approx(math.sqrt(uncertainty.clips[0, 0]))
    assert uncertainty.difference(0, 1).episodes == pytest.approx(100 / 6)


def test_scipy_agrees():
    rng = np.random.default_rng(0)
    plan = plan_of(10, 20, episodes=200)
    right = (rng.random((2, 200, 5)) < np.array([0.7, 0.6])[:, None, None]).astype(float)
    accuracy = 100 * right.mean(2)
    uncertainty = jackknife_over_clips(right, **arrays(plan))
    assert np.sqrt(np.diag(uncertainty.episodes)) == pytest.approx([stats.sem(row) for row in accuracy])
    assert uncertainty.half_widths("episodes")[0] == pytest.approx(episode_interval(accuracy[0]))
    error, difference = uncertainty.difference(0, 1), accuracy[0].mean() - accuracy[1].mean()
    assert difference / error.episodes == pytest.approx(stats.ttest_rel(*accuracy).statistic)
    over_episodes = Difference(error.episodes, error.episodes, 199, 200)  # Student's t, as scipy has it
    assert over_episodes.p_value(difference) == pytest.approx(stats.ttest_rel(*accuracy).pvalue)
    low, high = stats.ttest_rel(*accuracy).confidence_interval(0.95)
    assert over_episodes.half_width() == pytest.approx((high - low) / 2)
    trained = [[70.0, 71.5, 69.2], [68.0, 66.1, 67.5, 69.9]]  # trainings alone are Welch's test
    of_trainings = Trainings.of(trained, [True, True]).added_to(simple(np.zeros(2)))
    welch, means = stats.ttest_ind(*trained, equal_var=False), [np.mean(of_row) for of_row in trained]
    assert of_trainings.p_values(np.array(means))[0, 1] == pytest.approx(welch.pvalue)
    assert of_trainings.degrees_of_freedom[0, 1] == pytest.approx(welch.df)
    seeds = np.array([70.0, 71.5, 69.2])
    low, high = stats.t.interval(0.95, 2, loc=seeds.mean(), scale=stats.sem(seeds))
    assert seed_interval(seeds) == pytest.approx((high - low) / 2)
    assert seed_interval(seeds[:1]) is None


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).shape == (0,)


def test_rank_intervals_by_hand():
    accuracy = np.array([80.0, 79.0, 70.0, 60.0])
    p = np.ones((4, 4))
    for a, b in ((0, 2), (0, 3), (1, 3), (2, 3)):
        p[a, b] = p[b, a] = 0.01
    best, worst = rank_intervals(accuracy, p)
    assert list(zip(best, worst, strict=True)) == [(1, 2), (1, 3), (2, 3), (4, 4)]
    best, worst = rank_intervals(accuracy, p, np.array([0.2, 0.01]))  # two more rows, tested with the first alone
    assert list(zip(best, worst, strict=True)) == [(1, 3), (1, 5), (2, 5), (4, 6), (1, 6), (2, 6)]


def simple(variance: np.ndarray, freedom: float = 1e6) -> Uncertainty:
    """Of independent rows with these variances."""
    return Uncertainty(np.zeros((len(variance),) * 2), np.diag(variance), np.full((len(variance),) * 2, freedom), 1000)


def test_rows_that_may_be_best_are_those_of_dunnett():
    """With equal and independent errors, the differences from a row correlate by 1/2: Dunnett's one-sided quantile."""
    count, z = 5, np.linspace(-8, 8, 4001)

    def below(c: float) -> float:
        """Probability that all four differences are below c standard errors, integrated over the row that they share."""
        return float(np.sum(stats.norm.pdf(z) * stats.norm.cdf(np.sqrt(2) * c + z) ** (count - 1)) * (z[1] - z[0]))

    quantile = optimize.brentq(lambda c: below(c) - 0.95, 0, 5)
    assert quantile == pytest.approx(2.16, abs=0.01)  # Dunnett's table for 4 comparisons
    for excess, stays in ((-0.05, True), (0.05, False)):
        accuracy = np.array([50 + (quantile + excess) * math.sqrt(2), 50, 50, 50, 50])
        found = may_be_best(accuracy, simple(np.ones(count)))
        assert found.tolist() == [True] + [stays] * 4
    assert may_be_best(np.array([50.0, 40.0]), simple(np.full(2, np.nan))).all()  # nothing is known
    assert may_be_best(np.array([50.0]), simple(np.ones(1))).all()


def test_few_degrees_of_freedom_keep_more_rows():
    accuracy = np.array([53.4, 50.0])
    assert may_be_best(accuracy, simple(np.ones(2), 1e6)).tolist() == [True, False]
    assert may_be_best(accuracy, simple(np.ones(2), 2)).tolist() == [True, True]


def test_trainings_by_hand():
    """Rows of 3, 2 and 1 trainings and one without: s^2 is 1 and 8; rows of fewer than three have (2 x 1 + 1 x 8) / 3."""
    trainings = Trainings.of([[70, 71, 72], [60, 64], [50], [40]], [True, True, True, False])
    assert trainings.variance == pytest.approx([1 / 3, 10 / 6, 10 / 3, 0])
    whole = trainings.added_to(simple(np.array([0.5, 1, 2, 3.0]), 10))
    assert np.diag(whole.clips) == pytest.approx([0.5 + 1 / 3, 1 + 10 / 6, 2 + 10 / 3, 3])
    freedom = (0.5 + 1 / 3) ** 2 / (0.5**2 / 10 + (1 / 3) ** 2 / 2)
    assert whole.degrees_of_freedom[0, 0] == pytest.approx(freedom)
    assert whole.degrees_of_freedom[3, 3] == 10
    # The second row has half of 2/3 of the first one's s^2 and half of 1/3 of its own.
    between = 1.5 + (1 / 3 + 1 / 3) * 1 + 1 / 6 * 8
    freedom = between**2 / (1.5**2 / 10 + (2 / 3 * 1) ** 2 / 2 + (1 / 6 * 8) ** 2 / 1)
    assert whole.degrees_of_freedom[0, 1] == pytest.approx(freedom)
    assert whole.difference(0, 1).clips == pytest.approx(math.sqrt(between))
    # The second and third together have 3/2 of 2/3 of the first one's s^2, and 3/2 of 1/3 of the second one's.
    freedom = (3 + 1 * 1 + 0.5 * 8) ** 2 / (3**2 / 10 + 1 / 2 + (0.5 * 8) ** 2 / 1)
    assert whole.degrees_of_freedom[1, 2] == pytest.approx(freedom)
    assert not trainings.are_unknown


def test_two_trainings_of_one_row_are_lent_to_no_other():
    trainings = Trainings.of([[60, 64], [70], [50]], [True, True, False])
    assert trainings.variance == pytest.approx([4, np.nan, 0], nan_ok=True)
    assert trainings.are_unknown
    same = simple(np.ones(3), 10)
    assert np.diag(trainings.added_to(same).clips) == pytest.approx([5, 1, 1])
    alone = Trainings.of([[70], [60], [50]], [True, True, False])
    assert alone.are_unknown
    assert (alone.added_to(same).clips == same.clips).all()
    assert (alone.added_to(same).degrees_of_freedom == 10).all()


def test_equal_recipes_of_three_trainings_and_of_one_are_told_apart_at_the_level(capsys):
    """The one borrows the variance of the three: differences are t of their 2 degrees of freedom."""
    rng, told = np.random.default_rng(1), 0
    for _ in range(4000):
        three, one = rng.normal(0, 1, 3), rng.normal(0, 1, 1)
        uncertainty = Trainings.of([three, one], [True, True]).added_to(simple(np.zeros(2)))
        told += int(uncertainty.p_values(np.array([three.mean(), one[0]]))[0, 1] < 0.05)
    with capsys.disabled():
        print(f"\nequal recipes told apart: {100 * told / 4000:.1f} % of 4000")
    assert least(4000, 0.04) <= told <= most(4000, 0.06)


def test_the_interval_near_100_by_hand():
    low, high = interval(60.0, 2.0, 10, 20)  # 8 of 20 clips are wrong, but 60 % is not near 100
    assert (low, high) == pytest.approx((60 - 2 * stats.t.ppf(0.975, 10), 60 + 2 * stats.t.ppf(0.975, 10)))
    # All right: as 31 of 32, with an error of sqrt(2) / 2 / 30 / (32 / 30), on the scale of the logit.
    low, high = interval(100.0, 0.0, 1e6, 30)
    reach = 1.96 * math.sqrt(2) / 2 / 32 / (31 / 32 / 32)
    assert (low, high) == pytest.approx((100 / (1 + math.exp(-math.log(31) + reach)), 100.0), abs=1e-3)
    mirrored = interval(0.0, 0.0, 1e6, 30)
    assert mirrored == pytest.approx((0.0, 100 - low))


def rows_of(plan: EpisodePlan, count: int, seed: int, shift: float = 0.3) -> list[np.ndarray]:
    """Outcomes `[E, Q]` of rows whose accuracy depends on the query's clip and on that of its support."""
    rng = np.random.default_rng(seed)
    clip = rng.normal(0, 2.0, int(max(plan.query.max(), plan.support.max())) + 1)
    z = (clip[plan.query] + clip[plan.support].mean(2)[..., None]).reshape(len(plan), -1)
    return [(z + shift * row > rng.logistic(0, 1, z.shape)).astype(float) for row in range(count)]


@pytest.mark.parametrize("units", [None, "within classes", "across classes"])
@pytest.mark.parametrize(("shot", "query"), [(1, 1), (3, 1), (2, 2)])
def test_the_jackknife_is_its_definition(shot, query, units):
    """Two plans that differ in some clips; in each a row that ignores its supports; recordings of one to three clips."""
    plan = plan_of(5, 12, episodes=250, shot=shot, query=query, way=3)
    short = plan_of(5, 12, episodes=250, shot=shot, query=query, way=3, missing=frozenset({"000_003", "002_004"}))
    number = {None: None, "within classes": np.arange(60) // 2, "across classes": np.arange(60) * 7 % 31}[units]
    ignores = np.array([False, True, False, True])
    rows = [*rows_of(plan, 2, 1), *rows_of(short, 2, 1)]
    found = jackknife_of_plans(
        [(np.stack(rows[:2]), *arrays(plan).values()), (np.stack(rows[2:]), *arrays(short).values())], number, ignores
    )
    slow = [
        SlowRow(row, p, bool(i), number) for row, p, i in zip(rows, (plan, plan, short, short), ignores, strict=True)
    ]
    expected = np.array([[slow_covariance(a, b)[0] for b in slow] for a in slow])
    assert (np.diag(expected) > np.diag(found.episodes)).all()  # else the floor would hide the comparison
    assert found.clips == pytest.approx(expected)
    error, freedom = slow_difference(slow[0], slow[2])
    assert found.difference(0, 2).clips == pytest.approx(error)
    assert found.degrees_of_freedom[0, 2] == pytest.approx(freedom)
    widths = stats.t.ppf(0.975, np.diag(found.degrees_of_freedom)) * np.sqrt(np.diag(expected))
    assert found.half_widths("clips") == pytest.approx(widths)


def test_one_clip_a_unit_is_no_unit():
    plan = plan_of(6, 9, episodes=300, shot=2, way=3)
    right = np.stack(rows_of(plan, 3, 2))
    alone = jackknife_over_clips(right, **arrays(plan), units=np.random.default_rng(0).permutation(54))
    assert alone.clips == pytest.approx(jackknife_over_clips(right, **arrays(plan)).clips, abs=1e-12)


def test_chance_is_what_dealing_clips_gives():
    """`chance_influence` against clips that are dealt to the places of a class at random."""
    rng = np.random.default_rng(4)
    clips = np.stack([rng.permutation(9)[:4] for _ in range(40)])
    of_class = ClassEpisodes(0, rng.normal(0, 1, (2, 40, 2)), rng.normal(0, 1, (2, 40)), (clips,), 2)
    values, dealt = of_class.values, np.zeros((2, 2))
    for _ in range(4000):
        influence = np.zeros((2, 9))
        for e in range(40):
            influence[:, rng.permutation(9)[:4]] += values[:, e]
        influence -= influence.mean(1, keepdims=True)
        dealt += influence @ influence.T / 4000
    chance = chance_influence(of_class, np.zeros(2, int), np.array([9]))
    assert np.diag(dealt) == pytest.approx(np.diag(chance), rel=0.1)


def test_degrees_of_freedom_are_their_definition():
    rng = np.random.default_rng(5)
    parts = [a @ a.T for a in rng.normal(0, 1, (6, 2, 4))]
    variances = np.array([[3.0, 1.5], [1.5, 2.0]])

    def freedom_of(parts: list[np.ndarray]) -> np.ndarray:
        of_parts = [np.array([[v[0, 0], v[0, 0] + v[1, 1] - 2 * v[0, 1]], [0, v[1, 1]]]) for v in parts]
        of_parts = [np.triu(v) + np.triu(v, 1).T for v in of_parts]
        return degrees_of_freedom(sum(of_parts), sum(v**2 for v in of_parts), len(parts), variances)

    freedom = freedom_of(parts)
    for a, b in ((0, 0), (1, 1), (0, 1)):
        of_classes = [v[a, a] if a == b else v[a, a] + v[b, b] - 2 * v[a, b] for v in parts]
        assert freedom[a, b] == pytest.approx(2 * variances[a, b] ** 2 / (6 * np.var(of_classes, ddof=1)))
    assert freedom[0, 1] == freedom[1, 0]
    assert np.isinf(freedom_of([parts[0]] * 4)).all()  # classes that agree exactly


def test_the_jackknife_ignores_the_order_of_episodes_and_never_falls_below_the_episodes():
    plan = plan_of(6, 10, episodes=80)
    rng = np.random.default_rng(2)
    right = rng.integers(0, 2, (3, 80, 5)).astype(float)
    uncertainty, order = jackknife_over_clips(right, **arrays(plan)), rng.permutation(80)
    shuffled = jackknife_over_clips(right[:, order], **{name: array[order] for name, array in arrays(plan).items()})
    assert uncertainty.clips == pytest.approx(shuffled.clips)
    assert (np.diag(uncertainty.clips) >= np.diag(uncertainty.episodes) - 1e-12).all()
    same = jackknife_over_clips(right[[0, 0]], **arrays(plan))
    assert same.difference(0, 1).clips == 0
    assert p_value(right[[0, 0]], same) == 1


def test_unknown_errors_make_nothing_significant():
    assert Difference(0.0, 0.0, 9, 29).p_value(5.0) == 1  # an error of 0 on few episodes
    assert Difference(0.0, 0.0, 9, 30).p_value(5.0) == 0
    assert Difference(1.0, None, 9, 100).p_value(50.0) == 1
    assert Difference(1.0, None, 9, 100).half_width() is None
    plan = plan_of(6, 2, episodes=80)  # every episode of a class holds all its clips
    right = np.stack([np.ones((80, 5)), np.zeros((80, 5))])
    uncertainty = jackknife_over_clips(right, **arrays(plan))
    assert np.isnan(uncertainty.clips).all()
    assert np.isnan(uncertainty.half_widths("clips")).all()
    blind = jackknife_over_clips(right, **arrays(plan), ignores_supports=np.array([True, False]))
    assert blind.difference(0, 0).clips == 0  # no support can be missed by a row that ignores them
    assert np.isnan(blind.clips[1]).all()
    of_one = jackknife_over_clips(right, **arrays(plan_of(6, 9, episodes=80)), units=np.arange(54) // 9)
    assert np.isnan(of_one.clips).all()  # all clips of a class are of one recording
    assert uncertainty.half_widths("episodes").tolist() == [0, 0]
    assert p_value(right, uncertainty) == 1


def test_class_interval_by_hand():
    classes = np.array(list(combinations(range(4), 2)))
    right = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1], [0, 0]], float)
    accuracy = right.mean(1)
    without = np.array([accuracy[[k not in row for row in classes]].mean() for k in range(4)])
    expected = 100 * stats.t.ppf(0.975, 3) * math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    assert class_interval(right, classes) == pytest.approx(expected)
    assert class_interval(right[:3], classes[:3]) is None  # class 0 is in all of them


def test_pair_accuracy_counts_ties_half():
    assert pair_accuracy(np.array([1, 0, 2, 255])) == (50.0, 3)


def least(draws: int, rate: float) -> int:
    """The fewest hits in that many draws that are compatible with a rate (one-sided, 0.1 %)."""
    return int(stats.binom.ppf(0.001, draws, rate))


def most(draws: int, rate: float) -> int:
    """The most hits in that many draws that are compatible with a rate (one-sided, 0.1 %)."""
    return int(stats.binom.ppf(0.999, draws, rate))


def test_all_pairs_are_corrected_together():
    plan = plan_of(10, 40, episodes=400)
    right = np.stack(rows_of(plan, 3, 9, shift=-0.02))
    right[2] *= np.random.default_rng(9).random(right[2].shape) < 0.6
    uncertainty, accuracy = jackknife_over_clips(right, **arrays(plan)), 100 * right.mean((1, 2))
    raw = np.array(
        [[uncertainty.difference(a, b).p_value(accuracy[a] - accuracy[b]) for b in range(3)] for a in range(3)]
    )
    p = adjusted(raw)
    assert [p[0, 1], p[0, 2], p[1, 2]] == pytest.approx(holm(raw[[0, 0, 1], [1, 2, 2]]))
    assert (p == p.T).all()
    best, worst = rank_intervals(accuracy, p)
    assert list(zip(best, worst, strict=True)) == [(1, 2), (1, 2), (3, 3)]
