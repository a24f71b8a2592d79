"""Rows of a table: stored results, with training seeds grouped, and what rows must share to be ranked together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from fsar_bench.config.settings import Protocol
from fsar_bench.io import canonical
from fsar_bench.results.record import Cost, Result
from fsar_bench.results.store import Stored

AS_IS = Protocol.model_fields["frames_as"].default


@dataclass(frozen=True)
class Row:
    """One line of a table: a method, in one training or in several that differ in the training's seed alone.

    Attributes:
        seeds: the results of the trainings, by seed.
        controls: the same method where it was shown other frames (`frames_as`), a row for each kind.
        mark: tells it from another row of its board with the same title, such as one of another version of its code.
    """

    seeds: tuple[Stored, ...]
    mark: str = ""
    controls: tuple[Row, ...] = ()

    @property
    def result(self) -> Result:
        """The result of the first seed."""
        return self.seeds[0].result

    @property
    def title(self) -> str:
        """Title of the method with its changed settings; controls and submitted predictions are marked."""
        return title_of(self.result) + self.mark

    @property
    def is_trained(self) -> bool:
        """Whether another training could give other predictions."""
        return self.result.traits.trainable or self.result.training_key is not None

    @property
    def accuracy(self) -> float:
        """Percent, the mean over seeds."""
        return fmean(seed.result.metrics.accuracy for seed in self.seeds)

    @property
    def pair_accuracy(self) -> float | None:
        """Percent, the mean over seeds; None where the dataset has no pairs."""
        return _mean([seed.result.metrics.pair_accuracy for seed in self.seeds])

    @property
    def realised(self) -> str:
        """Hash of the episodes as they were on the machine of the result."""
        return self.result.episodes.realised

    def beside(self, control: Row) -> tuple[Row, Row]:
        """This row and a control of it, each with the trainings that both have."""
        mine = {each.result.training_key: each for each in self.seeds}
        both = [each for each in control.seeds if each.result.training_key in mine]
        return Row(tuple(mine[each.result.training_key] for each in both)), Row(tuple(both))

    def right(self) -> np.ndarray:
        """Share of seeds in which each query was right, float64 `[E, Q]`.

        Raises:
            ResultError: predictions are missing or damaged.
        """
        total = self.seeds[0].right().astype(float)
        for seed in self.seeds[1:]:
            total += seed.right()
        return total / len(self.seeds)

    @property
    def train_seconds(self) -> float | None:
        """Mean over seeds; None where nothing was trained or a cost is unknown."""
        return self._cost(lambda cost: cost.seconds.train)

    @property
    def videos_per_second(self) -> float | None:
        """Encoding rate; None where it is unknown."""
        return _rate(self._cost(lambda cost: cost.videos), self._cost(lambda cost: cost.seconds.encode))

    @property
    def episodes_per_second(self) -> float | None:
        """Scoring rate; None where it is unknown."""
        return _rate(self.result.protocol.episodes, self._cost(lambda cost: cost.seconds.score))

    @property
    def memory_mb(self) -> float | None:
        """Peak memory in MB (10^6 bytes), of the GPU if there was one, else of the host; the mean over seeds."""
        return self._cost(lambda cost: cost.memory_mb)

    def _cost(self, read: Callable[[Cost], float | None]) -> float | None:
        """Mean of a cost over seeds; None where one lacks it, and for submitted predictions, which were not run here."""
        return _mean([None if seed.result.submitted else read(seed.cost) for seed in self.seeds])


def title_of(result: Result, hidden: Mapping[str, str] | None = None) -> str:
    """Title of a result's row, without settings that are told elsewhere."""
    label = result.cell.label.without(hidden or {})
    return label.row + " (control)" * label.control + " (submitted)" * result.submitted


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _rate(count: float | None, seconds: float | None) -> float | None:
    return count / seconds if count and seconds and seconds > 1e-6 else None


def is_control(stored: Stored) -> bool:
    """Whether the method was shown other frames than those of the clips: such a result is no row of a table."""
    return stored.result.protocol.frames_as != AS_IS


def with_controls(rows: list[Row], controls: list[Stored]) -> list[Row]:
    """Rows with those controls that differ from them in the frames alone."""
    of_row: dict[str, list[Row]] = {}
    for control in group_seeds(controls):
        of_row.setdefault(_without_seed(control.result, frames_as=False), []).append(control)
    out = []
    for row in rows:
        own = of_row.get(_without_seed(row.result, frames_as=False), [])
        known = [control for control in own if row.beside(control)[0].seeds]
        known.sort(key=lambda control: control.result.protocol.frames_as)
        out.append(replace(row, controls=tuple(known)) if known else row)
    return out


def group_seeds(stored: list[Stored]) -> list[Row]:
    """Rows of some results: those that differ in their training's seed alone share one."""
    groups: dict[str, list[Stored]] = {}
    for each in sorted(stored, key=lambda each: (each.result.cell.identity.training_seed, each.result.config_hash)):
        groups.setdefault(_without_seed(each.result), []).append(each)
    rows: list[Row] = []
    for group in groups.values():
        seeds = {each.result.cell.identity.training_seed for each in group}
        is_one_row = len(seeds) == len(group) and group[0].result.training_key is not None
        rows += [Row(tuple(group))] if is_one_row else [Row((each,)) for each in group]
    return rows


def _without_seed(result: Result, *, frames_as: bool = True) -> str:
    """Everything that makes a row but the training's seed and, unless `frames_as` says so, the kind of control, as text."""
    identity = result.cell.identity.model_dump(mode="json")
    if not frames_as:
        identity["protocol"].pop("frames_as", None)
    if identity.get("train"):
        identity["train"].pop("seed", None)
    backbone = result.backbone.model_dump(mode="json")
    return canonical([identity, backbone, result.episodes.realised, result.data.recordings, result.submitted])


OF_PLAN = ("dataset", "way", "shot", "plan", "list", "transductive")  # submitted predictions share these alone


def same_episodes(result: Result) -> dict[str, str | int]:
    """What rows must share to be ranked together, by field; missing clips are shown instead (coverage)."""
    p = result.protocol
    return {
        "dataset": result.dataset,
        "way": p.way,
        "shot": p.shot,
        "plan": result.episodes.plan,
        "frames": p.frames,
        "sampling": p.sampling,
        "class_names": result.episodes.class_names,
        "reader": result.frames.reader,
        "list": result.data.list_hash,
        "transductive": result.traits.transductive,
    }


def differing(first: Result, second: Result) -> list[str]:
    """Names of the fields that keep two results from being ranked together."""
    a, b = same_episodes(first), same_episodes(second)
    fields = [field for field in a if a[field] != b[field]]
    if fields == ["plan"]:
        settings = ("query", "episodes", "seed", "group_disjoint")
        changed = [name for name in settings if getattr(first.protocol, name) != getattr(second.protocol, name)]
        return [f"plan ({', '.join(changed)})"] if changed else fields
    if not fields and first.data.coverage == second.data.coverage == 1:
        return [] if first.data.fingerprint == second.data.fingerprint else ["the content of the clips"]
    return fields
