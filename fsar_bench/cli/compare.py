"""`fsar-bench compare A B`: two methods on the episodes that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fsar_bench.cli.leaderboard import read_boards, results_folder
from fsar_bench.config.overrides import coerce, parse_pairs
from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.leaderboard import Board, Row
from fsar_bench.leaderboard.boards import shared_episodes
from fsar_bench.leaderboard.intervals import FEW, NORMAL95, spread
from fsar_bench.leaderboard.tables import differing
from fsar_bench.plan import EpisodePlan

SHOWN = 5  # classes and episodes
FILTERS = {"dataset": "", "way": 0, "shot": 0}


@dataclass(frozen=True)
class Comparison:
    """Two rows on their shared episodes, in percent.

    Attributes:
        one: accuracy of the first row.
        two: accuracy of the second.
        clips: half-width of the 95 % interval of the difference over clips; None where classes have too few clips.
        episodes: over episodes.
        p: two-sided p-value over clips, of this pair alone.
        only_one: queries that the first row alone has right (the mean over seeds).
        only_two: that the second alone has right.
        classwise: (class number, first, second) of every class, largest difference first.
        episodewise: (episode, right queries of the first minus those of the second), largest first.
        shared: episodes that both have.
    """

    one: float
    two: float
    clips: float | None
    episodes: float
    p: float
    only_one: float
    only_two: float
    classwise: list[tuple[int, float, float]]
    episodewise: list[tuple[int, float]]
    shared: int


def compare(right: np.ndarray, plan: EpisodePlan, same: np.ndarray) -> Comparison:
    """Compare two rows.

    Args:
        right: float `[2, E, Q]`.
        plan: their episodes.
        same: the episodes that they share, bool `[E]`.
    """
    numbers = np.flatnonzero(same)
    right, classes = right[:, same], plan.classes[same]
    spread_ = spread(right, classes, plan.support[same], plan.query[same])
    one, two = 100 * right.mean((1, 2))
    error = spread_.difference(0, 1)
    of_class = np.repeat(classes, plan.query.shape[2], axis=1)
    classwise = []
    for number in np.unique(classes):
        a, b = 100 * right[:, of_class == number].mean(1)
        classwise.append((int(number), float(a), float(b)))
    difference = (right[0] - right[1]).sum(1)
    most = np.argsort(-np.abs(difference), kind="stable")
    return Comparison(
        float(one),
        float(two),
        error.half_width(),
        NORMAL95 * error.episodes,
        error.p_value(one - two),
        float((right[0] * (1 - right[1])).sum()),
        float((right[1] * (1 - right[0])).sum()),
        sorted(classwise, key=lambda row: (-abs(row[1] - row[2]), row[0])),
        [(int(numbers[i]), float(difference[i])) for i in most],
        len(numbers),
    )


def compare_command(one: str, two: str, pairs: list[str]) -> int:
    """Print the comparison on every board that has both; returns the exit code."""
    given = parse_pairs(pairs)
    filters = {key: coerce(key, given.pop(key), default) for key, default in FILTERS.items() if key in given}
    if unknown := [key for key in given if key != "out"]:
        raise ConfigError(f"Unknown key {unknown[0]!r}.{suggest(unknown[0], ['out', *FILTERS])}")
    out = results_folder([f"out={given['out']}"] if "out" in given else [])
    boards = [board for board in read_boards(out) if _fits(board, filters)]
    found = [(_find(board, one), _find(board, two), board) for board in boards]
    both = [(a, b, board) for a, b, board in found if a and b]
    if not both:
        _refuse(one, two, found)
    console = Console(soft_wrap=True, highlight=False)
    for a, b, board in both:  # all of them, before anything is printed
        for name, rows in ((one, a), (two, b)):
            if len(rows) > 1:
                hashes = ", ".join(f"{row.result.config_hash[:8]} ({row.title})" for row in rows)
                raise ConfigError(f"{name!r} names {len(rows)} rows of {board.title}: {hashes}. Name one by its hash.")
    for a, b, board in both:
        _show(console, board, a[0], b[0])
    return 0


def _fits(board: Board, filters: dict) -> bool:
    p = board.first.protocol
    here = {"dataset": board.first.dataset.name, "way": p.way, "shot": p.shot}
    return all(here[key] == value for key, value in filters.items())


def _find(board: Board, name: str) -> list[Row]:
    """Rows of a name: a method, a config hash (or its beginning), or a folder of results."""
    folder = Path(name).resolve()
    out = []
    for row in board.rows:
        for seed in row.seeds:
            known = (seed.result.method.name, seed.result.method.title, seed.folder.name)
            by_hash = len(name) >= 6 and seed.result.config_hash.startswith(name)
            if name in known or by_hash or seed.folder.resolve() == folder:
                out.append(row)
                break
    plain = [row for row in out if row.result.method.title == name or not row.changed]
    return plain if len(plain) == 1 else out  # the row without changed settings goes by the name of its method


def _refuse(one: str, two: str, found: list) -> None:
    rows = {name: [row for hit in found if hit[place] for row in hit[place]] for place, name in ((0, one), (1, two))}
    for name, mine in rows.items():
        if not mine:
            known = {row.result.method.name for _, _, board in found for row in board.rows}
            raise ConfigError(f"No result is called {name!r}.{suggest(name, known)}")
    fields = differing(rows[one][0], rows[two][0])
    raise ResultError(
        f"{one} and {two} share no episodes, so they cannot be compared: {', '.join(fields) or 'the boards'} "
        "differ. Run both with the same settings."
    )


def _show(console: Console, board: Board, one: Row, two: Row) -> None:
    plans = board.plan(one), board.plan(two)
    same = shared_episodes(*plans)
    if same.sum() < min(FEW, len(same)):
        raise ResultError(
            f"{one.title} and {two.title} share {int(same.sum())} of {len(same)} episodes; {FEW} are needed."
        )
    found = compare(np.stack([one.right(), two.right()]), plans[0], same)
    console.print(f"\n[bold]{escape(board.title)}[/]\n[dim]{escape(board.note)}[/]")
    of = f" of {len(same)}" if found.shared < len(same) else ""
    console.print(f"A  {escape(one.title)}: {found.one:.2f} %\nB  {escape(two.title)}: {found.two:.2f} %")
    difference = found.one - found.two
    verdict = "told apart" if found.p < 0.05 else "not told apart at 5 %"
    over_clips = "unknown over clips (too few of them)"
    if found.clips is not None:
        over_clips = f"95 % over clips {difference - found.clips:+.2f} to {difference + found.clips:+.2f}"
    console.print(
        f"A - B  [bold]{difference:+.2f}[/] points, {over_clips} (over episodes alone: ± {found.episodes:.2f}), "
        f"p = {found.p:.3g}: {verdict}"
    )
    console.print(
        f"paired on {found.shared}{of} episodes; right in A alone: {found.only_one:.0f} queries, in B alone: "
        f"{found.only_two:.0f}. One comparison: p is not corrected for others."
    )
    table = Table(
        "class", "A %", "B %", "A - B", title="classes that differ most", title_justify="left", box=None, pad_edge=False
    )
    for number, a, b in found.classwise[:SHOWN]:
        table.add_row(escape(plans[0].name(number)), f"{a:.1f}", f"{b:.1f}", f"{a - b:+.1f}")
    console.print(table)
    table = Table(
        "episode",
        "A - B",
        "classes",
        title="episodes that differ most (right queries)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for number, more in found.episodewise[:SHOWN]:
        names = ", ".join(plans[0].name(c) for c in plans[0].classes[number])
        table.add_row(str(number), f"{more:+.0f}", escape(names))
    console.print(table)
    console.print(
        f"[dim]see one: fsar-bench explain {escape(str(one.seeds[0].folder))} --episode {found.episodewise[0][0]}[/]"
    )
