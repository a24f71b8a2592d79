"""Boards as markdown, CSV, LaTeX and JSON: fixed order, fixed formats, the same bytes for the same results."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pandas as pd

from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.boards import Board, Numbers, Row, same_episodes
from fsar_bench.leaderboard.published import Published, verdicts

TEXT_COLUMNS = ("method", "backbone", "pre-training", "names", "transd.", "dataset", "source", "published", "inside")
BEGIN, END = "<!-- fsar-bench:begin (made from results/; edits inside are lost) -->", "<!-- fsar-bench:end -->"
LEGEND = (
    "Accuracy: percent of queries. ± episodes: half-width of the 95 % interval over episodes of these clips, as papers print it. "
    "± clips: over other clips of these classes, the wider and honest one. Rows that paired tests over clips "
    "(Holm-corrected, 5 %) can't tell from the best share its rank; the first rank is bold. Names: class names reach the "
    "prediction. Transd.: queries are seen together. Parameters in millions. Times and memory are of the machine named in "
    "each cost file. "
)
LEGEND_PAIR = (
    "Pair: among queries whose time-reversed class is in the episode, percent that score the true class above it "
    "(blind to order: 50). "
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
        "± episodes": as_text(numbers.episodes, 2),
        "± clips": as_text(numbers.clips, 2),
        "± seeds": as_text(numbers.seeds, 2),
        "pair %": as_text(row.pair_accuracy, 1),
        "backbone": result.backbone.name,
        "pre-training": result.backbone.pretraining,
        "names": "yes" if result.traits.uses_class_names else "no",
        "transd.": "yes" if result.traits.transductive else "no",
        "trained M": f"{result.parameters.trainable / 1e6:.2f}",
        "total M": f"{result.parameters.total / 1e6:.2f}",
        "train s": as_text(row.cost("seconds", "train"), 1),
        "encode videos/s": as_text(row.rate(videos, "encode"), 0),
        "score episodes/s": as_text(row.rate(episodes, "score"), 0),
        "memory GB": as_text((memory or host or 0) / 1000 or None, 1),
        "seeds": str(len(row.seeds)),
        "coverage %": f"{100 * result.dataset.coverage:.2f}".removesuffix(".00"),
    }


def as_text(value: float | None, digits: int) -> str:
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
    safe = table.map(_safe)
    return safe.to_markdown(index=False, colalign=align, disable_numparse=True)


def _safe(text: str) -> str:
    """A cell whose text is neither markup nor a link; bold stays."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")


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
    "Same dataset, way, shot and architecture; the episodes, frames and crops of a paper are not known. Inside: "
    "the published figure lies in our interval over clips."
)
_PUBLISHED_NOTE = (
    "Not measured here: figures as their sources state them, on episodes of their own. Never ranked with measured rows."
)


def _verdict_frame(found: list) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": v.row.title,
            "published": v.published.method,
            "pre-training": v.row.result.backbone.pretraining,
            "paper %": f"{v.published.accuracy:.1f}",
            "ours %": f"{v.numbers.accuracy:.2f}",
            "difference": f"{v.numbers.accuracy - v.published.accuracy:+.2f}",
            "± clips": as_text(v.numbers.clips, 2),
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
    a, b = same_episodes(one.result), same_episodes(two.result)
    out = [field for field in a if a[field] != b[field]]
    if out == ["plan"]:
        named = [f for f in ("query", "episodes", "seed", "group_disjoint") if _protocol(one, f) != _protocol(two, f)]
        out = [f"plan ({', '.join(named)})"] if named else out
    complete = one.result.dataset.coverage == two.result.dataset.coverage == 1
    if not out and complete and one.result.dataset.fingerprint != two.result.dataset.fingerprint:
        out = ["the content of the clips"]
    return out or ["the completeness of the clips"]


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
        out += [
            "",
            f"Published figures of the literature, apart from what is measured here: "
            f"[published.md](published.md), {len(published)} figures.",
        ]
    return "\n".join([*out, ""])


_OVERVIEW_NOTE = (
    "Accuracy in percent and, in brackets, the rank; ties share it. Average rank is over the columns a method "
    "has, and is comparable only between methods that have the same ones."
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


def without_block(text: str) -> str:
    """What of a page was written by hand; empty where nothing was."""
    before, _, rest = text.partition(BEGIN)
    left = f"{before.rstrip()}\n\n{rest.partition(END)[2].strip()}".strip()
    return f"{left}\n" if left else ""


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


def published_page(published: list[Published]) -> str:
    """All published figures, a table for each dataset, way and shot."""
    out = ["# Published figures", "", _PUBLISHED_NOTE, ""]
    out += [
        "Cited: the source only repeats the figure of another paper.",
        "",
    ]
    groups: dict[tuple[str, int, int], list[Published]] = defaultdict(list)
    for p in published:
        groups[p.dataset, p.way, p.shot].append(p)
    for (dataset, way, shot), some in sorted(groups.items()):
        out += [f"## {dataset}, {way}-way {shot}-shot", "", _markdown(published_frame(some)), ""]
    return "\n".join(out)
