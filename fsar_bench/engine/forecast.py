"""How long cells take: their work from config and annotation, and the seconds per unit of stored results. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

from pydantic import ValidationError

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.data.dataset import datasets_kept_open, open_dataset
from fsar_bench.engine.jobs import job_options
from fsar_bench.engine.state import State, shared_training, state_of
from fsar_bench.errors import FsarBenchError
from fsar_bench.io import digest, read_whole
from fsar_bench.progress.estimate import Estimate, Rates, Work
from fsar_bench.results.record import Cost, Result
from fsar_bench.results.store import COST, RECORD


@dataclass
class Known:
    """What is known of methods before a run; methods are named as by `method_of`.

    Attributes:
        rates: seconds per unit.
        source: where it is from, in words.
        roles: how often a method encodes a clip.
        memory: peak bytes of its process in a cell like those that it was measured in.
        trained: numbers of its trained parameters.
    """

    rates: Rates = field(default_factory=Rates)
    source: str = ""
    roles: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Attributes:
        states: what is stored of each cell.
        works: what each cell still has to compute; a training that cells share counts for the first of them. None where nothing.
        seconds: that each cell takes. None where too little is known.
        total: seconds of the run; None where too little is known.
    """

    states: list[State]
    works: list[Work | None]
    seconds: list[float | None]
    total: float | None


@datasets_kept_open()
def forecast(cells: list[Cell], options: RunOptions, known: Known | None = None) -> Forecast:
    """What a run would do.

    Args:
        cells: of the run.
        options: how it would run.
        known: of its methods; None for what the results in `out` tell.

    Raises:
        DataError: a dataset is not prepared or damaged.
        ProtocolError: a dataset has no clips in a split.
        ResultError: a stored result is damaged.
    """
    states = [state_of(cell, options) for cell in cells]
    known = stored_knowledge(options.out, {backbone_of(cell) for cell in cells}) if known is None else known
    works: dict[int, Work | None] = {}
    trained: set[str] = set()
    for number, (cell, state) in enumerate(zip(cells, states, strict=True)):
        if state.kind != "finished":
            work = remaining_work(cell, state, known.roles.get(method_of(cell), 1))
            works[number] = work.trained() if work.training in trained else work
            trained |= {work.training} - {""}
    estimate = Estimate(works, known.rates, jobs=len(job_options(options, len(works))))
    each = [works.get(number) for number in range(len(cells))]
    return Forecast(states, each, [estimate.seconds(work) if work else None for work in each], estimate.remaining())


@datasets_kept_open()
def estimate_of(cells: list[Cell], options: RunOptions) -> Estimate:
    """The estimate of a run that begins now, from what is stored; nothing of a cell that is going to fail is known."""
    works: dict[int, Work | None] = {}
    known = stored_knowledge(options.out, {backbone_of(cell) for cell in cells})
    for number, cell in enumerate(cells):
        try:
            state = state_of(cell, options)
            if state.kind != "finished":
                works[number] = remaining_work(cell, state, known.roles.get(method_of(cell), 1))
        except FsarBenchError:  # the cell itself reports it when its turn comes
            works[number] = None
    return Estimate(works, known.rates, jobs=len(job_options(options, len(cells))))


@datasets_kept_open()
def estimate_of_trainings(cells: Sequence[Cell], options: RunOptions) -> Estimate:
    """The estimate of trainings that are not tested, each of its own, from what is stored of others; `jobs` is a number."""
    known = stored_knowledge(options.out, {backbone_of(cell) for cell in cells})
    works = {
        number: replace(training_work(cell, known.roles.get(method_of(cell), 1)), training="")
        for number, cell in enumerate(cells)
    }
    return Estimate(works, known.rates, jobs=options.jobs if isinstance(options.jobs, int) else 1)


def backbone_of(cell: Cell) -> str:
    """What the seconds of a pass depend on: the encoder, and how many frames it reads."""
    return digest([cell.identity.backbone["type"], cell.identity.backbone["name"], cell.protocol.frames])


def method_of(cell: Cell) -> str:
    """What the seconds of a pass also depend on: the method, with its settings."""
    return f"{backbone_of(cell)} {cell.name} {digest(cell.identity.method)}"


def work_of(cell: Cell, roles: int = 1) -> Work:
    """All that a cell has to compute.

    Args:
        cell: it.
        roles: how often it encodes a clip: 2 where supports and queries are encoded differently.

    Raises:
        DataError: its dataset is not prepared or damaged.
        ProtocolError: its dataset has no clips in a split.
    """
    p = cell.protocol
    videos = roles * _clips(cell, p.split, p.episodes * p.way * (p.shot + p.query))
    return replace(training_work(cell, roles), videos=videos, scored=p.episodes)


def training_work(cell: Cell, roles: int = 1) -> Work:
    """What the training of a cell has to compute, validations included; arguments and errors as for `work_of`."""
    p, train = cell.protocol, cell.identity.train
    work = Work(method=method_of(cell), backbone=backbone_of(cell))
    if train is None or cell.setup.checkpoint:
        return work
    way, shot = train.way or p.way, train.shot or p.shot
    return replace(
        work,
        training=shared_training(cell),
        episodes=train.episodes,
        episode_videos=way * (shot + train.query_per_class),
        validations=ceil(train.episodes / train.val_interval) + 1,
        val_videos=roles * _clips(cell, "val", train.val_episodes * way * (shot + 1)),
        val_episodes=train.val_episodes,
    )


def remaining_work(cell: Cell, state: State, roles: int = 1) -> Work:
    """What a cell still has to compute; arguments and errors as for `work_of`."""
    work = work_of(cell, roles)
    if state.is_trained:
        return work.trained()
    if state.trained and cell.identity.train:
        rest = max(0, work.episodes - state.trained)
        return replace(work, episodes=rest, validations=ceil(rest / cell.identity.train.val_interval))
    return work


def _clips(cell: Cell, split: str, places: int) -> int:
    """Clips of a split that are on this disk, at most as many as its episodes have places. Opens no clip."""
    source = cell.train_dataset if split == "val" else cell.dataset
    clips = open_dataset(**source.model_dump()).split(split)
    return min(len(clips.clips) - len(clips.missing), places)


def stored_knowledge(out: Path, backbones: set[str]) -> Known:
    """What stored results of some backbones tell.

    Args:
        out: folder of the results.
        backbones: as `backbone_of` gives them.
    """
    known, count = Known(), 0
    for cell, cost, result in _costs(out):
        if backbone_of(cell) not in backbones or not cost.videos:
            continue
        count += 1
        seconds, work = cost.seconds, Work(method_of(cell), backbone_of(cell))
        known.rates.remember("encode", work, seconds.encode or 0.0, cost.videos)
        known.rates.remember("score", work, seconds.score or 0.0, cell.protocol.episodes)
        clips = min(round(result.data.clips * result.data.coverage), _places(cell))
        known.roles[work.method] = 2 if cost.videos > 1.5 * clips else 1
        known.trained[work.method] = result.parameters.trainable
        peak = int(1e6 * (cost.memory_mb or 0))
        known.memory[work.method] = max(peak, known.memory.get(work.method, 0))
        _remember_training(known.rates, cell, cost, known.roles[work.method])
    return replace(known, source=f"{count} results in {out}" if count else "")


def _places(cell: Cell) -> int:
    p = cell.protocol
    return p.episodes * p.way * (p.shot + p.query)


def _remember_training(rates: Rates, cell: Cell, cost: Cost, roles: int) -> None:
    """Seconds per trained video: those of the training without those of its validations."""
    if not cost.seconds.train:
        return
    try:
        work = work_of(cell, roles)
    except FsarBenchError:  # its clips are not on this machine, so its validations cannot be told apart
        return
    spent = 0.0
    if cost.videos and cost.seconds.encode:
        spent += work.validations * work.val_videos * cost.seconds.encode / cost.videos
    if cost.seconds.score:
        spent += work.validations * work.val_episodes * cost.seconds.score / cell.protocol.episodes
    rates.remember("train", work, cost.seconds.train - spent, work.episodes * work.episode_videos)


def _costs(out: Path) -> Iterator[tuple[Cell, Cost, Result]]:
    """Cells that were run here or elsewhere, with their costs; what is damaged is named when the tables are made."""
    for path in sorted(out.glob(f"results/*/*/*/{RECORD}")):
        try:
            result = Result.model_validate_json(read_whole(path))
            cost = Cost.model_validate_json(read_whole(path.with_name(COST)))
        except (OSError, ValidationError):
            continue
        if not result.submitted:
            yield result.cell, cost, result
