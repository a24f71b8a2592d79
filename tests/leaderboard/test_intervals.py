"""Intervals, paired tests and tie groups: by hand, against scipy, against slow loops, and in simulations with a known truth."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from fsar_bench.leaderboard.intervals import adjusted, class_interval, holm, seed_interval, tie_ranks
from fsar_bench.leaderboard.jackknife import (
    ClassEpisodes,
    ClassInfluence,
    Difference,
    Places,
    Uncertainty,
    chance_influence,
    class_contribution,
    degrees_of_freedom,
    jackknife_over_clips,
    unpaired,
)
from fsar_bench.plan import ClipList, EpisodePlan
from fsar_bench.results.metrics import episode_accuracy, episode_interval, pair_accuracy


def plan_of(
    classes: int, clips: int, *, episodes: int, shot: int = 1, query: int = 1, way: int = 5, seed: int = 0
) -> EpisodePlan:
    clip_list = ClipList.of([(f"{c:03d}", f"{c:03d}_{i:03d}") for c in range(classes) for i in range(clips)])
    return EpisodePlan.sample(clip_list, way=way, shot=shot, query=query, episodes=episodes, seed=seed, purpose="test")


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
    a, b = (jackknife_over_clips(row[None], **arrays(plan)) for row in right)
    as_episodes = [Uncertainty(x.episodes, x.episodes, np.full((1, 1), 199.0), 200) for x in (a, b)]
    welch = stats.ttest_ind(*accuracy, equal_var=False)
    assert unpaired(*as_episodes).p_value(difference) == pytest.approx(welch.pvalue)
    assert unpaired(*as_episodes).degrees_of_freedom == pytest.approx(welch.df)
    seeds = np.array([70.0, 71.5, 69.2])
    low, high = stats.t.interval(0.95, 2, loc=seeds.mean(), scale=stats.sem(seeds))
    assert seed_interval(seeds) == pytest.approx((high - low) / 2)
    assert seed_interval(seeds[:1]) is None


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).shape == (0,)


def test_tie_ranks_by_hand():
    accuracy = np.array([70.0, 80.0, 79.0, 60.0])
    p = np.ones((4, 4))
    for a, b in ((0, 1), (1, 3), (2, 3), (0, 3), (0, 2)):
        p[a, b] = p[b, a] = 0.01
    assert tie_ranks(accuracy, p).tolist() == [3, 1, 1, 4]
    p[0, 1] = p[1, 0] = 0.5  # not significantly different from the best, though the second is better
    assert tie_ranks(accuracy, p).tolist() == [1, 1, 1, 4]


def slow_jackknife(right, classes, support, query) -> tuple[np.ndarray, np.ndarray]:
    """The definition of `jackknife_over_clips`, loop by loop: covariance, and degrees of freedom before they are bounded."""
    R, E, _ = right.shape
    N, K, q = support.shape[1], support.shape[2], query.shape[2]
    M = E * N * q
    places = []  # (episode, class, clip, value of each row) of every place that a clip takes
    for k in np.unique(classes):
        held = [(e, int(np.flatnonzero(classes[e] == k)[0])) for e in range(E) if k in classes[e]]
        of_class = np.mean([[right[:, e, n * q + i] for i in range(q)] for e, n in held], axis=(0, 1))
        whole = np.mean([right[:, e].sum(1) for e, _ in held], axis=0)
        for e, n in held:
            places += [(e, k, query[e, n, i], right[:, e, n * q + i] - of_class) for i in range(q)]
            places += [(e, k, support[e, n, i], right[:, e].sum(1) - whole) for i in range(K)]
    parts, used = [], len({clip for _, _, clip, _ in places})
    for k in np.unique(classes):
        of_class = [place for place in places if place[1] == k]
        clips = sorted({clip for _, _, clip, _ in of_class})
        n = len(clips)
        weight = n / (n - 1) * ((n - 1) / (n - q - K)) ** 2
        psi = np.array([sum(value for _, _, clip, value in of_class if clip == c) / M for c in clips])
        psi = psi - psi.mean(0)
        chance = np.zeros((R, R))
        for e in {place[0] for place in of_class}:
            z = np.array([value for episode, _, _, value in of_class if episode == e])
            chance += z.T @ z - np.outer(z.sum(0), z.sum(0)) / n
        parts.append(weight * (psi.T @ psi - chance / M**2))
    often = max(M / used, 2.0)
    parts = np.array(parts) * often / (often - 1)
    accuracy = right.mean(2) - right.mean((1, 2))[:, None]
    over_episodes = accuracy @ accuracy.T / (E * (E - 1))
    whole = parts.sum(0) + over_episodes
    freedom = np.empty((R, R))
    for a in range(R):
        for b in range(R):
            sign = np.eye(R)[a] - (np.eye(R)[b] if a != b else 0)
            of_classes = np.array([sign @ part @ sign for part in parts])
            variance = max(sign @ whole @ sign, sign @ over_episodes @ sign)
            freedom[a, b] = 2 * variance**2 / (len(parts) * of_classes.var(ddof=1))
    return 1e4 * whole, freedom


@pytest.mark.parametrize(("shot", "query"), [(1, 1), (3, 1), (2, 2)])
def test_the_jackknife_is_its_definition(shot, query):
    plan = plan_of(5, 9, episodes=900, shot=shot, query=query, way=3)
    rng = np.random.default_rng(1)
    clip = rng.normal(0, 3.0, 45)
    z = clip[plan.query].reshape(900, -1)
    right = (np.stack([z, z + 0.3]) > rng.logistic(0, 1, (2, 900, 3 * query))).astype(float)
    uncertainty, (slow, freedom) = jackknife_over_clips(right, **arrays(plan)), slow_jackknife(right, **arrays(plan))
    assert (np.diag(slow) > np.diag(uncertainty.episodes)).all()  # else the floor would hide the comparison
    assert uncertainty.clips == pytest.approx(slow)
    assert uncertainty.degrees_of_freedom == pytest.approx(np.maximum(freedom, 2))  # (5 classes - 1) / 2
    widths = stats.t.ppf(0.975, np.diag(uncertainty.degrees_of_freedom)) * np.sqrt(np.diag(slow))
    assert uncertainty.half_widths("clips") == pytest.approx(widths)


def class_episodes(number: int = 2, shot: int = 2, query: int = 2):
    """A class of a small plan, as the functions of the jackknife and as (episode, place) pairs."""
    plan = plan_of(5, 9, episodes=60, shot=shot, query=query, way=3)
    right = np.random.default_rng(3).integers(0, 2, (2, 60, 3 * query)).astype(float)
    places = Places.of(plan.classes, plan.support, plan.query)
    of_class, influence = ClassEpisodes.of(number, right, places), ClassInfluence.none(2, places, number)
    influence.add(of_class)
    held = [(e, n) for e in range(60) for n in range(3) if plan.classes[e, n] == number]
    return of_class, influence, plan, right, held


def slow_influence(plan: EpisodePlan, right: np.ndarray, held: list[tuple[int, int]]) -> np.ndarray:
    """Psi of each clip of a class times M, clip by clip and row by row."""
    q = plan.query.shape[2]
    clips = sorted({int(c) for e, n in held for c in (*plan.query[e, n], *plan.support[e, n])})
    psi = np.zeros((len(right), len(clips)))
    for row, y in enumerate(right):
        query_mean = np.mean([y[e, n * q + i] for e, n in held for i in range(q)])
        episode_mean = np.mean([y[e].sum() for e, _ in held])
        for place, clip in enumerate(clips):
            for e, n in held:
                psi[row, place] += sum(y[e, n * q + i] - query_mean for i in range(q) if plan.query[e, n, i] == clip)
                psi[row, place] += (y[e].sum() - episode_mean) * int((plan.support[e, n] == clip).sum())
        psi[row] -= psi[row].mean()
    return psi


def test_clip_influence_is_its_definition():
    of_class, influence, plan, right, held = class_episodes()
    assert of_class.clip_count == 9
    assert influence.psi == pytest.approx(slow_influence(plan, right, held))


def test_class_contribution_is_its_definition():
    """With the expectation over random deals by a formula, and by dealing."""
    of_class, influence, plan, right, held = class_episodes()
    psi, q, K, n, M = slow_influence(plan, right, held), 2, 2, 9, 60 * 6
    values = [  # of the places of the class in each of its episodes, `[rows, q + K]`
        np.concatenate([of_class.query_values[:, e], np.repeat(of_class.support_values[:, e, None], K, axis=1)], axis=1)
        for e in range(len(held))
    ]
    chance = sum(z @ z.T - np.outer(z.sum(1), z.sum(1)) / n for z in values)
    assert chance_influence(of_class) == pytest.approx(chance)
    weight = n / (n - 1) * ((n - 1) / (n - q - K)) ** 2
    assert class_contribution(influence, M) == pytest.approx(weight * (psi @ psi.T - chance) / M**2)
    rng, dealt = np.random.default_rng(4), np.zeros((2, 2))
    for _ in range(3000):
        influence = np.zeros((2, n))
        for z in values:
            influence[:, rng.permutation(n)[: q + K]] += z
        influence -= influence.mean(1, keepdims=True)
        dealt += influence @ influence.T / 3000
    assert np.diag(dealt) == pytest.approx(np.diag(chance), rel=0.1)


def test_degrees_of_freedom_are_their_definition():
    rng = np.random.default_rng(5)
    parts = [a @ a.T for a in rng.normal(0, 1, (6, 2, 4))]
    variances = np.array([[3.0, 1.5], [1.5, 2.0]])

    def freedom_of(parts: list[np.ndarray]) -> np.ndarray:
        of_parts = [np.array([[v[0, 0], v[0, 0] + v[1, 1] - 2 * v[0, 1]], [0, v[1, 1]]]) for v in parts]
        of_parts = [np.triu(v) + np.triu(v, 1).T for v in of_parts]
        return degrees_of_freedom(sum(of_parts), sum(v**2 for v in of_parts), len(parts), variances, 4.0)

    freedom = freedom_of(parts)
    for a, b in ((0, 0), (1, 1), (0, 1)):
        of_classes = [4 / 3 * (v[a, a] if a == b else v[a, a] + v[b, b] - 2 * v[a, b]) for v in parts]
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
    assert uncertainty.clips is None
    assert uncertainty.half_widths("clips") is None
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


# Simulations: a query is right with a probability that depends on its clip, the support of its class and those of the others.
CLASSES, CLIPS, EPISODES = 10, 40, 2000
DIFFICULTY = np.random.default_rng(5).normal(0.5, 0.8, CLASSES)  # of the classes, which are fixed


def logit(difficulty, query, support, rivals) -> np.ndarray:
    return difficulty + query + support - 0.5 * rivals


def truth(shift: float = 0.0) -> float:
    """Accuracy over fresh clips, by a large sample."""
    rng = np.random.default_rng(6)
    n = 2_000_000
    rivals = rng.normal(0, 0.7, (4, n)).mean(0)
    z = logit(DIFFICULTY[rng.integers(0, CLASSES, n)], rng.normal(0, 1, n), rng.normal(0, 0.7, n), rivals) + shift
    return float(100 * (1 / (1 + np.exp(-z))).mean())


def draw(plan: EpisodePlan, rng: np.random.Generator, shifts: tuple[float, ...], affinity: float = 0.0) -> np.ndarray:
    """Right queries `[R, E, Q]` of methods on one fresh pool of clips; `affinity` is how much clips suit one method only."""
    query, support = rng.normal(0, 1, CLASSES * CLIPS), rng.normal(0, 0.7, CLASSES * CLIPS)
    of_support = support[plan.support].mean(2)
    rivals = (of_support.sum(1, keepdims=True) - of_support) / 4
    z = logit(DIFFICULTY[plan.classes], query[plan.query[..., 0]], of_support, rivals)
    shared = rng.logistic(0, 1, z.shape)
    out = []
    for shift in shifts:
        liking = rng.normal(0, affinity, CLASSES * CLIPS)[plan.query[..., 0]] if affinity else 0.0
        noise = np.where(rng.random(z.shape) < 0.7, shared, rng.logistic(0, 1, z.shape)) if len(shifts) > 1 else shared
        out.append(z + shift + liking > noise)
    return np.stack(out).astype(float)


def least(draws: int, rate: float) -> int:
    """The fewest hits in that many draws that are compatible with a rate (one-sided, 0.1 %)."""
    return int(stats.binom.ppf(0.001, draws, rate))


def most(draws: int, rate: float) -> int:
    """The most hits in that many draws that are compatible with a rate (one-sided, 0.1 %)."""
    return int(stats.binom.ppf(0.999, draws, rate))


@pytest.mark.parametrize("draws", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_interval_over_clips_covers_the_truth_where_that_over_episodes_does_not(capsys, draws):
    true, covered = truth(), {"episodes": 0, "clips": 0}
    for number in range(draws):
        plan = plan_of(CLASSES, CLIPS, episodes=EPISODES, seed=number)
        right = draw(plan, np.random.default_rng([7, number]), (0.0,))
        uncertainty, accuracy = jackknife_over_clips(right, **arrays(plan)), 100 * right.mean()
        for kind in covered:
            covered[kind] += int(abs(accuracy - true) <= uncertainty.half_widths(kind)[0])
    with capsys.disabled():
        print(f"\n{draws} draws, coverage of 95 % intervals: {covered} (in {draws})")
    assert least(draws, 0.95) <= covered["clips"] <= most(draws, 0.96)
    assert covered["episodes"] < least(draws, 0.8)


@pytest.mark.parametrize("draws", [200, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shot", [1, 5])
def test_paired_test_holds_its_level_and_beats_the_unpaired(capsys, shot, draws):
    level = 0.05
    plans = [
        plan_of(CLASSES, CLIPS, episodes=3000 if shot > 1 else 600, shot=shot, seed=number) for number in range(20)
    ]
    rejected = {"null": 0, "paired": 0, "unpaired": 0}
    for number in range(draws):
        plan = plans[number % len(plans)]
        rng = np.random.default_rng([8, number])
        null = draw(plan, rng, (0.0, 0.0), affinity=0.5)
        rejected["null"] += int(p_value(null, jackknife_over_clips(null, **arrays(plan))) < level)
        different = draw(plan, rng, (0.12, 0.0), affinity=0.1)
        rejected["paired"] += int(p_value(different, jackknife_over_clips(different, **arrays(plan))) < level)
        each = (jackknife_over_clips(row[None], **arrays(plan)) for row in different)
        difference = 100 * float(different[0].mean() - different[1].mean())
        rejected["unpaired"] += int(unpaired(*each).p_value(difference) < level)
    with capsys.disabled():
        print(f"\n{draws} draws at {shot} shots, rejected at 5 %: {rejected}")
    assert least(draws, 0.025) <= rejected["null"] <= most(draws, level)
    assert rejected["paired"] > 2 * rejected["unpaired"]


def test_all_pairs_are_corrected_together():
    plan = plan_of(CLASSES, CLIPS, episodes=400)
    right = draw(plan, np.random.default_rng(9), (0.4, 0.4, -0.6))
    uncertainty, accuracy = jackknife_over_clips(right, **arrays(plan)), 100 * right.mean((1, 2))
    raw = np.array(
        [[uncertainty.difference(a, b).p_value(accuracy[a] - accuracy[b]) for b in range(3)] for a in range(3)]
    )
    p = adjusted(raw)
    assert [p[0, 1], p[0, 2], p[1, 2]] == pytest.approx(holm(raw[[0, 0, 1], [1, 2, 2]]))
    assert (p == p.T).all()
    assert tie_ranks(accuracy, p).tolist() == [1, 1, 3]
