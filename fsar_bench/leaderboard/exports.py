"""Boards for other programs and for papers: flat records, CSV, JSON, LaTeX; and all files of a leaderboard."""

from __future__ import annotations

import json

import pandas as pd

from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.published import Published
from fsar_bench.leaderboard.tables import as_text, index, page, published_page

TEX_MARK = "% Made by fsar-bench leaderboard"


def records(all_boards: list[Board]) -> list[dict]:
    """One flat record a row; numbers are rounded to what repeats on any machine."""
    out = []
    for number, board in enumerate(all_boards):
        for i, (row, numbers) in enumerate(zip(board.rows, board.numbers, strict=True)):
            r = row.result
            p = r.protocol
            out.append(
                {
                    "board": number, "dataset": r.dataset.name, "synthetic": r.dataset.synthetic, "way": p.way, "shot": p.shot,
                    "query": p.query, "episodes": p.episodes, "plan": p.plan, "rank": numbers.rank, "method": r.method.name,
                    "title": r.method.title, "control": r.method.name in r.dataset.controls, "paper": r.method.paper,
                    "accuracy": numbers.accuracy, "half_width_episodes": numbers.episodes, "half_width_clips": numbers.clips,
                    "half_width_classes": numbers.classes, "half_width_seeds": numbers.seeds, "pair_accuracy": row.pair_accuracy,
                    "p_against_best": 1.0 if i == 0 else float(board.p[0, i]),
                    "backbone": r.backbone.name, "pretraining": r.backbone.pretraining, "class_names": r.traits.uses_class_names,
                    "transductive": r.traits.transductive, "trainable_parameters": r.parameters.trainable,
                    "parameters": r.parameters.total, "train_seconds": row.cost("seconds", "train"),
                    "encode_videos_per_second": row.rate(row.cost("videos"), "encode"),
                    "score_episodes_per_second": row.rate(p.episodes, "score"),
                    "memory_mb": row.cost("peak_memory_mb", "cuda") or row.cost("peak_memory_mb", "host"),
                    "seeds": len(row.seeds), "coverage": r.dataset.coverage,
                    "config_hashes": [s.result.config_hash for s in row.seeds],
                }
            )  # fmt: skip
            out[-1] = {k: _rounded(k, v) if isinstance(v, float) else v for k, v in out[-1].items()}
    return out


def _rounded(name: str, value: float) -> float:
    return value if name == "p_against_best" else round(value, 4)


def csv(rows: list[dict]) -> str:
    """Records as CSV; hashes of several seeds are joined by spaces."""
    flat = [{**row, "config_hashes": " ".join(row["config_hashes"])} for row in rows]
    return pd.DataFrame(flat).to_csv(index=False, lineterminator="\n")


def to_json(all_boards: list[Board], rows: list[dict]) -> str:
    """Boards with their notes, rows and adjusted p-values of all pairs."""
    data = [
        {
            "title": board.title,
            "note": board.note,
            "rows": [row for row in rows if row["board"] == number],
            "p": board.p.tolist(),
        }
        for number, board in enumerate(all_boards)
    ]
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


_LATEX = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)  # fmt: skip


def latex(board: Board) -> str:
    """A booktabs table for a paper: `\\usepackage{booktabs}`; the accuracies of the first rank in bold."""
    backbones = {row.result.backbone.name for row in board.rows}
    lines = []
    for row, n in zip(board.rows, board.numbers, strict=True):
        accuracy = f"{n.accuracy:.2f}"
        cells = [
            str(n.rank),
            row.title.translate(_LATEX),
            *([row.result.backbone.name.translate(_LATEX)] if len(backbones) > 1 else []),
            rf"\textbf{{{accuracy}}}" if n.rank == 1 else accuracy,
            as_text(n.clips, 2).translate(_LATEX),
            as_text(n.episodes, 2).translate(_LATEX),
            f"{row.result.parameters.trainable / 1e6:.2f}",
        ]
        lines.append(" & ".join(cells) + r" \\")
    several = " & Backbone" if len(backbones) > 1 else ""
    caption = (
        f"{board.title}. Accuracy (%) with 95 % intervals over clips and over episodes, trained parameters in millions; rows "
        "that a paired test over clips can't tell from the best share its rank. "
        + ("" if several else f"Backbone: {backbones.pop()}. ")
        + board.note
    )
    return "\n".join(
        [
            f"{TEX_MARK}. Needs \\usepackage{{booktabs}}.",
            r"\begin{table}[t]",
            r"\centering",
            r"\small",
            rf"\caption{{{caption.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{rl{'l' if several else ''}rrrr}}",
            r"\toprule",
            rf"Rank & Method{several} & Accuracy & $\pm$ clips & $\pm$ episodes & Trained \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def pages(all_boards: list[Board], published: list[Published]) -> dict[str, str]:
    """Generated text of all files by name: markdown (to be put between markers), CSV, LaTeX and JSON."""
    out: dict[str, str] = {}
    groups: dict[str, list[Board]] = {}
    for board in all_boards:
        groups.setdefault(board.page, []).append(board)
    for name, group in groups.items():
        out[f"{name}.md"] = page(group, published)
        out[f"{name}.tex"] = "\n".join(latex(board) for board in group)
    rows = records(all_boards)
    out["leaderboard.csv"] = csv(rows)
    out["leaderboard.json"] = to_json(all_boards, rows)
    if published:
        out["published.md"] = published_page(published)
    out["README.md"] = index(all_boards, published)
    return out
