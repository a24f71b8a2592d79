"""How long a run takes: the work of its cells, in units, times the seconds per unit that are known. Pure arithmetic.

Three kinds of units are counted: videos that are trained on (forward and backward), videos that are encoded (forward), and
episodes that are scored. Seconds per unit come from the events of this run and from the costs of stored results; a forward
pass and a training pass are told from each other by `PASSES` where only one of them was measured. Scoring and the start of a
cell count once they were measured: they take seconds where the others take minutes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from time import monotonic
from typing import Literal

from fsar_bench.progress.events import CACHED, CHOOSING, HASHING, STARTING, VALIDATED, VALIDATION, Event

Kind = Literal["train", "encode", "score"]
Source = Literal["method", "backbone", "other pass"]  # measured of the method, of others, or of the other kind of pass
PASSES = 3.0  # seconds of a training pass per second of a forward pass: the backward pass costs twice the forward pass


@dataclass(frozen=True)
class Work:
    """What a cell has to compute.

    Attributes:
        method: cells of one method on one backbone have the same seconds per unit.
        backbone: its encoder, with the number of frames per clip.
        training: cells with the same one share a training; empty where nothing is trained.
        episodes: training episodes.
        episode_videos: clips of a training episode.
        validations: number of validations, the one before the first episode included.
        val_videos: clips that a validation encodes, once for each role.
        val_episodes: episodes that a validation scores.
        videos: clips that the evaluation encodes, once for each role.
        scored: episodes that the evaluation scores.
    """

    method: str
    backbone: str
    training: str = ""
    episodes: int = 0
    episode_videos: int = 0
    validations: int = 0
    val_videos: int = 0
    val_episodes: int = 0
    videos: int = 0
    scored: int = 0

    def units(self) -> dict[Kind, int]:
        """Units of each kind."""
        return {
            "train": self.episodes * self.episode_videos,
            "encode": self.validations * self.val_videos + self.videos,
            "score": self.validations * self.val_episodes + self.scored,
        }

    def trained(self) -> Work:
        """What remains when the training is finished."""
        return replace(self, episodes=0, validations=0)


@dataclass
class _Sum:
    """Seconds and units, added up; the first ones apart, which also pay for caches and processes that later ones find."""

    _first: tuple[float, float] = (0.0, 0.0)
    _rest: tuple[float, float] = (0.0, 0.0)

    @property
    def is_rough(self) -> bool:
        """Whether there are hardly any but the first ones: less than a quarter as many."""
        return 4 * self._rest[1] < self._first[1]

    @property
    def seconds(self) -> float:
        """Seconds; without the first ones where they are not needed."""
        return self._first[0] + self._rest[0] if self.is_rough else self._rest[0]

    @property
    def units(self) -> float:
        """Units; without the first ones where they are not needed."""
        return self._first[1] + self._rest[1] if self.is_rough else self._rest[1]

    def add(self, seconds: float, units: float) -> None:
        """Add some."""
        if not self._first[1]:
            self._first = seconds, units
        else:
            self._rest = self._rest[0] + seconds, self._rest[1] + units


@dataclass
class Rates:
    """Seconds per unit: measured in this run, or else stored with earlier results and corrected by this run's speed."""

    _measured: dict[tuple[Kind, str, str], _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    _stored: dict[tuple[Kind, str, str], _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def measure(self, kind: Kind, work: Work, seconds: float, units: float) -> None:
        """Add what this run took for some units of a cell."""
        self._measured[kind, work.backbone, work.method].add(seconds, units)

    def remember(self, kind: Kind, work: Work, seconds: float, units: float) -> None:
        """Add what a stored result took."""
        if seconds > 0 and units > 0:
            self._stored[kind, work.backbone, work.method].add(seconds, units)

    @property
    def is_rough(self) -> bool:
        """Whether passes were measured so briefly that a first guess may be far off."""
        return any(total.is_rough for (kind, _, _), total in self._measured.items() if kind != "score")

    def seconds(self, kind: Kind, work: Work) -> float | None:
        """Seconds per unit of a cell; None if neither this kind nor, for passes, the other one was measured."""
        known = self._known(kind, work)
        if known is not None or kind == "score":
            return known
        if kind == "train":
            forward = self._known("encode", work)
            return None if forward is None else PASSES * forward
        training = self._known("train", work)
        return None if training is None else training / PASSES

    def source(self, kind: Kind, work: Work) -> Source | None:
        """What `seconds` follows from."""
        tables = (self._measured, self._stored)
        if any(table[own].units for table in tables for own in table if own == (kind, work.backbone, work.method)):
            return "method"
        if self._known(kind, work) is not None:
            return "backbone"
        return "other pass" if self.seconds(kind, work) is not None else None

    def _known(self, kind: Kind, work: Work) -> float | None:
        """Of this method here, of this method in store, of other methods of the backbone here, of those in store."""
        own = (kind, work.backbone, work.method)
        for table, factor in ((self._measured, 1.0), (self._stored, self._speed(kind))):
            if own in table and table[own].units:
                return factor * table[own].seconds / table[own].units
        for table, factor in ((self._measured, 1.0), (self._stored, self._speed(kind))):
            sums = [total for key, total in table.items() if key[:2] == own[:2] and total.units]
            if sums and kind == "encode":  # clips that another method encoded before are quick: no measure of the rest
                return factor * max(total.seconds / total.units for total in sums)
            if sums:
                return factor * sum(total.seconds for total in sums) / sum(total.units for total in sums)
        return None

    def _speed(self, kind: Kind) -> float:
        """Seconds of this run per second in store, over what both have measured; 1 where that is nothing."""
        both = [key for key in self._stored if key[0] == kind and key in self._measured]
        before = sum(
            self._measured[key].units * self._stored[key].seconds / self._stored[key].units
            for key in both
            if self._stored[key].units
        )
        now = sum(self._measured[key].seconds for key in both)
        return now / before if before and now else 1.0


@dataclass
class _Doing:
    """How far the cell that runs is.

    Attributes:
        work: of the cell, corrected by what its events say.
        began: when it began.
        told: when its last event was.
        stage: of its last event.
        done: units that its last event of each stage said were done.
        validated: training episodes before the last validation; None before the first.
    """

    work: Work
    began: float
    told: float
    stage: str = ""
    done: dict[str, int] = field(default_factory=dict)
    validated: int | None = None

    @property
    def validations(self) -> int:
        """Validations that remain, the one that is going on included."""
        if self.validated is None or not self.work.episodes:
            return self.work.validations
        return ceil((self.work.validations - 1) * (1 - self.validated / self.work.episodes))


class Estimate:
    """How long a run still takes, refined by every event.

    Methods that tell of a cell name it by its number; without one they mean the cell that began last.

    Args:
        works: work of each cell, in the order of the run, by its number; None for a cell of which nothing is known.
        rates: what is known beforehand.
        clock: seconds.
        jobs: number of cells that run at a time.
    """

    def __init__(
        self,
        works: Mapping[int, Work | None],
        rates: Rates | None = None,
        clock: Callable[[], float] = monotonic,
        *,
        jobs: int = 1,
    ) -> None:
        self.rates, self.clock, self.jobs = rates or Rates(), clock, jobs
        self.began = clock()
        self._works = dict(works)
        self._trained: set[str] = set()
        self._doing: dict[int, _Doing] = {}  # of cells that run
        self._key = -1  # of the cell that began last
        self._starts: list[float] = []

    def begin(self, key: int) -> None:
        """The cell begins."""
        work, now = self._works.get(key), self.clock()
        self._key = key
        self._doing.pop(key, None)
        if work:
            self._doing[key] = _Doing(self._without_trained(work, self._trainings()), now, now)

    def _trainings(self) -> set[str]:
        """Trainings that are finished or belong to a cell that runs."""
        return self._trained | {doing.work.training for doing in self._doing.values()}

    def tell(self, event: Event, key: int | None = None) -> None:
        """Learn from an event of a cell that runs."""
        doing, now = self._doing.get(self._key if key is None else key), self.clock()
        if doing is None:
            return
        kind, per = _kind(event.stage, doing.work)
        if event.stage == HASHING:  # done once for all cells: it is no part of their start
            doing.began += now - doing.told
            doing.told = now
            return
        if event.stage == VALIDATED:
            doing.validated = event.done
            doing.done = {stage: done for stage, done in doing.done.items() if not stage.startswith(VALIDATION)}
        elif kind:
            self._measure(doing, event, kind, per, now)
        self._correct(doing, event)
        if doing.stage.startswith(STARTING) and not event.stage.startswith(STARTING):
            self._starts.append(now - doing.began)
        doing.stage, doing.told = event.stage, now

    def _measure(self, doing: _Doing, event: Event, kind: Kind, per: int, now: float) -> None:
        """Count the time since the last event; the first event of a stage says where it begins, also after a resume."""
        before = doing.done.get(event.stage)
        if before is not None and event.done > before and event.note != CACHED:
            self.rates.measure(kind, doing.work, now - doing.told, per * (event.done - before))
        if kind == "train" and doing.validated is None:
            doing.validated = event.done - 1
        doing.done[event.stage] = event.done

    def _correct(self, doing: _Doing, event: Event) -> None:
        """What an event says of the work itself: the number of roles, and that the training is over."""
        if event.stage == f"{VALIDATION}encoding":
            doing.work = replace(doing.work, val_videos=event.total)
        elif event.stage in ("encoding", "scoring"):
            doing.work = doing.work.trained()
            if event.stage == "encoding":
                doing.work = replace(doing.work, videos=event.total)

    def end(self, key: int | None = None, *, finished: bool) -> None:
        """The cell ended; its training is finished if the cell is."""
        work = self._leave(key)[1]
        if finished and work and work.training:
            self._trained.add(work.training)

    def postpone(self, key: int | None = None) -> None:
        """The cell is looked at again after the others."""
        key, work = self._leave(key)
        self._works[key] = work

    def _leave(self, key: int | None) -> tuple[int, Work | None]:
        """Forget a cell that ran; its number, and its work as it was known before it began."""
        key = self._key if key is None else key
        self._doing.pop(key, None)
        return key, self._works.pop(key, None)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began

    def remaining(self) -> float | None:
        """Seconds that the run still takes; None as long as too little is known.

        Several jobs share the seconds of all cells, but none of them divides a cell.
        """
        trained, cells = self._trainings(), []
        start = self._start()
        for key, work in self._works.items():
            if work is None:
                return None
            if key in self._doing:
                seconds = self._remaining_of(self._doing[key])
            else:
                seconds = self.seconds(self._without_trained(work, trained))
                seconds = None if seconds is None else seconds + start
            if seconds is None:
                return None
            trained.add(work.training)
            cells.append(seconds)
        return max(sum(cells) / self.jobs, max(cells, default=0.0))

    def _start(self) -> float:
        """Seconds that a cell takes to start; the first one also waits for imports that later ones share."""
        later = self._starts[1:] or self._starts
        return sum(later) / len(later) if later else 0.0

    def total(self) -> float | None:
        """Seconds of the whole run."""
        remaining = self.remaining()
        return None if remaining is None else self.elapsed + remaining

    def seconds(self, work: Work) -> float | None:
        """Seconds of some work; None if a pass of it has no known time."""
        return self._price(work, work.units())

    def _price(self, work: Work, units: Mapping[Kind, float]) -> float | None:
        out = 0.0
        for kind, count in units.items():
            if count:
                per_unit = self.rates.seconds(kind, work)
                if per_unit is None and kind != "score":
                    return None
                out += count * (per_unit or 0.0)
        return out

    def _remaining_of(self, doing: _Doing) -> float | None:
        """Seconds that the cell which runs still takes; time since its last event counts as work on its next unit."""
        units: dict[Kind, float] = dict(doing.work.units())
        finished = doing.work.validations - doing.validations
        units["train"] -= doing.done.get("training", 0) * doing.work.episode_videos if doing.work.episodes else 0
        units["encode"] -= finished * doing.work.val_videos
        units["score"] -= finished * doing.work.val_episodes
        for stage, done in doing.done.items():
            kind, _ = _kind(stage, doing.work)
            if kind in ("encode", "score") and (doing.work.validations or not stage.startswith(VALIDATION)):
                units[kind] -= done
        seconds = self._price(doing.work, {kind: max(0.0, count) for kind, count in units.items()})
        if seconds is None or doing.stage.startswith(STARTING):
            return seconds
        return max(0.0, seconds - (self.clock() - doing.told))

    def _without_trained(self, work: Work, trained: Iterable[str]) -> Work:
        return work.trained() if work.training and work.training in trained else work


def _kind(stage: str, work: Work) -> tuple[Kind | None, int]:
    """Kind of the units that a stage counts, and how many of them one of its own is."""
    if stage.startswith(CHOOSING):  # not part of `Work`: which methods choose is known when they are built
        return None, 0
    if stage == "training":
        return "train", work.episode_videos
    if stage.endswith("encoding"):
        return "encode", 1
    return ("score", 1) if stage.endswith("scoring") else (None, 0)
