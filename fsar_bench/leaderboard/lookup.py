"""One result by what a user calls it: a folder, its result.json, a method, a title, or the beginning of a config hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import user_path
from fsar_bench.leaderboard.collection import load_results, setting_of
from fsar_bench.leaderboard.compare import find_rows
from fsar_bench.results.store import RECORD, Stored, read


def result_folder(name: str) -> Path | None:
    """The folder that a path names, or that of its result.json, resolved; None if the name is no path of a result."""
    path = user_path(name)
    folder = path.parent if path.name == RECORD else path
    return folder.resolve() if (folder / RECORD).is_file() else None


def find_result(name: str, out: Path, filters: Mapping[str, str | int] | None = None) -> Stored:
    """Read the one result that a name means.

    Args:
        name: path of a result's folder or record, or what `compare` takes.
        out: folder with `results/`, where names are looked up.
        filters: dataset, way, shot and seed of the result.

    Raises:
        ConfigError: no result has that name, or several have; the message lists them.
        ResultError: the result is damaged.
    """
    folder = result_folder(name)
    if folder is not None:
        return read(folder)
    if not (out / "results").is_dir():
        raise ConfigError(
            f"There is no result {name!r}: no such folder with a {RECORD}, and {out} has no results/ folder to look for the name "
            "in."
        )
    all_boards = load_results(out).boards
    chosen = [board for board in all_boards if (filters or {}).items() <= setting_of(board).items()]
    found = [seed for board in chosen for row in find_rows(board, name) for seed in row.seeds]
    if not found:
        known = {row.result.name for board in chosen for row in board.rows}
        raise ConfigError(
            f"No result in {out} is called {name!r}.{suggest(name, known)} Or name the folder of a result."
        )
    if len(found) > 1:
        raise ConfigError(
            f"{name!r} names {len(found)} results: {'; '.join(map(_spelled, found))}. Name one by its hash or folder, or choose "
            "with dataset=, way=, shot= and seed=."
        )
    return found[0]


def _spelled(stored: Stored) -> str:
    return f"{stored.result.config_hash[:8]} ({stored.result.cell})"
