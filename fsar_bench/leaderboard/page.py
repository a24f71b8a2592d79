"""One self-contained HTML page of all boards: works from disk without a network. It embeds plotly.js, which draws it."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fsar_bench import __version__
from fsar_bench.io import write_atomically
from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.budgets import budget_text
from fsar_bench.leaderboard.exports import Record, by_board, records
from fsar_bench.leaderboard.published import Published, in_order, verdicts
from fsar_bench.leaderboard.rows import Row
from fsar_bench.leaderboard.tables import BY_RECORDING, CLIPS, CONTROLS, change_text, legend, rank_text, widths_text
from fsar_bench.plan import EpisodePlan

SHOWN = 100  # rows of a board on the page, the most accurate ones: its plots show all of them at once
CONFUSIONS = 2**22  # numbers of all confusion matrices on the page, some 10 MB


def write_page(path: Path, all_boards: list[Board], published: list[Published]) -> Path:
    """Write the page; returns its path.

    Raises:
        ResultError: the folder cannot be written.
    """
    from plotly.offline import get_plotlyjs

    parts = files("fsar_bench.leaderboard") / "page_files"
    # JSON inside a script element: "<" would let a text end it.
    data = json.dumps(page_data(all_boards, published), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    inside = {
        "STYLE": (parts / "page.css").read_text(encoding="utf-8"),
        "PLOTLY": get_plotlyjs().replace("</script", "<\\/script"),
        "DATA": data,
        "SCRIPT": (parts / "page.js").read_text(encoding="utf-8"),
    }
    page = (parts / "page.html").read_text(encoding="utf-8")
    html = re.sub("@@([A-Z]+)@@", lambda place: inside[place[1]], page)  # in one pass: texts may hold such marks
    write_atomically(path, html.encode(), hint="out=")
    return path


def page_data(all_boards: list[Board], published: list[Published]) -> dict[str, Any]:
    """Everything that the page shows, as plain values."""
    rows, counts = by_board(records(all_boards, SHOWN)), confusion_counts(all_boards)
    boards = [_board_data(board, rows[number], published, counts[number]) for number, board in enumerate(all_boards)]
    return {"version": __version__, "boards": boards}


def confusion_counts(all_boards: list[Board]) -> list[int]:
    """Of how many rows of each board the page has a confusion matrix: of the best of all boards before the second best."""
    counts, room = [0] * len(all_boards), CONFUSIONS
    for place in range(SHOWN):
        for number, board in enumerate(all_boards):
            size = board.first.data.classes**2
            if counts[number] == place < len(board) and size <= room:
                counts[number] += 1
                room -= size
    return counts


def _board_data(board: Board, rows: list[Record], published: list[Published], confusions: int) -> dict[str, Any]:
    first = board.first
    class_count, plan = first.data.classes, board.plan(board.rows[0])
    return {
        "title": board.title,
        "note": " ".join(filter(None, [board.note, *_left_out(board, confusions), board.budget_note])),
        "legend": legend([board]),
        "clips_title": BY_RECORDING if board.by_recording else CLIPS,
        "synthetic": first.cell.label.synthetic,
        "chance": 100 / first.protocol.way,
        "classes": [plan.name(c).replace("_", " ") for c in range(class_count)],
        "rows": [row | extra for row, extra in zip(rows, _row_data(board, published, confusions), strict=True)],
        "p": board.p[:SHOWN, :SHOWN].tolist(),
        "published": [
            {
                "method": p.method,
                "accuracy": p.accuracy,
                "flags": ", ".join(p.flags),
                "backbone": p.backbone,
                "pretraining": p.pretraining,
                "source": p.source + (" (cited there)" if p.cited else ""),
            }
            for p in in_order(published)
            if p.page_of(first)
        ],
    }


def _left_out(board: Board, confusions: int) -> list[str]:
    """Sentences on what the page does not show of a board."""
    rows = min(len(board), SHOWN)
    out = []
    if rows < len(board):
        out.append(f"The {rows} most accurate of {len(board)} rows are shown; leaderboard.csv has all of them.")
    if confusions < rows:
        out.append(f"Confusions are those of the first {confusions} rows.")
    return out


def _row_data(board: Board, published: list[Published], confusions: int) -> list[dict[str, Any]]:
    """What the page shows of each row in addition to its record."""
    compared = {v.entry.result.config_hash: v.published for v in reversed(verdicts(board, published))}
    out = []
    for place, entry in enumerate(board.entries[:SHOWN]):
        figure = compared.get(entry.result.config_hash)
        out.append(
            {
                "label": entry.row.title,
                "rank_text": rank_text(board, entry),
                "is_first": entry.statistics.is_first,
                "tuned_text": budget_text(entry.row, board.usual_budget) if board.usual_budget else None,
                "all_text": widths_text(entry.statistics.overall),
                "clips_text": widths_text(entry.statistics.clips),
                "controls_text": {kind: change_text(entry.statistics, kind) for kind in CONTROLS},
                "classwise": list(entry.statistics.classwise),
                "confusion": confusion(entry.row, board.plan(entry.row), entry.result.data.classes)
                if place < confusions
                else None,
                "published": figure
                and {"accuracy": figure.accuracy, "source": figure.source, "flags": ", ".join(figure.flags)},
            }
        )
    return out


def confusion(row: Row, plan: EpisodePlan, class_count: int) -> list[list[int]]:
    """How often queries of each class (line) were predicted as each class (column), over all seeds.

    Args:
        row: its predictions are counted.
        plan: its episodes.
        class_count: number of classes of the split.
    """
    out = np.zeros((class_count, class_count), np.int64)
    truth = np.repeat(plan.classes, plan.query.shape[2], axis=1)
    for seed in row.seeds:
        predicted = np.take_along_axis(plan.classes, seed.predictions().astype(np.int64), axis=1)
        np.add.at(out, (truth.ravel(), predicted.ravel()), 1)
    counts: list[list[int]] = out.tolist()
    return counts
