"""Boards with a known truth, made without any code of fsar_bench: what `statistics_audit` measures the statistics against.

Two generators draw a *pool* of clips and the outcomes of methods in episodes of these clips:

- *geometry*: clips are points in a space of 12 dimensions, methods are projections of it, and a query goes to the nearest mean
  of supports. So a support acts on all queries of its episode, some classes are easily confused, and some clips are hard as
  query and as support alike. Its truth, the accuracy over fresh clips of the same classes, is the mean over a large number of
  episodes, each with clips of its own.
- *linear*: the probability that a query is right is a sum of effects of clips. It is less like features, but its variance over
  fresh clips and episodes is known exactly.

Sizes: R methods, E episodes of N classes with K supports and q queries per class, Q = N q, C classes of n clips, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator

WAY = 5
DIMENSIONS, PROJECTED = 12, 6
OUTLIERS, OUTLYING = 0.06, 3.0  # share of outlier clips, and how much farther from their class they are
_CHUNK = 4_000  # fresh episodes at a time

# Clips per class of published test lists: what counts is how many and how uneven, so names are left out.
HMDB51 = (103, 106, 106, 109, 116, 120, 128, 130, 142, 232)
SSV2_FULL = (
    17, 18, 23, 24, 33, 40, 58, 68, 74, 79, 83, 88, 103, 116, 127, 137, 170, 199, 201, 218, 234, 236, 239, 272,
)  # fmt: skip
KINETICS = (100,) * 24
SYNTHACT = (16,) * 37
UNEVEN = (17, 25, 33, 40, 58, 68, 74, 83, 88, 103)
TEN_BY_129 = (129,) * 10
TEN_BY_40 = (40,) * 10
FIVE_BY_6 = (6,) * 5
# Clips per recording of classes of the lists of UCF101 (25 recordings a class) and HMDB51 (few long films, many short ones).
UCF101_RECORDINGS = (
    (4,) * 20 + (5, 5, 6, 6, 7), (4,) * 8 + (5,) * 4 + (6,) * 5 + (7,) * 8, (4,) * 6 + (5,) + (6,) * 5 + (7,) * 13,
    (4,) * 11 + (5,) * 7 + (6,) * 3 + (7,) * 4, (4,) * 10 + (5,) * 8 + (6,) * 5 + (7,) * 2,
    (4,) * 2 + (5,) * 2 + (6,) * 7 + (7,) * 14, (4,) * 16 + (5,) + (6,) * 2 + (7,) * 6, (6,) * 9 + (7,) * 16,
    (4,) * 17 + (5,) * 6 + (6,) * 2, (4,) * 6 + (5,) * 7 + (6,) * 10 + (7,) * 2,
)  # fmt: skip
HMDB51_RECORDINGS = (
    (7,) + (6,) * 6 + (5,) * 2 + (4,) * 9 + (3,) * 4 + (2,) * 5 + (1,) * 5,
    (28, 17, 16, 13, 9, 5) + (4,) * 4 + (3,) * 2 + (2,) * 4 + (1,) * 12,
    (11, 9, 7, 6, 6) + (5,) * 4 + (4,) * 9 + (3,) * 3 + (2,) * 7 + (1,) * 10,
    (6, 5) + (4,) * 3 + (3,) * 9 + (2,) * 12 + (1,) * 32,
    (4,) + (3,) * 25 + (2,) * 8 + (1,) * 11,
    (6,) * 5 + (5,) + (3,) * 22 + (2,),
    (17, 15, 12, 10, 10, 8, 8, 6, 6) + (5,) * 3 + (4,) * 5 + (3,) * 13 + (2,) * 19 + (1,) * 28,
    (10, 7, 6) + (5,) * 3 + (4,) * 4 + (3,) * 5 + (2,) * 16 + (1,) * 41,
    (8, 6) + (4,) * 5 + (3,) * 17 + (2,) * 6 + (1,) * 12,
    (22, 10, 9, 6) + (5,) * 3 + (4,) + (3,) * 3 + (2,) * 15 + (1,) * 15,
)  # fmt: skip
FILMS_IN_TWO_CLASSES = 78  # of HMDB51


@dataclass(frozen=True)
class Pool:
    """Clips of C classes, counted through class after class.

    Attributes:
        sizes: clips per class, `[C]`.
        unit: recording of each clip, `[clips]`, from 0; recordings may have clips of several classes.
    """

    sizes: np.ndarray
    unit: np.ndarray

    @property
    def class_of(self) -> np.ndarray:
        """Class of each clip, `[clips]`."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def has_recordings(self) -> bool:
        """Whether some recording has more than one clip."""
        return int(self.unit.max()) + 1 < len(self.unit)


def independent(sizes: tuple[int, ...]) -> Pool:
    """Pool in which each clip is a recording of its own."""
    return Pool(np.array(sizes), np.arange(sum(sizes)))


def recorded(recordings: tuple[tuple[int, ...], ...], in_two_classes: int = 0) -> Pool:
    """Pool with recordings.

    Args:
        recordings: clips of each recording of each class.
        in_two_classes: how many recordings have clips of two classes: recording i of a class and of the next one are the same,
            for classes in pairs and i = 0, 1, ...
    """
    numbers, unit = 0, []
    for k, of_class in enumerate(recordings):
        ids = np.arange(numbers, numbers + len(of_class))
        numbers += len(of_class)
        if k % 2:
            pairs = len(recordings) // 2
            same = min(in_two_classes // pairs + (k // 2 < in_two_classes % pairs), len(ids), len(recordings[k - 1]))
            ids[:same] = ids[0] - len(recordings[k - 1]) + np.arange(same)
        unit.append(np.repeat(ids, of_class))
    return Pool(np.array([sum(r) for r in recordings]), np.unique(np.concatenate(unit), return_inverse=True)[1])


class Plan(NamedTuple):
    """Episodes: classes `[E, N]`, supports `[E, N, K]` and queries `[E, N, q]` as numbers of clips that are counted through."""

    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray


def distinct(rng: Rng, size: np.ndarray, count: int) -> np.ndarray:
    """As many different numbers below `size` `[...]`, all sequences of them alike, int64 `[..., count]`.

    Number i is uniform among those that are left, counted in ascending order.
    """
    out = np.empty((*size.shape, count), np.int64)
    for i in range(count):
        value = (rng.random(size.shape) * (size - i)).astype(np.int64)
        earlier = np.sort(out[..., :i], axis=-1)
        for j in range(i):
            value += value >= earlier[..., j]
        out[..., i] = value
    return out


def draw_plan(rng: Rng, sizes: np.ndarray, episodes: int, shot: int = 1, query: int = 1) -> Plan:
    """Episodes of `WAY` classes; all choices of classes, and of clips of a class, are equally likely."""
    classes = distinct(rng, np.full(episodes, len(sizes)), WAY)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    clips = first[classes][..., None] + distinct(rng, sizes[classes], shot + query)
    return Plan(classes, clips[..., query:], clips[..., :query])


def plans_with_missing(rng: Rng, size: int, classes: int, episodes: int, shot: int, share: float) -> tuple[Plan, Plan]:
    """The same episodes with all clips, and without a random share of them; one query per class, all classes of one size.

    The next clip in a random order of the class takes the place of a missing one: the first that is there is the query, the
    last ones that are there are the supports.
    """
    of_episode = distinct(rng, np.full(episodes, classes), WAY)
    order = np.argsort(rng.random((episodes, WAY, size)), axis=2)
    clips = of_episode[..., None] * size + order
    is_missing = rng.random(classes * size) < share
    present = np.take_along_axis(clips, np.argsort(is_missing[clips], axis=2, kind="stable"), axis=2)
    count = (~is_missing[clips]).sum(2)
    if count.min() < shot + 1:
        raise ValueError(f"{share:.0%} of {size} clips missing leave too few for {shot} shots")
    last = count[..., None] - 1 - np.arange(shot)
    return (
        Plan(of_episode, clips[..., : -shot - 1 : -1], clips[..., :1]),
        Plan(of_episode, np.take_along_axis(present, last, axis=2), present[..., :1]),
    )


@dataclass(frozen=True)
class Geometry:
    """Classes as clouds of points in D = 12 dimensions.

    A clip is the mean of its class plus the spread of the class times a deviation. A deviation is normal with a scale of its own,
    log-normal and three times as large for 6 % of clips (outliers): heavy tails. Where clips have recordings, the share `alike`
    of the variance of a clip's deviation is that of its recording.

    Attributes:
        means: of the classes, `[C, D]`.
        spreads: of the classes, `[C]`.
        alike: 0 to 1.
    """

    means: np.ndarray
    spreads: np.ndarray
    alike: float = 0.0

    def points(self, rng: Rng, class_of: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Fresh clips of these classes, and of recordings numbered from 0, `[clips, D]`."""
        deviation = _deviations(rng, len(class_of))
        if self.alike:
            of_units = _deviations(rng, int(unit.max()) + 1)[unit]
            deviation = np.sqrt(self.alike) * of_units + np.sqrt(1 - self.alike) * deviation
        return self.means[class_of] + self.spreads[class_of, None] * deviation


def _deviations(rng: Rng, count: int) -> np.ndarray:
    scale = np.exp(rng.normal(0, 0.35, count)) * np.where(rng.random(count) < OUTLIERS, OUTLYING, 1.0)
    return scale[:, None] * rng.normal(0, 1, (count, DIMENSIONS))


@dataclass(frozen=True)
class Methods:
    """R methods: projections of clips, plus noise that each method has for each clip.

    Methods look at the same clips and agree in most of their errors.

    Attributes:
        projections: `[R, D, projected]`.
        noise: standard deviation, `[R]`.
    """

    projections: np.ndarray
    noise: np.ndarray

    def features(self, rng: Rng, points: np.ndarray) -> np.ndarray:
        """Features of clips, `[R, clips, projected]`."""
        out = points @ self.projections
        for of_method, noise in zip(out, self.noise, strict=True):
            if noise:
                of_method += noise * rng.normal(0, 1, of_method.shape)
        return out

    @property
    def first(self) -> Methods:
        """The first method alone."""
        return Methods(self.projections[:1], self.noise[:1])

    def trained(self, rng: Rng, effect: float) -> Methods:
        """Another training of each method: a random change of its projection, of that size."""
        return replace(self, projections=self.projections + effect * rng.normal(0, 1, self.projections.shape))


def outcomes(features: np.ndarray, plan: Plan) -> np.ndarray:
    """1 where the mean of the supports of its class is the nearest to a query, float `[R, E, Q]`."""
    E, N, q = plan.query.shape
    label = np.repeat(np.arange(N), q)
    out = np.empty((len(features), E, N * q))
    for row, of_method in zip(out, features, strict=True):
        prototype = of_method[plan.support].mean(2)
        query = of_method[plan.query].reshape(E, N * q, -1)
        closeness = query @ prototype.transpose(0, 2, 1) - (prototype**2).sum(2)[:, None] / 2
        row[:] = closeness.argmax(2) == label
    return out


def symmetric_classes(rng: Rng, count: int, flips: int) -> tuple[Geometry, np.ndarray]:
    """Classes that are mirror images of each other, and the mirrors: methods that differ by a mirror are of equal merit.

    A mirror changes the signs of some blocks of three coordinates. If a set of classes is its own image, and deviations have no
    direction, then a method behind a mirror has on the image of each class exactly the accuracy over fresh clips that the method
    itself has on the class: over all classes both have the same, with different accuracies of classes.

    Classes come in pairs of small distance, with uneven spreads.

    Args:
        rng: for the classes.
        count: C.
        flips: number of blocks that mirrors flip: 2^flips mirrors; classes that do not fill an orbit of the mirrors lie on all
            of them.

    Returns:
        The classes, and the signs of each mirror, `[2^flips, D]`; the first changes nothing.
    """
    signs = np.ones((2**flips, DIMENSIONS))
    for block in range(flips):
        signs[(np.arange(2**flips) >> block) % 2 == 1, 3 * block : 3 * block + 3] = -1
    orbits, others = divmod(count, 2**flips)
    base = _in_pairs(rng, orbits)
    if flips == 3:
        base[:, 6:9] *= 0.4  # images in this mirror are close pairs
    means = [(signs * of_orbit).reshape(-1, DIMENSIONS) for of_orbit in base]
    on_mirrors = _in_pairs(rng, others) * (np.arange(DIMENSIONS) >= 3 * flips)
    spreads = np.concatenate(
        [np.repeat(np.exp(rng.normal(0, 0.25, orbits)), 2**flips), np.exp(rng.normal(0, 0.25, others))]
    )
    return Geometry(np.concatenate([*means, on_mirrors]), spreads), signs


def _in_pairs(rng: Rng, count: int) -> np.ndarray:
    """Points of which number 1 is close to number 0, 3 to 2, and so on, `[count, D]`."""
    points = rng.normal(0, 1, (count, DIMENSIONS))
    points[1::2] = points[0 : 2 * (count // 2) : 2] + 0.5 * points[1::2]
    return points


def any_classes(rng: Rng, centres: np.ndarray, count: int, scale: float) -> Geometry:
    """Independent random classes: each near one of some fixed centres, so that some are close to each other.

    Args:
        rng: for the classes.
        centres: `[centres, D]`.
        count: C.
        scale: of the distances between classes.
    """
    near = centres[rng.integers(0, len(centres), count)]
    means = scale * (near + 0.5 * rng.normal(0, 1, near.shape))
    return Geometry(means, np.exp(rng.normal(0, 0.25, count)))


def fresh_outcomes(rng: Rng, geometry: Geometry, pool: Pool, methods: Methods, plan: Plan) -> np.ndarray:
    """Outcomes of episodes that share no clip, `[R, E, Q]`.

    Each episode has fresh clips of the classes of its plan; clips that share a recording in the plan share a fresh one.
    """
    K = plan.support.shape[2]
    clips = np.concatenate([plan.support, plan.query], axis=2)
    E, N, places = clips.shape
    unit = np.arange(clips.size)
    if geometry.alike:
        of_place = pool.unit[clips].reshape(E, -1)
        first = (of_place[:, :, None] == of_place[:, None, :]).argmax(
            2
        )  # place of the first clip of the same recording
        unit = (np.arange(E)[:, None] * N * places + first).ravel()
    points = geometry.points(rng, np.repeat(plan.classes.ravel(), places), unit)
    number = np.arange(clips.size).reshape(clips.shape)
    features = methods.features(rng, points)
    return outcomes(features, Plan(plan.classes, number[..., :K], number[..., K:]))


def true_accuracy(
    rng: Rng, geometry: Geometry, pool: Pool, methods: Methods, *, shot: int, episodes: int, training: float = 0.0
) -> np.ndarray:
    """Accuracy over fresh clips of the same classes in percent, `[R]`, by that many independent episodes.

    Args:
        rng: for clips and episodes.
        geometry: the classes.
        pool: says which places of an episode have the same recording.
        methods: R methods.
        shot: K.
        episodes: E.
        training: size of the effect of a training, see `Methods.trained`; if it is not 0, 200 trainings share the episodes.
    """
    chunk = -(-episodes // 200) if training else _CHUNK
    total, done = np.zeros(len(methods.noise)), 0
    while done < episodes:
        some = methods.trained(rng, training) if training else methods
        plan = draw_plan(rng, pool.sizes, min(chunk, episodes - done), shot)
        total += fresh_outcomes(rng, geometry, pool, some, plan).mean(2).sum(1)
        done += len(plan.classes)
    return 100 * total / done


@dataclass(frozen=True)
class Linear:
    """Outcomes whose probability is linear in effects of clips, so that their variance is known exactly.

    A query of class k is right with probability

        p = mu_k + a[query] + mean over the K supports s of its class of b[s] + sum over the other classes of the episode of the
        mean of g[s] over their K supports,

    independently of other queries. The effects of a clip of class k are s_k (0.15 u, 0.12 v, 0.03 w) with u, v and w of 1 or -1,
    v = u in 3 of 4 clips, w = u in 3 of 4; fresh clips have fresh effects with mean 0. All p are in [0.01, 0.99].

    The variance of the accuracy A over fresh pools and episodes. Episodes are independent given the pool, so

        Var A = Var alpha + E Var(S | pool) / (E Q^2),

    alpha the expected accuracy of an episode given the pool, S the number of right queries of one episode. An episode holds
    class k with probability N / C, each query is any of its n_k clips, and a support moves S by h = q (b + (N - 1) g) / K:

        alpha = const + N / (C Q) sum_k (q mean of a + K mean of h over the clips of k),
        Var alpha = 1 / C^2 sum_k v_k / n_k,    v_k = Var(a + b + (N - 1) g) in class k.

    E Var(S | pool) = Var S - Q^2 Var alpha; and since all clips of an episode are different,

        Var S = q^2 N (1 - N / C) S_mu^2                              (which classes; S_mu^2 with C - 1)
              + N mean_k (q Var a + K Var h)                          (which clips)
              + Q (mean_k mu_k (1 - mu_k) - mean_k (Var a + Var b / K + (N - 1) Var g / K))   (outcomes given p),

    where the last line uses E p (1 - p) = E p (1 - E p) - Var p, and a class other than k is any with the same probability.

    Attributes:
        pool: of the sizes n_k.
        mu: `[C]`.
        size: s_k, `[C]`.
        effects: of a clip as query, as support of its class, and as support of another one, for s_k = 1.
        same: share of clips in which v is u, and of those in which w is u.
    """

    pool: Pool
    mu: np.ndarray
    size: np.ndarray
    effects: tuple[float, float, float] = (0.15, 0.12, 0.03)
    same: float = 0.75

    @classmethod
    def of(cls, sizes: tuple[int, ...]) -> Linear:
        """With class means of 0.45 to 0.55 and effects of uneven size."""
        count = len(sizes)
        return cls(independent(sizes), np.linspace(0.45, 0.55, count), np.linspace(1.0, 0.6, count))

    def draw(self, rng: Rng, plan: Plan) -> np.ndarray:
        """Outcomes of one method on one fresh pool, `[1, E, Q]`."""
        clips = len(self.pool.unit)
        u = rng.choice([-1.0, 1.0], clips)
        v, w = (np.where(rng.random(clips) < self.same, u, -u) for _ in range(2))
        a, b, g = (x * size * self.size[self.pool.class_of] for x, size in zip((u, v, w), self.effects, strict=True))
        of_rivals = g[plan.support].mean(2)
        others = of_rivals.sum(1, keepdims=True) - of_rivals
        of_class = self.mu[plan.classes] + b[plan.support].mean(2) + others
        p = of_class[..., None] + a[plan.query]
        return (rng.random(p.shape) < p).reshape(1, len(p), -1).astype(float)

    def over_clips(self) -> float:
        """Var alpha in squared percent: what stays with any number of episodes."""
        a, b, g = self.effects
        same = 2 * self.same - 1  # correlation of u and v, and of u and w; that of v and w is its square
        h = (WAY - 1) * g
        of_unit = a**2 + b**2 + h**2 + 2 * same * a * b + 2 * same * a * h + 2 * same**2 * b * h
        return float(1e4 * (of_unit * self.size**2 / self.pool.sizes).sum() / len(self.mu) ** 2)

    def of_one_episode(self, shot: int, query: int) -> float:
        """Var S / Q^2 in squared percent."""
        a, b, g = self.effects
        same = 2 * self.same - 1
        C, N, Q, size = len(self.mu), WAY, WAY * query, float((self.size**2).mean())
        h = (query / shot) ** 2 * (b**2 + ((N - 1) * g) ** 2 + 2 * same**2 * b * (N - 1) * g) * size
        classes = query**2 * N * (1 - N / C) * float(self.mu.var(ddof=1))
        clips = N * (query * a**2 * size + shot * h)
        of_p = (a**2 + b**2 / shot + (N - 1) * g**2 / shot) * size
        return 1e4 * (classes + clips + Q * (float((self.mu * (1 - self.mu)).mean()) - of_p)) / Q**2

    def variance(self, episodes: int, shot: int, query: int) -> float:
        """Var A in squared percent."""
        return self.over_clips() + (self.of_one_episode(shot, query) - self.over_clips()) / episodes
