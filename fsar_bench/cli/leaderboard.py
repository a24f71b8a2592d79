"""`fsar-bench leaderboard`: markdown, CSV, LaTeX, JSON and a page from result files; and tables on the screen."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsar_bench.config.cell import common_training
from fsar_bench.config.overrides import parse_pairs
from fsar_bench.config.settings import RunOptions
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import user_path
from fsar_bench.leaderboard import tables
from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.files import HTML, read_boards, stale_files, write_tables
from fsar_bench.leaderboard.rows import title_of
from fsar_bench.progress.events import WARNING, Event, listening
from fsar_bench.progress.screen import Stages
from fsar_bench.texts.console import PlainConsole

SHOWN = 50  # rows of a board on the screen, in addition to those of a run
REDRAWN = 0.1  # seconds between changes of the status line
SCREEN_COLUMNS = {  # those of the README's table, and two that most boards lack; how a heading breaks where room is short
    "rank": "rank",
    "method": "method",
    "accuracy %": "accu-\nracy %",
    "± all": "±\nall",
    "± clips": "±\nclips",
    "± clips, by recording": "± clips, by\nrecording",
    "± episodes": "± epi-\nsodes",
    "± seeds": "±\nseeds",
    "pair %": "pair\n%",
    "backbone": "backbone",
    "trained on": "trained\non",
    "names": "names",
    "tuned": "tuned",
    "trained M": "train-\ned M",
    "total M": "total\nM",
    "train s": "train\ns",
}


def leaderboard_command(pairs: list[str], *, check: bool, html: bool = False) -> int:
    """Rebuild the tables below `out`, or with `check` compare them; returns the exit code."""
    out = results_folder(pairs)
    with telling(PlainConsole(stderr=True)):  # what no cache has is computed when files are made or compared
        boards = read_boards(out, use_cache=not check)
        stale = stale_files(out, boards) if check else []
        written = [] if check else write_tables(out, boards)
    if check:
        for path in stale:
            print(
                f"error: {path} is stale. Run fsar-bench leaderboard {shlex.quote(f'out={out}')} and commit it.",
                file=sys.stderr,
            )
        return 1 if stale else 0
    for path in written:
        print(path)
    if html:
        from fsar_bench.leaderboard.page import write_page
        from fsar_bench.leaderboard.published import read_published

        print(write_page(out / HTML, boards, read_published(out)))
    return 0


@contextlib.contextmanager
def telling(console: Console) -> Iterator[None]:
    """Show on a terminal how far reading and comparing results is."""
    if not console.is_terminal:
        yield
        return
    stages, last = Stages(), 0.0
    with console.status("reading results") as status:

        def listener(event: Event) -> None:
            nonlocal last
            if event.stage == WARNING:
                console.print(f"warning: {event.note}", markup=False, highlight=False, soft_wrap=True)
            elif monotonic() - last >= REDRAWN:
                last = monotonic()
                status.update(stages.text(event))

        with listening(listener):
            yield


def results_folder(pairs: list[str]) -> Path:
    """The folder that out= names, checked to hold results.

    Raises:
        ConfigError: another key, or a folder without results.
    """
    settings = parse_pairs(pairs)
    for key in settings:
        if key != "out":
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, ['out'])}")
    out = user_path(settings["out"]) if "out" in settings else RunOptions.of({}).out
    if not (out / "results").is_dir():
        raise ConfigError(
            f"{out} has no results/ folder. Name the folder of your results with out=, or run methods first."
        )
    return out


def shown_places(board: Board, highlight: set[str]) -> list[int]:
    """Places of the rows that are printed: the most accurate ones, and those in `highlight`."""
    return [
        place
        for place, row in enumerate(board.rows)
        if place < SHOWN or any(seed.result.config_hash in highlight for seed in row.seeds)
    ]


def show(console: Console, boards: list[Board], highlight: set[str]) -> None:
    """Print boards; rows of which no config hash is in `highlight` are dimmed. Of large boards, the best and those rows."""
    unlimited = console.options.update(width=10_000)
    for board in boards:
        for layout in LAYOUTS:
            table = _table(board, highlight, layout)
            if console.measure(table, options=unlimited).maximum <= console.width:
                break
        console.print(table)


@dataclass(frozen=True)
class _Layout:
    """How a table is set: whether headings break, whether the backbone stands below its method, blanks beside a cell."""

    breaks: bool
    joins: bool
    blanks: int


LAYOUTS = (
    _Layout(False, False, 1),
    _Layout(True, False, 1),
    _Layout(True, True, 0),
)  # the first that fits, or the last


def _of_training(common: dict[str, str]) -> str:
    """What all trained rows have in common, as a sentence; their titles are without it."""
    return f" Trained rows: {', '.join(f'{key}={value}' for key, value in common.items())}." if common else ""


def _table(board: Board, highlight: set[str], layout: _Layout) -> Table:
    """A board for the screen."""
    places = shown_places(board, highlight)
    rows, left = [board.rows[place] for place in places], len(board) - len(places)
    frame, common = tables.frame(board, places), common_training(row.result.cell for row in rows)
    titles = [title_of(row.result, common) + row.mark for row in rows]
    methods = [*map(Text, titles), *map(Text, frame["method"][len(titles) :])]
    if len({row.result.backbone_name for row in rows}) == 1:
        frame = frame.drop(columns="backbone")
    elif layout.joins:
        for method, backbone in zip(methods, frame["backbone"], strict=True):
            method.append(f"\n{backbone}" if backbone else "", style="italic")
        frame = frame.drop(columns="backbone")
    frame = frame[[column for column in SCREEN_COLUMNS if column in frame]]
    more = f" {left} more rows: see its page." * (left > 0)
    table = Table(
        title=Text(board.title, style="table.title"),
        caption=Text(
            " ".join(filter(None, [f"{board.note}{_of_training(common)}{more}", board.budget_note])),
            style="table.caption",
        ),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, layout.blanks),
    )
    for column in frame.columns:
        table.add_column(
            SCREEN_COLUMNS[column] if layout.breaks else column,
            justify="left" if column in tables.TEXT_COLUMNS else "right",
            no_wrap=column != "method",
            overflow="fold",
        )
    highlighted = [any(seed.result.config_hash in highlight for seed in row.seeds) for row in rows]
    frame = frame.map(Text).assign(method=methods)
    for (_, texts), is_highlighted in zip(frame.iterrows(), [*highlighted, True], strict=True):
        table.add_row(*texts, style="" if is_highlighted else "dim")
    return table
