"""`fsar-bench leaderboard`: markdown, CSV, LaTeX, JSON and a page from result files, and the same table on the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fsar_bench.config.overrides import coerce, parse_pairs
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import cache_folder, write_atomically
from fsar_bench.leaderboard import Board, boards, exports, tables
from fsar_bench.leaderboard.published import read_published
from fsar_bench.results.store import read_all

SCREEN_COLUMNS = [
    "rank",
    "method",
    "accuracy %",
    "± episodes",
    "± clips",
    "± seeds",
    "pair %",
    "train s",
]  # fits 80 characters
HTML = "leaderboard.html"


def leaderboard_command(pairs: list[str], *, check: bool, html: bool = False) -> int:
    """Rebuild, or with `check` compare, the tables below `out`; returns the exit code."""
    out = results_folder(pairs)
    found = read_boards(out)
    if check:
        made = files(out, found)
        stale = [path for path, text in made if not path.exists() or path.read_bytes() != text.encode()]
        stale += orphans(out, [path for path, _ in made])
        for path in stale:
            print(f"error: {path} is stale. Run fsar-bench leaderboard out={out} and commit it.", file=sys.stderr)
        return 1 if stale else 0
    for path in write_tables(out, found):
        print(path)
    if html:
        from fsar_bench.leaderboard.page import write_page

        print(write_page(out / HTML, found, read_published(out)))
    return 0


def results_folder(pairs: list[str]) -> Path:
    """The folder that out= names, checked to hold results."""
    given = parse_pairs(pairs)
    for key in given:
        if key != "out":
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, ['out'])}")
    out = Path(coerce("out", given.get("out", "./leaderboards"), ""))
    if not (out / "results").is_dir():
        raise ConfigError(
            f"{out} has no results/ folder. Name the folder of your results with out=, or run methods first."
        )
    return out


def read_boards(out: Path) -> list[Board]:
    """All boards of a store; statistics of unchanged results come from the cache."""
    cache = cache_folder() / "statistics"
    return boards(read_all(out / "results", cache), cache)


def files(out: Path, found: list[Board]) -> list[tuple[Path, str]]:
    """Path and whole text of every file."""
    pages = exports.pages(found, read_published(out))
    return [
        (out / name, tables.into_page(out / name, text) if name.endswith(".md") else text)
        for name, text in pages.items()
    ]


def orphans(out: Path, made: list[Path]) -> list[Path]:
    """Tables of ours whose results are gone."""
    kinds = {".md": tables.BEGIN, ".tex": exports.TEX_MARK}
    found = [path for suffix in kinds for path in out.glob(f"*-*way_*shot{suffix}") if path not in made]
    return sorted(path for path in found if kinds[path.suffix] in path.read_text(encoding="utf-8", errors="replace"))


def write_tables(out: Path, found: list[Board]) -> list[Path]:
    """Write every file and clear those whose results are gone; returns the paths of what was written."""
    written = []
    for path, text in files(out, found):
        write_atomically(path, text.encode())
        written.append(path)
    for path in orphans(out, written):
        left = tables.without_block(path.read_text(encoding="utf-8")) if path.suffix == ".md" else ""
        if left:  # what a person wrote stays
            write_atomically(path, left.encode())
        else:
            path.unlink()
    return written


def show(console: Console, found: list[Board], highlight: set[str]) -> None:
    """Print boards; rows of `highlight` (config hashes) are those of this run."""
    for board in found:
        frame = tables.frame(board)
        frame = frame[[column for column in SCREEN_COLUMNS if column in frame]]
        table = Table(
            title=escape(board.title),
            caption=escape(board.note),
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for column in frame.columns:
            table.add_column(
                column, justify="left" if column in tables.TEXT_COLUMNS else "right", no_wrap=column != "method"
            )
        fresh = [any(seed.result.config_hash in highlight for seed in row.seeds) for row in board.rows]
        for (_, row), is_fresh in zip(frame.iterrows(), [*fresh, True], strict=True):
            table.add_row(*map(escape, row), style="" if is_fresh else "dim")
        console.print(table)
