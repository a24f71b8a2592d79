"""Boards: rows that share their episodes, with intervals, paired tests and ranks; known statistics come from a cache."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from fsar_bench.config.overrides import canonical
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.intervals import FEW, adjusted, class_interval, seed_interval, spread, tie_ranks, unpaired
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.store import Result, Stored, remember

VERSION = 2  # of what is cached; raised when the statistics change
DIGITS = 4  # of accuracies and intervals; their last bits depend on the machine


@dataclass(frozen=True)
class Row:
    """One line of a table: a method, in one training or several that differ in train.seed alone."""

    seeds: tuple[Stored, ...]

    @property
    def result(self) -> Result:
        return self.seeds[0].result

    @property
    def title(self) -> str:
        """Title of the method; control rows are marked."""
        control = " (control)" if self.result.method.name in self.result.dataset.controls else ""
        return self.result.method.title + control

    @property
    def changed(self) -> set[str]:
        """Keys that its title names as set otherwise than in its config."""
        found = re.search(r" \(([^()]*)\)$", self.result.method.title)
        return {pair.partition("=")[0] for pair in found[1].split(", ")} if found else set()

    @property
    def accuracy(self) -> float:
        """Percent, the mean over seeds."""
        return fmean(seed.result.metrics.accuracy for seed in self.seeds)

    @property
    def pair_accuracy(self) -> float | None:
        """Percent, the mean over seeds; None where the dataset has no pairs."""
        found = [seed.result.metrics.pair_accuracy for seed in self.seeds]
        return None if None in found else fmean(found)

    @property
    def realised(self) -> str:
        return self.result.protocol.realised

    def right(self) -> np.ndarray:
        """Share of seeds in which each query was right, float64 `[E, Q]`."""
        return np.mean([seed.right() for seed in self.seeds], 0)

    def cost(self, *names: str) -> float | None:
        """A number of the cost files, the mean over seeds; None where one lacks it."""
        found = []
        for seed in self.seeds:
            value = getattr(seed.cost, names[0])
            found.append(value.get(names[1]) if len(names) > 1 else value)
        return None if None in found else fmean(found)

    def rate(self, count: float | None, stage: str) -> float | None:
        """Things a second of a stage ("encode" or "score"); None where the cost files do not tell."""
        seconds = self.cost("seconds", stage)
        return count / seconds if count and seconds and seconds > 1e-6 else None


@dataclass(frozen=True)
class Numbers:
    """What is measured of a row, in percent, and its rank. None: not known.

    Attributes:
        rank: rows that can't be told from the best share rank 1, and so on; see `statistics.tie_ranks`.
        episodes: half-width of the 95 % interval over episodes.
        clips: over clips.
        classes: over classes.
        seeds: over training seeds.
        classwise: accuracy by class number.
    """

    rank: int
    accuracy: float
    episodes: float | None
    clips: float | None
    classes: float | None
    seeds: float | None
    classwise: tuple[float | None, ...]


def need_plan(stored: Stored) -> None:
    """Raise `ResultError` unless the plan of a result is there."""
    if not stored.plan_file.is_file():
        raise ResultError(
            f"The episode plan {stored.plan_file} of {stored.folder} is missing. Copy plans/ along with results/, or run the "
            "cell again with overwrite=true."
        )


def checked_plan(stored: Stored) -> EpisodePlan:
    """The episodes of a result as they were on its machine.

    Raises:
        ResultError: the plan is missing, damaged, or not the one that the result names.
    """
    need_plan(stored)
    plan, p, d = EpisodePlan.load(stored.plan_file), stored.result.protocol, stored.result.dataset
    said = {"list": d.list_hash, "way": p.way, "shot": p.shot, "query": p.query, "episodes": p.episodes, "seed": p.seed}
    said["purpose"] = p.split
    fits = plan.query.shape == (p.episodes, p.way, p.query) and plan.support.shape == (p.episodes, p.way, p.shot)
    fits = fits and plan.classes.max() < d.classes and max(plan.query.max(), plan.support.max()) < d.clips
    if (
        (plan.digest, plan.realised) != (p.plan, p.realised)
        or not fits
        or any(plan.header.get(k) != v for k, v in said.items())
    ):
        raise ResultError(f"{stored.plan_file} is not the plan that {stored.folder} names. Copy the right one there.")
    return plan


class Board:
    """Rows of one dataset, protocol and plan: the only ones that may be ranked together.

    Args:
        rows: in any order.
        cache: folder of statistics computed before, by content; None keeps nothing.
    """

    def __init__(self, rows: list[Row], cache: Path | None = None) -> None:
        self.rows = sorted(rows, key=lambda row: (-row.accuracy, row.title, row.result.config_hash))
        self._cache, self._plans = cache, {}

    @property
    def first(self) -> Result:
        return self.rows[0].result

    @property
    def page(self) -> str:
        """Name of its page, without extension."""
        p = self.first.protocol
        return f"{self.first.dataset.name}-{p.way}way_{p.shot}shot"

    @property
    def title(self) -> str:
        p, d = self.first.protocol, self.first.dataset
        synthetic = " (synthetic)" if d.synthetic else ""
        return f"{d.title}{synthetic}, {p.way}-way {p.shot}-shot"

    @property
    def note(self) -> str:
        p, d = self.first.protocol, self.first.dataset
        return (
            f"{p.episodes} episodes, {p.query} query a class, {d.classes} {p.split} classes, {d.clips} clips, {p.frames} frames; "
            f"plan {p.plan[:12]}, seed {p.seed}, class texts {p.template!r}, reader {p.reader}."
            + (" Supports share no source recording with queries of their class." if p.group_disjoint else "")
            + "".join(
                f" Coverage {100 * c:.2f} %: missing clips are replaced within their episodes."
                for c in sorted({row.result.dataset.coverage for row in self.rows})
                if c < 1
            )
            + ("" if self.few_clips is None else f" {self.few_clips}")
        )

    @property
    def few_clips(self) -> str | None:
        """What to say where classes have too few clips for intervals over clips, or for trusting them."""
        p, fewest = self.first.protocol, self._statistics["fewest"]
        if fewest <= p.shot + p.query:
            return "Some classes have no more clips than an episode takes: no intervals over clips, no row told from another."
        if fewest < 2 * (p.shot + p.query):
            return f"Classes of only {fewest} clips: intervals over clips are too narrow."
        return None

    def plan(self, row: Row) -> EpisodePlan:
        """The episodes of a row as they were on its machine.

        Raises:
            ResultError: the plan is missing, damaged, or not the one that the result names.
        """
        key = (row.realised, row.result.dataset.classes, row.result.dataset.clips)
        if key not in self._plans:
            self._plans[key] = checked_plan(row.seeds[0])
        return self._plans[key]

    @cached_property
    def _statistics(self) -> dict:
        """Numbers of the rows and adjusted p-values of their pairs, from the cache or computed."""
        content: list = [VERSION]
        for row in self.rows:
            need_plan(row.seeds[0])
            content.append([row.realised, row.result.dataset.classes, [s.result.predictions for s in row.seeds]])
        files = sorted({row.seeds[0].plan_file for row in self.rows})
        content.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        path = self._cache and self._cache / "boards" / f"{name}.json"
        if path and path.is_file():
            try:
                found = json.loads(path.read_bytes())
                if len(found["numbers"]) == len(self.rows) == len(found["p"]) and isinstance(found["fewest"], int):
                    return found
            except (OSError, ValueError, KeyError, TypeError):
                pass  # damaged: computed again
        found = _compute(self)
        if path:
            remember(path, found)
        return found

    @cached_property
    def numbers(self) -> list[Numbers]:
        """Of each row, in their order."""
        return [Numbers(**{**row, "classwise": tuple(row["classwise"])}) for row in self._statistics["numbers"]]

    @cached_property
    def p(self) -> np.ndarray:
        """p-values of all pairs of rows over clips, adjusted for their number (Holm), `[R, R]`."""
        return np.array(self._statistics["p"]).reshape(len(self.rows), len(self.rows))


def _compute(board: Board) -> dict:
    rows = board.rows
    plans: dict[str, EpisodePlan] = {}
    for row in rows:
        plans.setdefault(row.realised, board.plan(row))
    right = np.stack([row.right() for row in rows])
    accuracy = np.array([row.accuracy for row in rows])
    spreads, widths = {}, {}
    for realised, plan in plans.items():
        mine = [i for i, row in enumerate(rows) if row.realised == realised]
        spreads[realised] = mine, spread(right[mine], plan.classes, plan.support, plan.query)
        for kind in ("episodes", "clips"):
            found = spreads[realised][1].half_widths(kind)
            known = found is not None and len(plan) > 1
            widths |= {(kind, i): float(found[a]) if known else None for a, i in enumerate(mine)}
    raw = np.ones((len(rows), len(rows)))
    for mine, spread_ in spreads.values():
        for a, i in enumerate(mine):
            for b, j in enumerate(mine[:a]):
                raw[i, j] = raw[j, i] = spread_.difference(a, b).p_value(accuracy[i] - accuracy[j])
    for i, row in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            if row.realised != other.realised:
                one, two = plans[row.realised], plans[other.realised]
                raw[i, j] = raw[j, i] = _between_plans(right[[i, j]], one, two)
    p = adjusted(raw)
    ranks = tie_ranks(accuracy, p)
    numbers = []
    for i, row in enumerate(rows):
        plan = plans[row.realised]
        numbers.append(
            {
                "rank": int(ranks[i]),
                "accuracy": round(float(accuracy[i]), DIGITS),
                "episodes": _rounded(widths["episodes", i]),
                "clips": _rounded(widths["clips", i]),
                "classes": _rounded(class_interval(right[i], plan.classes)),
                "seeds": _rounded(seed_interval(np.array([s.result.metrics.accuracy for s in row.seeds]))),
                "classwise": _classwise(right[i], plan, row.result.dataset.classes),
            }
        )
    fewest = min(_fewest(plan) for plan in plans.values())
    return {"numbers": numbers, "p": [[float(f"{value:.4g}") for value in line] for line in p], "fewest": fewest}


def _fewest(plan: EpisodePlan) -> int:
    """Clips of the class of which the fewest appear."""
    clips = np.concatenate([plan.support, plan.query], 2)
    of_class = np.broadcast_to(plan.classes[..., None], clips.shape)
    pairs = np.unique(np.stack([of_class.ravel(), clips.ravel()], 1), axis=0)
    return int(np.unique(pairs[:, 0], return_counts=True)[1].min())


def shared_episodes(one: EpisodePlan, two: EpisodePlan) -> np.ndarray:
    """Which episodes hold the same clips in two realisations of a plan, bool `[E]`."""
    return (one.support == two.support).all((1, 2)) & (one.query == two.query).all((1, 2))


def _between_plans(right: np.ndarray, one: EpisodePlan, two: EpisodePlan) -> float:
    """p-value of the difference of two rows `[2, E, Q]`: paired on shared episodes, unpaired where these are fewer than `FEW`."""
    same = shared_episodes(one, two)
    if same.sum() < FEW:
        apart = [spread(r[None], p.classes, p.support, p.query) for r, p in zip(right, (one, two), strict=True)]
        return unpaired(*apart).p_value(100 * float(right[0].mean() - right[1].mean()))
    right = right[:, same]
    spread_ = spread(right, one.classes[same], one.support[same], one.query[same])
    return spread_.difference(0, 1).p_value(100 * float(right[0].mean() - right[1].mean()))


def _classwise(right: np.ndarray, plan: EpisodePlan, classes: int) -> list[float | None]:
    flat = plan.classes.ravel()
    asked = np.bincount(flat, minlength=classes) * plan.query.shape[2]
    good = np.bincount(flat, right.reshape(len(flat), -1).sum(1), minlength=classes)
    return [round(100 * g / a, 2) if a else None for g, a in zip(good.tolist(), asked.tolist(), strict=True)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def same_episodes(result: Result) -> dict:
    """What rows must share to be ranked together, by field. Clips that are missing are shown instead (coverage)."""
    p, d = result.protocol, result.dataset
    return {
        "dataset": d.name,
        "way": p.way,
        "shot": p.shot,
        "plan": p.plan,
        "frames": p.frames,
        "sampling": p.sampling,
        "class_names": p.class_names,
        "reader": p.reader,
        "list": d.list_hash,
    }


def boards(stored: list[Stored], cache: Path | None = None) -> list[Board]:
    """Boards in a fixed order: rows share one only if episodes, clips, frames, class texts and reader are identical.

    Rows on incomplete data join those on complete data; complete data of another content is another board.
    """

    def key(one: Stored) -> tuple:
        return tuple(same_episodes(one.result).values())

    out = []
    for _, group in groupby(sorted(stored, key=key), key=key):
        mine = list(group)
        contents = sorted({s.result.dataset.fingerprint for s in mine if s.result.dataset.coverage == 1})
        if len(contents) < 2:
            out.append(Board(_rows(mine), cache))
            continue
        for content in [*contents, None]:
            some = [
                s for s in mine if (s.result.dataset.fingerprint if s.result.dataset.coverage == 1 else None) == content
            ]
            if some:
                out.append(Board(_rows(some), cache))
    return out


def _rows(stored: list[Stored]) -> list[Row]:
    """Trainings that differ in their seed alone are one row."""

    def key(one: Stored) -> str:
        r = one.result
        train = {k: v for k, v in (r.method.train or {}).items() if k != "seed"}
        backbone = [r.backbone.name, r.backbone.weights, r.backbone.activation, r.backbone.precision, r.backbone.mean]
        return canonical([r.method.name, r.method.title, r.method.config, train, backbone, r.protocol.realised])

    def seed(one: Stored) -> tuple:
        return (one.result.method.train or {}).get("seed", one.result.protocol.seed), one.result.config_hash

    groups: dict[str, list[Stored]] = {}
    for one in sorted(stored, key=seed):
        groups.setdefault(key(one), []).append(one)
    out = []
    for group in groups.values():
        several = len({seed(one)[0] for one in group}) == len(group) and group[0].result.training_key is not None
        out += [Row(tuple(group))] if several else [Row((one,)) for one in group]
    return out
