"""Boards for other programs and for papers: flat records, CSV, JSON, LaTeX; and the text of all generated files."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pandas as pd

from fsar_bench.leaderboard.boards import Board, Entry
from fsar_bench.leaderboard.budgets import budget_text, is_unequal
from fsar_bench.leaderboard.published import Published
from fsar_bench.leaderboard.ranking import RowStatistics
from fsar_bench.leaderboard.tables import (
    CONTROLS,
    SHOWN,
    as_text,
    index,
    left_out,
    page,
    published_page,
    rank_text,
    widths_text,
)
from fsar_bench.texts.escapes import csv_cell

TEX_MARK = "% Made by fsar-bench leaderboard"
Record = dict[str, Any]  # one flat row of the exports, by field


def records(all_boards: list[Board], most: int | None = None) -> list[Record]:
    """One flat record per row; numbers are rounded to what repeats on any machine.

    Args:
        all_boards: in the order that numbers them.
        most: rows of a board; None: all of them.
    """
    return [
        {name: _rounded(name, value) for name, value in _record(number, board, place).items()}
        for number, board in enumerate(all_boards)
        for place in range(len(board.rows[:most]))
    ]


def _record(number: int, board: Board, place: int) -> Record:
    """The row at one place of the board with that number."""
    entry = board.entries[place]
    return {
        "board": number,
        **_protocol_fields(entry),
        **_score_fields(entry),
        "p_against_best": entry.statistics.p_against_best,
        **_cost_fields(entry),
        **_tuning_fields(board, entry),
    }


def _protocol_fields(entry: Entry) -> Record:
    result, p, label = entry.result, entry.result.protocol, entry.result.cell.label
    return {
        "dataset": result.dataset,
        "synthetic": label.synthetic,
        "split": p.split,
        "way": p.way,
        "shot": p.shot,
        "query": p.query,
        "episodes": p.episodes,
        "plan": result.episodes.plan,
        "rank_best": entry.statistics.rank[0],
        "rank_worst": entry.statistics.rank[1],
        "may_be_best": entry.statistics.may_be_best,
        "above_chance": entry.statistics.above_chance,
        "method": result.name,
        "title": label.row,
        "control": label.control,
        "submitted": result.submitted,
        "paper": label.paper,
    }


def _score_fields(entry: Entry) -> Record:
    statistics = entry.statistics
    overall, clips = statistics.overall, statistics.clips
    return {
        "accuracy": statistics.accuracy,
        "half_width_all": overall and overall.half,
        "low_all": overall and statistics.accuracy - overall.below,
        "high_all": overall and statistics.accuracy + overall.above,
        "half_width_clips": clips and clips.half,
        "low_clips": clips and statistics.accuracy - clips.below,
        "high_clips": clips and statistics.accuracy + clips.above,
        "half_width_classes": statistics.classes,
        "half_width_episodes": statistics.episodes,
        "half_width_seeds": statistics.seeds,
        "pair_accuracy": entry.row.pair_accuracy,
        "half_width_pairs": statistics.pairs,
        **_control_fields(statistics),
    }


def _control_fields(statistics: RowStatistics) -> Record:
    fields: Record = {"blind_to_order": statistics.is_blind_to_order}
    for kind in CONTROLS:
        change = statistics.controls.get(kind)
        fields |= {f"change_{kind}": change and change.difference, f"half_width_{kind}": change and change.half_width}
    return fields


def _cost_fields(entry: Entry) -> Record:
    row, result = entry.row, entry.result
    return {
        "backbone": result.backbone_name,
        "pretraining": result.backbone.pretraining,
        "trained_on": result.trained_on,
        "class_names": result.traits.uses_class_names,
        "transductive": result.traits.transductive,
        "ignores_supports": result.traits.ignores_supports,
        "trainable_parameters": result.parameters.trainable,
        "parameters": result.parameters.total,
        "train_seconds": row.train_seconds,
        "encode_videos_per_second": row.videos_per_second,
        "score_episodes_per_second": row.episodes_per_second,
        "memory_mb": row.memory_mb,
        "seeds": len(row.seeds),
        "coverage": result.data.coverage,
        "checkpoints": [seed.result.checkpoint for seed in row.seeds if seed.result.checkpoint],
        "config_hashes": [seed.result.config_hash for seed in row.seeds],
    }


def _tuning_fields(board: Board, entry: Entry) -> Record:
    tuned, cell = entry.result.cell.label.tuned, entry.result.cell
    return {
        "tuned_trials": tuned and tuned.trials,
        "tuned_episodes": tuned and tuned.episodes,
        "tuned_changed": None if tuned is None else not cell.is_as_tuned,
        "unequal_tuning": is_unequal(entry.row, board.usual_budget),
    }


def _rounded(name: str, value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) and name != "p_against_best" else value


def csv(rows: list[Record]) -> str:
    """Records as CSV; checkpoints and hashes of several seeds are joined by spaces, and no text is a formula."""
    joined = ("checkpoints", "config_hashes")
    flat = [{**row, **{name: " ".join(row[name]) for name in joined}} for row in rows]
    frame = pd.DataFrame({k: csv_cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in flat)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def by_board(rows: list[Record]) -> defaultdict[int, list[Record]]:
    """Records by the number of their board."""
    out: defaultdict[int, list[Record]] = defaultdict(list)
    for row in rows:
        out[row["board"]].append(row)
    return out


def json_text(all_boards: list[Board], rows: list[Record]) -> str:
    """Boards with their notes, rows and adjusted p-values of pairs (see `Board.p`); fields keep the order of the CSV."""
    rows_of = by_board(rows)
    data = [
        {
            "title": board.title,
            "note": board.note,
            "ranks_checkpoints": board.of_checkpoints,
            "clips": board.statistics.clips,
            "recordings": board.statistics.recordings,
            "rows": rows_of[number],
            "p": board.p.tolist(),
        }
        for number, board in enumerate(all_boards)
    ]
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_LATEX = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "<": r"\textless{}",
        ">": r"\textgreater{}", "×": r"$\times$", "†": r"$\dagger$",
    }
)  # fmt: skip


def latex(board: Board) -> str:
    r"""A table for a paper that uses `\usepackage{booktabs}`; accuracies of rows whose rank may be 1 are in bold."""
    backbones = {row.result.backbone_name for row in board.rows}
    shows_backbone, shows_all = (
        len(backbones) > 1,
        any(e.statistics.overall and e.row.is_trained for e in board.entries),
    )
    of_all = "over clips and trainings, " * shows_all
    caption = (
        f"{board.title}. Accuracy (%) with 95 % intervals {of_all}over clips{', by recording,' * board.by_recording} and over "
        "episodes, trained parameters in millions; ranks are simultaneous 95 % intervals (paired tests, Holm), bold where the "
        "rank may be 1. " + ("" if shows_backbone else f"Backbone: {backbones.pop()}. ") + board.note
    )
    usual = board.usual_budget
    caption = " ".join(filter(None, [caption, board.budget_note]))
    columns = ["Rank", "Method", *["Backbone"] * shows_backbone, "Accuracy", *[r"$\pm$ all"] * shows_all]
    columns += [r"$\pm$ clips", r"$\pm$ episodes", "Trained", *["Tuned"] * (usual is not None)]
    shown = board.entries[:SHOWN]
    tuned = [[budget_text(entry.row, usual).translate(_LATEX)] if usual else [] for entry in shown]
    lines = [
        _latex_line(board, entry, shows_backbone, shows_all, more) for entry, more in zip(shown, tuned, strict=True)
    ]
    return "\n".join(
        [
            f"{TEX_MARK}. Needs \\usepackage{{booktabs}}.",
            r"\begin{table}[t]",
            r"\centering",
            r"\small",
            rf"\caption{{{caption.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{rl{'l' * shows_backbone}{'r' * (4 + shows_all + (usual is not None))}}}",
            r"\toprule",
            " & ".join(columns) + r" \\",
            r"\midrule",
            *lines,
            *[f"% {left_out(board)}"] * (len(board) > SHOWN),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_line(board: Board, entry: Entry, shows_backbone: bool, shows_all: bool, more: list[str]) -> str:
    statistics = entry.statistics
    accuracy = f"{statistics.accuracy:.2f}"
    cells = [
        rank_text(board, entry).translate(_LATEX),
        entry.row.title.translate(_LATEX),
        *[entry.result.backbone_name.translate(_LATEX)] * shows_backbone,
        rf"\textbf{{{accuracy}}}" if statistics.is_first else accuracy,
        *[widths_text(statistics.overall).translate(_LATEX)] * shows_all,
        widths_text(statistics.clips).translate(_LATEX),
        as_text(statistics.episodes, 2).translate(_LATEX),
        f"{entry.result.parameters.trainable / 1e6:.2f}",
        *more,
    ]
    return " & ".join(cells) + r" \\"


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
    out["leaderboard.json"] = json_text(all_boards, rows)
    if published:
        out["published.md"] = published_page(published)
    out["README.md"] = index(all_boards, published)
    return out
