"""`fsar-bench show`: everything about one result, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from fsar_bench.cli.compare import FILTERS
from fsar_bench.config.cell import LOG
from fsar_bench.config.overrides import coerce, parse_pairs
from fsar_bench.config.settings import RunOptions
from fsar_bench.config.tuned import TunedLabel
from fsar_bench.engine.places import recall_places, work_dir_of
from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.leaderboard.boards import build_boards
from fsar_bench.leaderboard.files import statistics_cache
from fsar_bench.leaderboard.lookup import find_result
from fsar_bench.leaderboard.ranking import Widths
from fsar_bench.leaderboard.rows import title_of
from fsar_bench.leaderboard.tables import BY_RECORDING, CLIPS, widths_text
from fsar_bench.results.command import PLACES, command_of, training_files
from fsar_bench.results.record import Result
from fsar_bench.results.store import Stored
from fsar_bench.texts.console import PlainConsole

KEYS = ("out", "work_dir", *FILTERS, *PLACES)
Lines = Iterator[tuple[str, str]]


def show_command(name: str, pairs: list[str]) -> int:
    """Print a result; returns the exit code."""
    given = parse_pairs(pairs)
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, KEYS)}")
    options = RunOptions.of({key: RunOptions.parse(key, given[key]) for key in ("out", "work_dir") if key in given})
    places = {key: given[key] for key in PLACES if key in given and (key not in FILTERS or given[key].endswith(".py"))}
    filters = {
        key: coerce(key, given[key], kind) for key, kind in FILTERS.items() if key in given and key not in places
    }
    stored = find_result(name, options.out, filters)
    work_dir = work_dir_of(stored.result.cell, stored.folder.parents[3], options.work_dir)
    remembered = recall_places(work_dir / stored.result.cell.work_folder)
    places = {key: path for key in ("pretrained", "checkpoint") if (path := getattr(remembered, key))} | places
    console = PlainConsole(highlight=False)
    console.print(Text(title_of(stored.result), style="bold"))
    if not stored.result.submitted:
        command = command_of(stored.result, places)
        console.print(Text(str(command)), soft_wrap=True)  # a line to copy
        console.print(
            Text(command.problem or "It resolves to the same cell on this machine.", style="dim"), soft_wrap=True
        )
        console.print()
    sections = (
        _run(stored.result),
        _accuracy(stored),
        _method(stored),
        _data(stored),
        _stored(stored, work_dir),
    )
    for section in (*sections, _cost(stored)):
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", min_width=11, no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in section:
            table.add_row(label, Text(text))
        console.print(table)
        console.print()
    return 0


def _run(result: Result) -> Lines:
    p, label = result.protocol, result.cell.label
    synthetic = " (synthetic)" if label.synthetic else ""
    yield "dataset", f"{label.dataset}{synthetic}, {p.way}-way {p.shot}-shot, {p.split} split"
    yield "hash", result.config_hash
    if label.paper:
        yield "paper", label.paper
    if result.submitted:
        yield "command", "none: the predictions were submitted by another code base"


def _accuracy(stored: Stored) -> Lines:
    metrics = stored.result.metrics
    yield "accuracy", f"{metrics.accuracy:.2f} %"
    yield "± episodes", _half_width(metrics.interval95)
    try:
        (board,) = build_boards([stored], statistics_cache())
        (row,) = board.entries
        yield BY_RECORDING if board.by_recording else CLIPS, _widths(row.statistics.clips)
    except ResultError as error:
        yield "± clips", f"unknown: {error}"
    if metrics.pair_accuracy is not None:
        yield (
            "pair",
            f"{metrics.pair_accuracy:.1f} % of {metrics.pair_queries} queries whose reversed class is in the episode",
        )


def _half_width(value: float | None) -> str:
    return "unknown (too few)" if value is None else f"{value:.2f} (95 % interval)"


def _widths(widths: Widths | None) -> str:
    return _half_width(None) if widths is None else f"{widths_text(widths)} (95 % interval)"


def _method(stored: Stored) -> Lines:
    result, identity = stored.result, stored.result.cell.identity
    changed = result.cell.label.changed
    yield (
        "changed",
        ", ".join(f"{key}={value}" for key, value in sorted(changed.items())) or "nothing: the config's settings",
    )
    if tuned := result.cell.label.tuned:
        yield "tuned", _tuned(result, tuned)
    yield "traits", ", ".join(_traits(result))
    if result.fitted:
        yield "chosen", ", ".join(f"{key}={value}" for key, value in result.fitted.items()) + " (on val)"
    yield "parameters", f"{result.parameters.trainable:,} trained of {result.parameters.total:,}"
    if identity.train:
        train, seed = identity.train, identity.training_seed
        yield (
            "training",
            f"{train.episodes} episodes, {train.way}-way {train.shot}-shot, {_optimizer(train.optimizer)}, seed {seed}",
        )
    backbone = result.backbone
    pretraining = f", pretrained on {backbone.pretraining}" if backbone.pretraining else ""
    yield (
        "backbone",
        f"{result.backbone_name}: {backbone.model}, {backbone.activation or 'activation unknown'}{pretraining}",
    )
    weights = identity.backbone.get("pretrained") or "none (random)"
    yield "weights", f"{weights}, fingerprint {backbone.weights[:16]}"
    if identity.custom_imports:
        yield "imports", ", ".join(identity.custom_imports)


def _tuned(result: Result, tuned: TunedLabel) -> str:
    values = ", ".join(f"{key}={text}" for key, text in tuned.values.items())
    changed = "" if result.cell.is_as_tuned else "; this row has other settings than the tuned ones"
    return f"{values}, by {tuned.trials} trials of {tuned.episodes} episodes with {tuned.backbone} ({tuned.source}){changed}"


def _traits(result: Result) -> list[str]:
    traits = result.traits
    return [
        "uses class names" if traits.uses_class_names else "without class names",
        "trained" if traits.trainable else "training-free",
        "sensitive to the order of frames" if traits.order_sensitive else "blind to the order of frames",
        "transductive" if traits.transductive else "inductive",
        *(["ignores the supports"] if traits.ignores_supports else []),
        *(["encodes the videos of an episode together"] if traits.set_wise else []),
    ]


def _optimizer(config: dict[str, object]) -> str:
    arguments = ", ".join(f"{key} {value}" for key, value in config.items() if key != "type")
    return f"{config.get('type')} ({arguments})"


def _data(stored: Stored) -> Lines:
    result, p, data = stored.result, stored.result.protocol, stored.result.data
    yield "clips", f"{data.clips} of {data.classes} classes, coverage {100 * data.coverage:.2f} %"
    yield "list", f"{data.list_hash[:16]}, contents {data.fingerprint[:16]}"
    if data.learned_from:
        yield "train split", f"its statistics are used, contents {data.learned_from[:16]}"
    queries = f"{p.query} {'query' if p.query == 1 else 'queries'} per class, seed {p.seed}"
    yield "episodes", f"{p.episodes}, {queries}, plan {result.episodes.plan[:16]}"
    yield "texts", repr(p.template)
    frames = result.frames
    shown = "" if p.frames_as == "as_is" else f", shown as {p.frames_as}"
    yield (
        "frames",
        f"{p.frames} ({p.sampling}){shown}, {frames.reader}, short side {frames.resize}, crop {frames.crop} pixels",
    )


def _stored(stored: Stored, work_dir: Path) -> Lines:
    result = stored.result
    yield "stored in", str(stored.folder)
    if result.training_key:
        yield "training", result.training_key
        folder = work_dir / result.cell.training_folder(result.training_key)
        files = training_files(result, work_dir)
        yield "", f"{folder}: {', '.join(file.name for file in files)}" if files else f"not on this machine ({folder})"
    log = work_dir / result.cell.work_folder / LOG
    if log.is_file():
        yield "log", str(log)


def _cost(stored: Stored) -> Lines:
    if stored.result.submitted:
        yield "cost", "unknown (submitted)"
        return
    cost = stored.cost
    seconds = [f"{name} {value:.1f} s" for name, value in cost.seconds if value is not None]
    yield "cost", ", ".join(seconds) or "unknown"
    if cost.memory_mb is not None:
        yield "memory", f"{cost.memory_mb:.0f} MB"
    if cost.training:
        waited = 100 * (1 - cost.training.utilisation)
        yield "speed", f"{cost.training.clips_per_second:.3g} clips/s, {waited:.0f} % of the time waiting for clips"
    if cost.environment:
        environment = cost.environment
        yield (
            "machine",
            f"{environment.device}, {environment.machine}, {environment.threads} threads, Python {environment.python}",
        )
        yield "packages", ", ".join(f"{name} {version}" for name, version in environment.packages.items() if version)
