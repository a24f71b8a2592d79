"""Results as one object for scripts and notebooks: filter them, compare them, rank them, or take them into pandas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pandas as pd

from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import user_path
from fsar_bench.leaderboard.boards import Board, build_boards
from fsar_bench.leaderboard.compare import Comparison, compare_by_name
from fsar_bench.leaderboard.files import statistics_cache
from fsar_bench.leaderboard.rows import title_of
from fsar_bench.leaderboard.tables import SHOWN
from fsar_bench.results.record import Cost, Result
from fsar_bench.results.store import Stored, read_all

_RESULT_COLUMNS: dict[str, Callable[[Result], object]] = {
    "method": lambda result: result.name,
    "title": title_of,
    "dataset": lambda result: result.dataset,
    "split": lambda result: result.protocol.split,
    "way": lambda result: result.protocol.way,
    "shot": lambda result: result.protocol.shot,
    "query": lambda result: result.protocol.query,
    "episodes": lambda result: result.protocol.episodes,
    "protocol": lambda result: result.cell.label.protocol,
    "backbone": lambda result: result.backbone_name,
    "trained_on": lambda result: result.trained_on,
    "checkpoint": lambda result: result.checkpoint,
    "seed": lambda result: result.protocol.seed,
    "training_seed": lambda result: result.cell.identity.training_seed if result.cell.identity.train else None,
    "control": lambda result: result.cell.label.control,
    "synthetic": lambda result: result.cell.label.synthetic,
    "submitted": lambda result: result.submitted,
    "accuracy": lambda result: result.metrics.accuracy,
    "half_width_episodes": lambda result: result.metrics.interval95,
    "pair_accuracy": lambda result: result.metrics.pair_accuracy,
    "trainable_parameters": lambda result: result.parameters.trainable,
    "parameters": lambda result: result.parameters.total,
    "coverage": lambda result: result.data.coverage,
    "config_hash": lambda result: result.config_hash,
    "tuned_trials": lambda result: result.cell.label.tuned and result.cell.label.tuned.trials,
    "tuned_episodes": lambda result: result.cell.label.tuned and result.cell.label.tuned.episodes,
}
_COST_COLUMNS: dict[str, Callable[[Cost], float | None]] = {  # of results that were run here
    "train_seconds": lambda cost: cost.seconds.train,
    "encode_seconds": lambda cost: cost.seconds.encode,
    "score_seconds": lambda cost: cost.seconds.score,
    "memory_mb": lambda cost: cost.memory_mb,
}
_CLIPS = "half_width_clips"
_BEFORE_CLIPS = "half_width_episodes"
_COLUMNS = [
    name
    for column in (*_RESULT_COLUMNS, *_COST_COLUMNS)
    for name in ([column, _CLIPS] if column == _BEFORE_CLIPS else [column])
]


class Results:
    """Stored results.

    Example:
        >>> results = load_results("leaderboards")
        >>> results.where(dataset="synthact", shot=1).compare("clip_fsar", "otam")[0].is_significant
        True

    Args:
        stored: the results, in the order that they are shown in.
        out: the folder that holds `results/` and `plans/`.

    Attributes:
        out: the folder.
    """

    def __init__(self, stored: list[Stored], out: Path) -> None:
        self._stored = list(stored)
        self.out = out

    def __len__(self) -> int:
        """Number of results."""
        return len(self._stored)

    def __iter__(self) -> Iterator[Stored]:
        """Results in their order."""
        return iter(self._stored)

    @overload
    def __getitem__(self, place: int) -> Stored: ...

    @overload
    def __getitem__(self, place: slice) -> Results: ...

    def __getitem__(self, place: int | slice) -> Stored | Results:
        """A result by its place, or several by a slice."""
        return Results(self._stored[place], self.out) if isinstance(place, slice) else self._stored[place]

    def __repr__(self) -> str:
        """Number of results and their folder."""
        return f"<Results: {len(self)} of {self.out}>"

    def _repr_html_(self) -> str:
        return f"<p>{len(self)} results</p>{self.to_frame().to_html(index=False, max_rows=SHOWN)}"

    @cached_property
    def boards(self) -> list[Board]:
        """Boards of these results alone: ranks and adjusted p-values are among them."""
        return build_boards(self._stored, statistics_cache())

    def to_frame(self) -> pd.DataFrame:
        """One row per result.

        Accuracies and half-widths of 95 % intervals are in percent, memory in MB (10^6 bytes). `half_width_clips` is missing
        where classes have too few clips, and for the seeds of a row that has several: its interval is that of their mean.
        Costs are missing where they are unknown, and for submitted predictions.

        Raises:
            ResultError: a plan or predictions are missing or damaged.
        """
        columns = {name: self._column(name) for name in _COLUMNS}
        return pd.DataFrame(columns).astype({"training_seed": "Int64"})  # whole numbers, some of them missing

    def where(self, **filters: Any) -> Results:
        """The results that have certain values.

        Args:
            filters: values by names of the frame's columns; a list means any of its values.

        Raises:
            ConfigError: there is no such column.
        """
        keep = [True] * len(self)
        for name, wanted in filters.items():
            if name not in _COLUMNS:
                raise ConfigError(f"Results have no column {name!r}.{suggest(name, _COLUMNS)}")
            accepted = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset, range)) else [wanted]
            keep = [kept and value in accepted for kept, value in zip(keep, self._column(name), strict=True)]
        return Results([stored for stored, kept in zip(self._stored, keep, strict=True) if kept], self.out)

    def compare(self, first: str, second: str, within: float | None = None) -> list[Comparison]:
        """Compare two rows on every board that has both.

        Args:
            first: a method, the title of a row, a config hash or its beginning, or a folder of results.
            second: the other one.
            within: a difference in percent that counts as none, for a verdict whether the two are equivalent.

        Raises:
            ConfigError: a name matches no row, or several of one board.
            ResultError: no board has both, or a plan or predictions are missing or damaged.
        """
        return compare_by_name(self.boards, first, second, within)

    def board(
        self, dataset: str | None = None, way: int | None = None, shot: int | None = None, seed: int | None = None
    ) -> Board:
        """The one board of a dataset, way, shot and seed of the episodes; what is None may be left out where it is clear.

        Raises:
            ConfigError: no board fits, or several do; the message lists them.
        """
        wanted = {"dataset": dataset, "way": way, "shot": shot, "seed": seed}
        fitting = [
            board
            for board in self.boards
            if all(value is None or value == setting_of(board)[name] for name, value in wanted.items())
        ]
        if len(fitting) == 1:
            return fitting[0]
        asked = ", ".join(f"{name}={value!r}" for name, value in wanted.items() if value is not None) or "these results"
        choices = "; ".join(dict.fromkeys(_spelled(board) for board in fitting or self.boards)) or "(none)"
        if not fitting:
            raise ConfigError(f"No board fits {asked}. Choose from: {choices}.")
        hint = (
            "Name dataset, way, shot and seed"
            if len({_spelled(board) for board in fitting}) > 1
            else (
                "They differ in their plan, frames, class texts or clips: use .boards, or filter the results with .where(...)"
            )
        )
        raise ConfigError(f"{len(fitting)} boards fit {asked}: {choices}. {hint}.")

    def _column(self, name: str) -> list[Any]:
        if name in _COST_COLUMNS:
            return [None if each.result.submitted else _COST_COLUMNS[name](each.cost) for each in self._stored]
        if name == _CLIPS:
            return [self._half_widths_clips.get(each.folder) for each in self._stored]
        return [_RESULT_COLUMNS[name](each.result) for each in self._stored]

    @cached_property
    def _half_widths_clips(self) -> dict[Path, float | None]:
        """By folder of the result, for rows of one seed."""
        entries = [entry for board in self.boards for entry in board.entries if len(entry.row.seeds) == 1]
        widths = {entry.row.seeds[0].folder: entry.statistics.clips for entry in entries}
        return {folder: None if width is None else width.half for folder, width in widths.items()}


def setting_of(board: Board) -> dict[str, str | int]:
    """Dataset, way, shot and seed of a board, by the names that filters have."""
    first, p = board.first, board.first.protocol
    return {"dataset": first.dataset, "way": p.way, "shot": p.shot, "seed": p.seed}


def _spelled(board: Board) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in setting_of(board).items())


def load_results(folder: str | Path) -> Results:
    """All results of a folder, checked: their metrics are those that their predictions give.

    Args:
        folder: the one that `out=` named, with `results/` and `plans/`.

    Raises:
        ResultError: it has no results, or one of them is damaged.
    """
    out = user_path(folder)
    if not (out / "results").is_dir():
        raise ResultError(f"{out} has no results/ folder. Name the folder of your results, or run methods first.")
    return Results(read_all(out / "results", statistics_cache()), out)
