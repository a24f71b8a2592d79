"""The files of a leaderboard: read a store, make and check its tables, write them, and clear those without results."""

from __future__ import annotations

import os
from pathlib import Path

from fsar_bench.errors import ResultError
from fsar_bench.io import cache_folder, read_bytes, read_text, reason_of, replacing_all
from fsar_bench.leaderboard import exports, tables
from fsar_bench.leaderboard.boards import Board, build_boards
from fsar_bench.leaderboard.published import read_published
from fsar_bench.results.store import read_all

HTML = "leaderboard.html"
_MARKS = {".md": tables.BEGIN, ".tex": exports.TEX_MARK}  # how generated tables are known


def statistics_cache() -> Path:
    """Folder of statistics that were computed before, by content."""
    return cache_folder() / "statistics"


def read_boards(out: Path, *, use_cache: bool = True) -> list[Board]:
    """All boards of a store; statistics of unchanged results come from the cache.

    Args:
        out: the folder that holds `results/` and `plans/`.
        use_cache: whether anything is believed that was computed before; otherwise everything is computed from the results.

    Raises:
        ResultError: a result is damaged.
    """
    cache = statistics_cache() if use_cache else None
    return build_boards(read_all(out / "results", cache), cache)


def generated_files(out: Path, all_boards: list[Board]) -> list[tuple[Path, str]]:
    """Path and whole text of every file of a leaderboard.

    Raises:
        ResultError: predictions, a plan or published figures are damaged, or a page has lost a marker.
    """
    return [
        (out / name, tables.into_page(_text(out / name), text, str(out / name)) if name.endswith(".md") else text)
        for name, text in exports.pages(all_boards, read_published(out)).items()
    ]


def _text(path: Path) -> str | None:
    """Text of a page; None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(
            f"{path} cannot be read ({reason_of(error)}). Correct it, or move it away: it is made again."
        ) from error


def stale_files(out: Path, all_boards: list[Board]) -> list[Path]:
    """Files that differ from what the results give, and generated tables that no longer have results."""
    generated = generated_files(out, all_boards)
    stale = [path for path, text in generated if _bytes(path) != text.encode()]
    return stale + orphans(out, [path for path, _ in generated])


def orphans(out: Path, generated: list[Path]) -> list[Path]:
    """Generated tables that no longer have results.

    Args:
        out: the folder of the leaderboard.
        generated: paths of the tables that have results.
    """
    candidates = [path for suffix in _MARKS for path in out.glob(f"*-*way_*shot{suffix}") if path not in generated]
    return sorted(path for path in candidates if _MARKS[path.suffix].encode() in _bytes(path))


def _bytes(path: Path) -> bytes:
    """Content of a file that may be a table of ours; nothing where it is no file, or cannot be read."""
    try:
        return read_bytes(path)
    except OSError:
        return b""


def write_tables(out: Path, all_boards: list[Board]) -> list[Path]:
    """Write every file, and clear generated tables that no longer have results; what was written by hand stays.

    Returns:
        Paths of the files that were written.

    Raises:
        ResultError: something is damaged, or the folder cannot be written; no file was changed then.
    """
    generated = generated_files(out, all_boards)
    paths = [path for path, _ in generated]
    with replacing_all(hint="out=") as batch:
        for path, text in generated:
            batch.write(path, text.encode())
        for path in orphans(out, paths):
            by_hand = tables.without_block(_text(path) or "") if path.suffix == ".md" else ""
            if by_hand:
                batch.write(path, by_hand.encode())
            else:
                batch.delete(path)
    return paths
