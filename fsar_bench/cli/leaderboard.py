"""`fsar-bench leaderboard`: markdown from result files, and the same table on the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fsar_bench import leaderboard as boards
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.results import Result, read_all, write_atomically
from fsar_bench.settings import coerce, parse_pairs

SCREEN_COLUMNS = ["rank", "method", "accuracy %", "pair %", "train s", "score s"]  # fits 80 characters
Stored = list[tuple[Result, dict]]


def leaderboard_command(pairs: list[str], *, check: bool) -> int:
    """Rebuild, or with `check` compare, the pages below `out`; returns the exit code."""
    given = parse_pairs(pairs)
    for key in given:
        if key != "out":
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, ['out'])}")
    out = Path(coerce("out", given.get("out", "./leaderboards"), ""))
    if not (out / "results").is_dir():
        raise ConfigError(
            f"{out} has no results/ folder. Name the folder of your results with out=, or run methods first."
        )
    stored = read_all(out / "results")
    if check:
        stale = [path for path, text in pages(out, stored) if not path.exists() or path.read_text() != text]
        for path in stale:
            print(f"error: {path} is stale. Run fsar-bench leaderboard out={out} and commit it.", file=sys.stderr)
        return 1 if stale else 0
    for path in write_tables(out, stored):
        print(path)
    return 0


def pages(out: Path, stored: Stored) -> list[tuple[Path, str]]:
    """Path and text of every page."""
    return [(out / name, text) for name, text in boards.pages(stored).items()]


def write_tables(out: Path, stored: Stored) -> list[Path]:
    """Write every page; returns their paths."""
    written = []
    for path, text in pages(out, stored):
        write_atomically(path, text.encode())
        written.append(path)
    return written


def show(console: Console, stored: Stored, highlight: set[str]) -> None:
    """Print the tables; rows of `highlight` (config hashes) are those of this run."""
    for board in boards.boards(stored):
        frame = board.frame()[SCREEN_COLUMNS]
        table = Table(
            title=board.title,
            caption=board.note,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for column in frame.columns:
            table.add_column(
                column, justify="left" if column in boards.TEXT_COLUMNS else "right", no_wrap=column != "method"
            )
        for (_, row), key in zip(frame.iterrows(), board.hashes(), strict=True):
            table.add_row(*row, style="" if key in highlight or key is None else "dim")
        console.print(table)
