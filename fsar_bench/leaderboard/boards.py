"""Boards: rows that share their episodes, with intervals, paired tests and ranks; known statistics come from a cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from fsar_bench.episodes import EpisodePlan
from fsar_bench.errors import ResultError
from fsar_bench.results import Result, Stored, to_json, write_atomically
from fsar_bench.settings import canonical
from fsar_bench.statistics import (
    class_interval,
    holm,
    p_value,
    seed_interval,
    spread,
    tie_ranks,
)

VERSION = 1  # of what is cached; raised when the statistics change
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
            value: object = seed.cost
            for name in names:
                value = value.get(name) if isinstance(value, dict) else None
            found.append(value)
        numbers = [v for v in found if isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v)]
        return fmean(numbers) if len(numbers) == len(found) else None

    def rate(self, count: float | None, stage: str) -> float | None:
        """Things a second of a stage ("encode" or "score"); None where the cost files do not tell."""
        seconds = self.cost("seconds", stage)
        return count / seconds if count and seconds else None


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
    plan, p = EpisodePlan.load(stored.plan_file), stored.result.protocol
    fits = plan.query.shape == (p.episodes, p.way, p.query) and plan.support.shape == (p.episodes, p.way, p.shot)
    if (plan.digest, plan.realised) != (p.plan, p.realised) or not fits:
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
        self._cache = cache

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
        )

    def plan(self, row: Row) -> EpisodePlan:
        """The episodes of a row as they were on its machine.

        Raises:
            ResultError: the plan is missing, damaged, or not the one that the result names.
        """
        return checked_plan(row.seeds[0])

    @cached_property
    def _statistics(self) -> dict:
        """Numbers of the rows and adjusted p-values of their pairs, from the cache or computed."""
        content = [VERSION, [[row.realised, [s.result.predictions for s in row.seeds]] for row in self.rows]]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        path = self._cache and self._cache / "boards" / f"{name}.json"
        for row in self.rows:
            need_plan(row.seeds[0])  # also where the statistics are known
        if path and path.is_file():
            try:
                found = json.loads(path.read_bytes())
                if len(found["numbers"]) == len(self.rows) == len(found["p"]):
                    return found
            except (OSError, ValueError, KeyError, TypeError):
                pass  # damaged: computed again
        found = _compute(self)
        if path:
            write_atomically(path, to_json(found))
        return found

    @property
    def numbers(self) -> list[Numbers]:
        """Of each row, in their order."""
        return [Numbers(**{**row, "classwise": tuple(row["classwise"])}) for row in self._statistics["numbers"]]

    @property
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
    raw = np.ones((len(rows), len(rows)))
    widths: dict[str, np.ndarray] = {kind: np.empty(len(rows)) for kind in ("episodes", "clips")}
    for realised, plan in plans.items():
        mine = [i for i, row in enumerate(rows) if row.realised == realised]
        spread_ = spread(right[mine], plan.classes, plan.support, plan.query)
        for kind, out in widths.items():
            out[mine] = spread_.half_widths(kind)
        for a, i in enumerate(mine):
            for b, j in enumerate(mine[:a]):
                if len(plan) > 1:  # one episode tells nothing apart
                    raw[i, j] = raw[j, i] = p_value(accuracy[i] - accuracy[j], spread_.difference(a, b))
    for i, row in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            if row.realised != other.realised:
                one, two = plans[row.realised], plans[other.realised]
                raw[i, j] = raw[j, i] = _on_shared(right[[i, j]], one, two)
    upper = np.triu_indices(len(rows), 1)
    p = np.ones_like(raw)
    p[upper] = holm(raw[upper])
    p = np.minimum(p, p.T)
    ranks = tie_ranks(accuracy, p)
    numbers = []
    for i, row in enumerate(rows):
        plan = plans[row.realised]
        numbers.append(
            {
                "rank": int(ranks[i]),
                "accuracy": round(float(accuracy[i]), DIGITS),
                "episodes": _rounded(widths["episodes"][i] if len(plan) > 1 else None),
                "clips": _rounded(widths["clips"][i] if len(plan) > 1 else None),
                "classes": _rounded(class_interval(right[i], plan.classes)),
                "seeds": _rounded(seed_interval(np.array([s.result.metrics.accuracy for s in row.seeds]))),
                "classwise": _classwise(right[i], plan, row.result.dataset.classes),
            }
        )
    return {"numbers": numbers, "p": [[float(f"{value:.4g}") for value in line] for line in p]}


def shared_episodes(one: EpisodePlan, two: EpisodePlan) -> np.ndarray:
    """Which episodes hold the same clips in two realisations of a plan, bool `[E]`."""
    return (one.support == two.support).all((1, 2)) & (one.query == two.query).all((1, 2))


def _on_shared(right: np.ndarray, one: EpisodePlan, two: EpisodePlan) -> float:
    """p-value of the difference of two rows `[2, E, Q]` on the episodes that they share; 1 where these are fewer than two."""
    same = shared_episodes(one, two)
    if same.sum() < 2:
        return 1.0
    right = right[:, same]
    spread_ = spread(right, one.classes[same], one.support[same], one.query[same])
    return p_value(100 * float(right[0].mean() - right[1].mean()), spread_.difference(0, 1))


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
