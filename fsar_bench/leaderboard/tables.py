"""Boards as markdown, CSV, LaTeX and JSON: fixed order, fixed formats, the same bytes for the same results."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pandas as pd

from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.boards import Board, Numbers, Row
from fsar_bench.leaderboard.published import Published, verdicts

TEXT_COLUMNS = ("method", "backbone", "pre-training", "names", "transd.", "dataset", "source", "published", "inside")
BEGIN, END = "<!-- fsar-bench:begin (made from results/; edits inside are lost) -->", "<!-- fsar-bench:end -->"
LEGEND = (
    "Accuracy: percent of queries. ± episodes: half-width of the 95 % interval over episodes of these clips, as papers print it. "
    "± clips: over other clips of these classes, the wider and honest one. Rows that paired tests over clips (Holm-corrected, 5 %) "
    "can't tell from the best share its rank; the first rank is bold. Names: class names reach the prediction. Transd.: queries are "
    "seen together. Parameters in millions. Times and memory are of the machine named in each cost file. "
)
LEGEND_PAIR = (
    "Pair: among queries whose time-reversed class is in the episode, percent that score the true class above it (blind to order: 50). "
)
SYNTHETIC = "Measured on synthetic clips: for trying, testing and teaching. Not comparable with real datasets."


def frame(board: Board) -> pd.DataFrame:
    """The table of a board as text, in its order; chance comes last."""
    records = [_record(row, numbers) for row, numbers in zip(board.rows, board.numbers, strict=True)]
    chance = dict.fromkeys(records[0], "")
    chance |= {"rank": "–", "method": "Chance (1 / way)", "accuracy %": f"{100 / board.first.protocol.way:.2f}"}
    table = pd.DataFrame([*records, chance])
    for column, empty in (("pair %", "–"), ("± seeds", "–")):
        if set(table[column]) <= {empty, ""}:
            table = table.drop(columns=column)
    return table


def _record(row: Row, numbers: Numbers) -> dict[str, str]:
    result = row.result
    videos, episodes = row.cost("videos"), result.protocol.episodes
    memory = row.cost("peak_memory_mb", "cuda")
    host = row.cost("peak_memory_mb", "host")
    return {
        "rank": str(numbers.rank),
        "method": row.title,
        "accuracy %": f"{numbers.accuracy:.2f}",
        "± episodes": _number(numbers.episodes, 2),
        "± clips": _number(numbers.clips, 2),
        "± seeds": _number(numbers.seeds, 2),
        "pair %": _number(row.pair_accuracy, 1),
        "backbone": result.backbone.name,
        "pre-training": result.backbone.pretraining,
        "names": "yes" if result.traits.uses_class_names else "no",
        "transd.": "yes" if result.traits.transductive else "no",
        "trained M": f"{result.parameters.trainable / 1e6:.2f}",
        "total M": f"{result.parameters.total / 1e6:.2f}",
        "train s": _number(row.cost("seconds", "train"), 1),
        "encode videos/s": _number(row.rate(videos, "encode"), 0),
        "score episodes/s": _number(row.rate(episodes, "score"), 0),
        "memory GB": _number((memory or host or 0) / 1000 or None, 1),
        "seeds": str(len(row.seeds)),
        "coverage %": f"{100 * result.dataset.coverage:.2f}".removesuffix(".00"),
    }


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def markdown(board: Board) -> str:
    """The table of a board, the accuracies of the first rank in bold."""
    table = frame(board)
    for i, numbers in enumerate(board.numbers):
        if numbers.rank == 1:
            table.loc[i, "accuracy %"] = f"**{table.loc[i, 'accuracy %']}**"
    return _markdown(table)


def _markdown(table: pd.DataFrame) -> str:
    align = ["left" if column in TEXT_COLUMNS else "right" for column in table.columns]
    safe = table.map(lambda text: text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " "))
    return safe.to_markdown(index=False, colalign=align, disable_numparse=True)


def page(group: list[Board], published: list[Published]) -> str:
    """Markdown of all boards of one dataset, way and shot, and what was published of them."""
    first = group[0]
    out = [f"# {first.title}", ""]
    if first.first.dataset.synthetic:
        out += [SYNTHETIC, ""]
    out += [LEGEND + (LEGEND_PAIR if any(row.pair_accuracy is not None for b in group for row in b.rows) else ""), ""]
    for number, board in enumerate(group, 1):
        if len(group) > 1:
            out += [f"## Board {number} of {len(group)}", "", _apart(group, number - 1), ""]
        out += [board.note, "", markdown(board), ""]
        found = verdicts(board, published)
        if found:
            out += ["### Published beside measured", "", _VERDICT_NOTE, "", _markdown(_verdict_frame(found)), ""]
    mine = [p for p in published if p.page_of(first.first)]
    if mine:
        out += ["## Published", "", _PUBLISHED_NOTE, "", _markdown(published_frame(mine)), ""]
    return "\n".join(out)


_VERDICT_NOTE = (
    "Same dataset, way, shot and backbone; the episodes, frames and crops of a paper are not known. Inside: the published figure lies "
    "in our interval over clips."
)
_PUBLISHED_NOTE = "Not measured here: figures as their sources state them, on episodes of their own. Never ranked with the rows above."


def _verdict_frame(found: list) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": v.row.title,
            "published": v.published.method,
            "paper %": f"{v.published.accuracy:.1f}",
            "ours %": f"{v.numbers.accuracy:.2f}",
            "difference": f"{v.numbers.accuracy - v.published.accuracy:+.2f}",
            "± clips": _number(v.numbers.clips, 2),
            "inside": {True: "yes", False: "no", None: "–"}[v.inside],
            "source": v.published.source,
        }
        for v in found
    )


def published_frame(rows: list[Published]) -> pd.DataFrame:
    """Published figures, best first; figures that another paper only cites are marked."""
    ordered = sorted(rows, key=lambda p: (-p.accuracy, p.method, p.backbone, p.source))
    return pd.DataFrame(
        {
            "method": p.method,
            "accuracy %": f"{p.accuracy:.1f}" + (" (cited)" if p.cited else ""),
            "backbone": p.backbone,
            "pre-training": p.pretraining,
            "year": p.year,
            "source": p.source,
        }
        for p in ordered
    )


def _apart(group: list[Board], number: int) -> str:
    """Which fields keep a board from being ranked with the first one."""
    if number == 0:
        return "These boards differ in what must be equal, so that their rows are not ranked together."
    fields = differing(group[0].rows[0], group[number].rows[0])
    return f"Not ranked with board 1: {', '.join(fields)} differ."


def differing(one: Row, two: Row) -> list[str]:
    """Names of the fields that keep two rows from being ranked together."""
    from fsar_bench.leaderboard.boards import same_episodes

    a, b = same_episodes(one.result), same_episodes(two.result)
    out = [field for field in a if a[field] != b[field]]
    if out == ["plan"]:
        named = [f for f in ("query", "episodes", "seed", "group_disjoint") if _protocol(one, f) != _protocol(two, f)]
        out = [f"plan ({', '.join(named)})"] if named else out
    complete = one.result.dataset.coverage == two.result.dataset.coverage == 1
    if not out and complete and one.result.dataset.fingerprint != two.result.dataset.fingerprint:
        out = ["the content of the clips"]
    return out


def _protocol(row: Row, field: str) -> object:
    return getattr(row.result.protocol, field)


def index(all_boards: list[Board], published: list[Published]) -> str:
    """All methods over all boards: accuracy with rank, and the average rank over the boards a method is on."""
    out = ["# Leaderboards", ""]
    synthetic = [board for board in all_boards if board.first.dataset.synthetic]
    real = [board for board in all_boards if not board.first.dataset.synthetic]
    for title, some in (("Real datasets", real), ("Synthetic data", synthetic)):
        if some:
            out += [f"## {title}", ""]
            out += [SYNTHETIC, ""] if some is synthetic else []
            out += [_markdown(_overview(some)), "", _OVERVIEW_NOTE, ""]
    out += [
        f"- [{board.title}]({board.page}.md): {len(board.rows)} rows, best {board.rows[0].title} {board.rows[0].accuracy:.2f} %"
        for board in all_boards
    ]
    if published:
        out += ["", f"Published figures of the literature, apart from what is measured here: [published.md](published.md), {len(published)} figures."]
    return "\n".join([*out, ""])


_OVERVIEW_NOTE = (
    "Accuracy in percent and, in brackets, the rank; ties share it. Average rank is over the columns a method has, and is comparable only "
    "between methods that have the same ones."
)


def _overview(some: list[Board]) -> pd.DataFrame:
    names = _short_names(some)
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    ranks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, board in zip(names, some, strict=True):
        for row, numbers in zip(board.rows, board.numbers, strict=True):
            key = (row.title, row.result.backbone.name)
            text = f"{numbers.accuracy:.2f} ({numbers.rank})"
            if name in cells[key]:  # same title, another config: both are shown
                text = f"{cells[key][name]}, {text}"
            cells[key][name] = f"**{text}**" if numbers.rank == 1 and name not in cells[key] else text
            ranks[key].append(numbers.rank)
    order = sorted(cells, key=lambda key: (-len(cells[key]), fmean(ranks[key]), key))
    return pd.DataFrame(
        {
            "method": title,
            "backbone": backbone,
            "average rank": f"{fmean(ranks[title, backbone]):.1f}",
            "boards": str(len(cells[title, backbone])),
            **{name: cells[title, backbone].get(name, "") for name in names},
        }
        for title, backbone in order
    )


def _short_names(some: list[Board]) -> list[str]:
    out: list[str] = []
    for board in some:
        p = board.first.protocol
        name = f"{board.first.dataset.name} {p.way}w{p.shot}s"
        out.append(f"{name} #{sum(n.startswith(name) for n in out) + 1}" if name in out else name)
    return out


def records(all_boards: list[Board]) -> list[dict]:
    """One flat record a row, with full precision where that repeats."""
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
            out[-1] = {k: round(v, 4) if isinstance(v, float) else v for k, v in out[-1].items()}
    return out


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
        "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    }
)  # fmt: skip


def latex(board: Board) -> str:
    """A booktabs table for a paper: `\\usepackage{booktabs}`; the accuracies of the first rank in bold."""
    lines = []
    for row, n in zip(board.rows, board.numbers, strict=True):
        accuracy = f"{n.accuracy:.2f}"
        accuracy = rf"\textbf{{{accuracy}}}" if n.rank == 1 else accuracy
        cells = [
            row.title.translate(_LATEX),
            row.result.backbone.name.translate(_LATEX),
            f"{row.result.parameters.trainable / 1e6:.2f}",
            f"{accuracy} $\\pm$ {_number(n.clips, 2).translate(_LATEX)}",
            _number(n.episodes, 2).translate(_LATEX),
            str(n.rank),
        ]
        lines.append(" & ".join(cells) + r" \\")
    caption = (
        f"{board.title}. Accuracy (\\%) with 95 % intervals over clips and over episodes; rows that a paired test over clips can't tell "
        "from the best share its rank. "
    )
    caption = caption.replace("\\%", "%").translate(_LATEX) + board.note.translate(_LATEX)
    return "\n".join(
        [
            "% Made by fsar-bench leaderboard. Needs \\usepackage{booktabs}.",
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\begin{tabular}{llrrrr}",
            r"\toprule",
            r"Method & Backbone & Trained (M) & Accuracy $\pm$ clips & $\pm$ episodes & Rank \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def into_page(path: Path, generated: str) -> str:
    """The text of a page with its generated block replaced; what is written outside the markers stays.

    Raises:
        ResultError: the page has one of the markers alone.
    """
    block = f"{BEGIN}\n{generated.rstrip()}\n{END}\n"
    if not path.is_file():
        return block
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n{block}" if text.strip() else block
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before:
        raise ResultError(f"{path} has lost one of its markers {BEGIN!r} and {END!r}. Put it back, or delete the page.")
    return before + block.rstrip() + (after if after.startswith("\n") else f"\n{after}")


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


def published_page(published: list[Published]) -> str:
    """All published figures, a table for each dataset, way and shot."""
    out = ["# Published figures", "", _PUBLISHED_NOTE, ""]
    out += ["Cited: the source only repeats the figure of another paper. The file is [published.csv](published.csv).", ""]
    groups: dict[tuple[str, int, int], list[Published]] = defaultdict(list)
    for p in published:
        groups[p.dataset, p.way, p.shot].append(p)
    for (dataset, way, shot), some in sorted(groups.items()):
        out += [f"## {dataset}, {way}-way {shot}-shot", "", _markdown(published_frame(some)), ""]
    return "\n".join(out)
