"""Intervals, paired tests and tie groups: by hand, against scipy, against slow loops, and in simulations with a known truth."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from fsar_bench.leaderboard.intervals import (
    Difference,
    Spread,
    adjusted,
    class_interval,
    episode_accuracy,
    episode_interval,
    holm,
    pair_accuracy,
    seed_interval,
    spread,
    tie_ranks,
    unpaired,
)
from fsar_bench.plan import ClipList, EpisodePlan


def plan_of(
    classes: int, clips: int, *, episodes: int, shot: int = 1, query: int = 1, way: int = 5, seed: int = 0
) -> EpisodePlan:
    clip_list = ClipList.of([(f"{c:03d}", f"{c:03d}_{i:03d}") for c in range(classes) for i in range(clips)])
    return EpisodePlan.sample(clip_list, way=way, shot=shot, query=query, episodes=episodes, seed=seed, purpose="test")


def p_value(right: np.ndarray, found: Spread) -> float:
    """Of the first two rows."""
    return found.difference(0, 1).p_value(100 * float(right[0].mean() - right[1].mean()))


def arrays(plan: EpisodePlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return plan.classes, plan.support, plan.query


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
    found = spread(right, classes, support, query)
    assert (found.count, found.clips.shape) == (3, (2, 2))
    # Deviations from the mean: A (1/6, -1/3, 1/6), B 0; covariance over episodes = sum of squares / (E (E - 1)).
    assert found.episodes == pytest.approx(1e4 * np.array([[1 / 36, 0], [0, 0]]))
    # Over clips, the difference is A's alone.
    assert found.difference(0, 1).clips == pytest.approx(math.sqrt(found.clips[0, 0]))
    assert found.difference(0, 1).episodes == pytest.approx(100 / 6)


def test_scipy_agrees():
    rng = np.random.default_rng(0)
    plan = plan_of(10, 20, episodes=200)
    right = (rng.random((2, 200, 5)) < np.array([0.7, 0.6])[:, None, None]).astype(float)
    accuracy = 100 * right.mean(2)
    found = spread(right, *arrays(plan))
    assert np.sqrt(np.diag(found.episodes)) == pytest.approx([stats.sem(row) for row in accuracy])
    assert found.half_widths("episodes")[0] == pytest.approx(episode_interval(accuracy[0]))
    error, difference = found.difference(0, 1), accuracy[0].mean() - accuracy[1].mean()
    assert difference / error.episodes == pytest.approx(stats.ttest_rel(*accuracy).statistic)
    over_episodes = Difference(error.episodes, error.episodes, 199, 200)  # Student's t, as scipy has it
    assert over_episodes.p_value(difference) == pytest.approx(stats.ttest_rel(*accuracy).pvalue)
    low, high = stats.ttest_rel(*accuracy).confidence_interval(0.95)
    assert over_episodes.half_width() == pytest.approx((high - low) / 2)
    a, b = (spread(row[None], *arrays(plan)) for row in right)
    as_episodes = [Spread(x.episodes, x.episodes, np.full((1, 1), 199.0), 200) for x in (a, b)]
    welch = stats.ttest_ind(*accuracy, equal_var=False)
    assert unpaired(*as_episodes).p_value(difference) == pytest.approx(welch.pvalue)
    assert unpaired(*as_episodes).freedom == pytest.approx(welch.df)
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
    p[0, 1] = p[1, 0] = 0.5  # not told from the best, though the second is better
    assert tie_ranks(accuracy, p).tolist() == [1, 1, 1, 4]


def slow_spread(right, classes, support, query) -> tuple[np.ndarray, np.ndarray]:
    """The definition of `spread` over clips, loop by loop: covariance, and degrees of freedom before they are bounded."""
    R, E, _ = right.shape
    N, K, q = support.shape[1], support.shape[2], query.shape[2]
    M = E * N * q
    places = []  # (episode, class, clip, value of each row) of every place that a clip takes
    for k in np.unique(classes):
        held = [(e, int(np.flatnonzero(classes[e] == k)[0])) for e in range(E) if k in classes[e]]
        own = np.mean([[right[:, e, n * q + i] for i in range(q)] for e, n in held], axis=(0, 1))
        whole = np.mean([right[:, e].sum(1) for e, _ in held], axis=0)
        for e, n in held:
            places += [(e, k, query[e, n, i], right[:, e, n * q + i] - own) for i in range(q)]
            places += [(e, k, support[e, n, i], right[:, e].sum(1) - whole) for i in range(K)]
    parts, used = [], len({clip for _, _, clip, _ in places})
    for k in np.unique(classes):
        mine = [place for place in places if place[1] == k]
        clips = sorted({clip for _, _, clip, _ in mine})
        n = len(clips)
        weight = n / (n - 1) * ((n - 1) / (n - q - K)) ** 2
        psi = np.array([sum(value for _, _, clip, value in mine if clip == c) / M for c in clips])
        psi = psi - psi.mean(0)
        chance = np.zeros((R, R))
        for e in {place[0] for place in mine}:
            z = np.array([value for episode, _, _, value in mine if episode == e])
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
def test_spread_is_its_definition(shot, query):
    plan = plan_of(5, 9, episodes=900, shot=shot, query=query, way=3)
    rng = np.random.default_rng(1)
    clip = rng.normal(0, 3.0, 45)
    z = clip[plan.query].reshape(900, -1)
    right = (np.stack([z, z + 0.3]) > rng.logistic(0, 1, (2, 900, 3 * query))).astype(float)
    found, (slow, freedom) = spread(right, *arrays(plan)), slow_spread(right, *arrays(plan))
    assert (np.diag(slow) > np.diag(found.episodes)).all()  # else the floor would hide the comparison
    assert found.clips == pytest.approx(slow)
    assert found.freedom == pytest.approx(np.maximum(freedom, 2))  # (5 classes - 1) / 2
    widths = stats.t.ppf(0.975, np.diag(found.freedom)) * np.sqrt(np.diag(slow))
    assert found.half_widths("clips") == pytest.approx(widths)


def test_spread_ignores_the_order_of_episodes_and_never_falls_below_the_episodes():
    plan = plan_of(6, 10, episodes=80)
    rng = np.random.default_rng(2)
    right = rng.integers(0, 2, (3, 80, 5)).astype(float)
    found, order = spread(right, *arrays(plan)), rng.permutation(80)
    shuffled = spread(right[:, order], *(a[order] for a in arrays(plan)))
    assert found.clips == pytest.approx(shuffled.clips)
    assert (np.diag(found.clips) >= np.diag(found.episodes) - 1e-12).all()
    same = spread(right[[0, 0]], *arrays(plan))
    assert same.difference(0, 1).clips == 0
    assert p_value(right[[0, 0]], same) == 1


def test_what_cannot_be_known_is_not_told():
    assert Difference(0.0, 0.0, 9, 29).p_value(5.0) == 1  # an error of 0 on few episodes
    assert Difference(0.0, 0.0, 9, 30).p_value(5.0) == 0
    assert Difference(1.0, None, 9, 100).p_value(50.0) == 1
    assert Difference(1.0, None, 9, 100).half_width() is None
    plan = plan_of(6, 2, episodes=80)  # every episode of a class holds all its clips
    right = np.stack([np.ones((80, 5)), np.zeros((80, 5))])
    found = spread(right, *arrays(plan))
    assert found.clips is None
    assert found.half_widths("clips") is None
    assert found.half_widths("episodes").tolist() == [0, 0]
    assert p_value(right, found) == 1


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


# Simulations: a query is right with a probability that depends on its own clip, the support of its class and those of the others.
CLASSES, CLIPS, EPISODES, DRAWS = 10, 40, 2000, 1000
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


def draw(plan: EpisodePlan, rng: np.random.Generator, shifts: tuple[float, ...], own: float = 0.0) -> np.ndarray:
    """Right queries `[R, E, Q]` of methods on one fresh pool of clips; `own` is how much clips suit one method only."""
    query, support = rng.normal(0, 1, CLASSES * CLIPS), rng.normal(0, 0.7, CLASSES * CLIPS)
    of_support = support[plan.support].mean(2)
    rivals = (of_support.sum(1, keepdims=True) - of_support) / 4
    z = logit(DIFFICULTY[plan.classes], query[plan.query[..., 0]], of_support, rivals)
    shared = rng.logistic(0, 1, z.shape)
    out = []
    for shift in shifts:
        mine = rng.normal(0, own, CLASSES * CLIPS)[plan.query[..., 0]] if own else 0.0
        noise = np.where(rng.random(z.shape) < 0.7, shared, rng.logistic(0, 1, z.shape)) if len(shifts) > 1 else shared
        out.append(z + shift + mine > noise)
    return np.stack(out).astype(float)


def test_interval_over_clips_covers_the_truth_where_that_over_episodes_does_not(capsys):
    true, covered = truth(), {"episodes": 0, "clips": 0}
    for number in range(DRAWS):
        plan = plan_of(CLASSES, CLIPS, episodes=EPISODES, seed=number)
        right = draw(plan, np.random.default_rng([7, number]), (0.0,))
        found, accuracy = spread(right, *arrays(plan)), 100 * right.mean()
        for kind in covered:
            covered[kind] += int(abs(accuracy - true) <= found.half_widths(kind)[0])
    with capsys.disabled():
        print(f"\n{DRAWS} draws, coverage of 95 % intervals: {covered} (in {DRAWS})")
    assert 0.93 * DRAWS <= covered["clips"] <= 0.97 * DRAWS
    assert covered["episodes"] < 0.8 * DRAWS


@pytest.mark.parametrize("shot", [1, 5])
def test_paired_test_holds_its_level_and_beats_the_unpaired(capsys, shot):
    draws, level = 400, 0.05
    plans = [
        plan_of(CLASSES, CLIPS, episodes=3000 if shot > 1 else 600, shot=shot, seed=number) for number in range(20)
    ]
    rejected = {"null": 0, "paired": 0, "unpaired": 0}
    for number in range(draws):
        plan = plans[number % len(plans)]
        rng = np.random.default_rng([8, number])
        null = draw(plan, rng, (0.0, 0.0), own=0.5)
        rejected["null"] += int(p_value(null, spread(null, *arrays(plan))) < level)
        apart = draw(plan, rng, (0.12, 0.0), own=0.1)
        rejected["paired"] += int(p_value(apart, spread(apart, *arrays(plan))) < level)
        each = (spread(row[None], *arrays(plan)) for row in apart)
        rejected["unpaired"] += int(unpaired(*each).p_value(100 * float(apart[0].mean() - apart[1].mean())) < level)
    with capsys.disabled():
        print(f"\n{draws} draws at {shot} shots, rejected at 5 %: {rejected}")
    assert rejected["null"] <= 0.085 * draws
    assert rejected["null"] >= 0.01 * draws
    assert rejected["paired"] > 2 * rejected["unpaired"]


def test_all_pairs_are_corrected_together():
    plan = plan_of(CLASSES, CLIPS, episodes=400)
    right = draw(plan, np.random.default_rng(9), (0.4, 0.4, -0.6))
    found, accuracy = spread(right, *arrays(plan)), 100 * right.mean((1, 2))
    raw = np.array([[found.difference(a, b).p_value(accuracy[a] - accuracy[b]) for b in range(3)] for a in range(3)])
    p = adjusted(raw)
    assert [p[0, 1], p[0, 2], p[1, 2]] == pytest.approx(holm(raw[[0, 0, 1], [1, 2, 2]]))
    assert (p == p.T).all()
    assert tie_ranks(accuracy, p).tolist() == [1, 1, 3]
