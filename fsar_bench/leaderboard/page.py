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
from fsar_bench.leaderboard.exports import Record, records
from fsar_bench.leaderboard.published import Published, verdicts
from fsar_bench.leaderboard.rows import Row
from fsar_bench.plan import EpisodePlan


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
    rows = records(all_boards)
    boards = []
    for number, board in enumerate(all_boards):
        of_board = [row for row in rows if row["board"] == number]
        boards.append(_board_data(board, of_board, published))
    return {"version": __version__, "boards": boards}


def _board_data(board: Board, rows: list[Record], published: list[Published]) -> dict[str, Any]:
    first = board.first
    class_count, plan = first.data.classes, board.plan(board.rows[0])
    return {
        "title": board.title,
        "note": board.note,
        "synthetic": first.cell.label.synthetic,
        "chance": 100 / first.protocol.way,
        "classes": [plan.name(c).replace("_", " ") for c in range(class_count)],
        "rows": [row | extra for row, extra in zip(rows, _row_data(board, published), strict=True)],
        "p": board.p.tolist(),
        "published": [
            {
                "method": p.method,
                "accuracy": p.accuracy,
                "backbone": p.backbone,
                "pretraining": p.pretraining,
                "source": p.source + (" (cited there)" if p.cited else ""),
            }
            for p in sorted(published, key=lambda p: (-p.accuracy, p.method, p.source))
            if p.page_of(first)
        ],
    }


def _row_data(board: Board, published: list[Published]) -> list[dict[str, Any]]:
    """What the page shows of each row in addition to its record."""
    compared = {v.entry.result.config_hash: v.published for v in reversed(verdicts(board, published))}
    out = []
    for entry in board.entries:
        plan, figure = board.plan(entry.row), compared.get(entry.result.config_hash)
        out.append(
            {
                "label": entry.row.title,
                "classwise": list(entry.statistics.classwise),
                "confusion": confusion(entry.row, plan, entry.result.data.classes),
                "published": figure and {"accuracy": figure.accuracy, "source": figure.source},
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
