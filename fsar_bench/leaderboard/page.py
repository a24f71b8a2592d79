"""One self-contained page of all boards: no network, works from disk. Drawn by plotly.js, which is put inside."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from fsar_bench import __version__
from fsar_bench.io import write_atomically
from fsar_bench.leaderboard.boards import Board, Row
from fsar_bench.leaderboard.exports import records
from fsar_bench.leaderboard.published import Published, verdicts


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
    write_atomically(path, html.encode())
    return path


def page_data(all_boards: list[Board], published: list[Published]) -> dict:
    """What the page shows, as plain values."""
    rows = records(all_boards)
    out = []
    for number, board in enumerate(all_boards):
        plans = [board.plan(row) for row in board.rows]
        mine = [row for row in rows if row["board"] == number]
        for record, row, numbers, plan in zip(mine, board.rows, board.numbers, plans, strict=True):
            record |= {"label": row.title, "classwise": list(numbers.classwise)}
            record |= {"confusion": confusion(row, plan.classes, plan.query.shape[2], row.result.dataset.classes)}
        found = {v.row.result.config_hash: v for v in reversed(verdicts(board, published))}
        for record in mine:
            verdict = found.get(record["config_hashes"][0])
            record["published"] = verdict and {
                "accuracy": verdict.published.accuracy,
                "source": verdict.published.source,
            }
        out.append(
            {
                "title": board.title,
                "note": board.note,
                "synthetic": board.first.dataset.synthetic,
                "chance": 100 / board.first.protocol.way,
                "classes": [plans[0].name(c).replace("_", " ") for c in range(board.first.dataset.classes)],
                "rows": mine,
                "p": board.p.tolist(),
                "published": [
                    {"method": p.method, "accuracy": p.accuracy, "backbone": p.backbone, "pretraining": p.pretraining,
                     "source": p.source + (" (cited there)" if p.cited else "")}
                    for p in sorted(published, key=lambda p: (-p.accuracy, p.method, p.source))
                    if p.page_of(board.first)
                ],
            }
        )  # fmt: skip
    return {"version": __version__, "boards": out}


def confusion(row: Row, classes: np.ndarray, query: int, count: int) -> list[list[int]]:
    """How often queries of each class (line) were taken for each class (column), over all seeds."""
    out = np.zeros((count, count), np.int64)
    truth = np.repeat(classes, query, axis=1)
    for seed in row.seeds:
        taken = np.take_along_axis(classes, seed.predictions().astype(np.int64), axis=1)
        np.add.at(out, (truth.ravel(), taken.ravel()), 1)
    return out.tolist()
