"""Boards as markdown and as pandas tables: fixed order, fixed formats, the same bytes for the same results."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import fmean

import pandas as pd

from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.boards import NOT_TEST, Board, Entry, Gap
from fsar_bench.leaderboard.budgets import budget_text
from fsar_bench.leaderboard.published import Published, Verdict, in_order, verdicts
from fsar_bench.leaderboard.ranking import RowStatistics, Widths
from fsar_bench.leaderboard.rows import differing
from fsar_bench.texts.escapes import markdown as plain_markdown

TEXT_COLUMNS = (
    "may be best",
    "method",
    "backbone",
    "pre-training",
    "trained on",
    "checkpoint",
    "names",
    "transd.",
    "dataset",
    "source",
    "published",
    "reproduced",
    "flags",
)
CLIPS, BY_RECORDING = "± clips", "± clips, by recording"
CONTROLS = ("shuffled", "reversed", "middle", "differences")  # kinds of `frames_as`
BEGIN, END = "<!-- fsar-bench:begin (made from results/; edits inside are lost) -->", "<!-- fsar-bench:end -->"
LEGEND = (
    "Accuracy: percent of queries. Rank: from the best to the worst that a row may have, all of them right at once with 95 % "
    "confidence (paired tests, Holm-corrected); bold: the rank may be 1, and the row is told from chance. May be best: a set "
    "that holds the truly best row with 95 % confidence (Hsu's comparisons with the best). ± all: half-width of the 95 % "
    "interval over other clips of these classes and other trainings; a row with fewer than three trainings borrows how much "
    "they differ from rows with several. ± clips: over other clips, of these weights{unit}. ± classes: over other classes. ± "
    "episodes: over episodes of these clips, as papers print it. Near 0 or 100 % on few clips, both ends of an interval are "
    "given, and ranks are not to be trusted. Every class weighs the same, however many clips it has. Names: class names reach"
    " the prediction. Transd.: transductive, the queries of an episode are seen together, and what a clip does to the others "
    "is in no interval over clips. Parameters are in millions. Times and memory were measured on the machine named in each "
    "cost file; memory is the peak in GB (10^9 bytes), of the GPU where there was one, else of the host. "
)
LEGEND_UNIT = ", which vary together by recording"
LEGEND_CHECKPOINT = "*: one training: this ranks the checkpoint, not the method; ± all is not known. "
LEGEND_PAIR = (
    "Pair: among queries whose time-reversed class is in the episode, the percentage that scores the true class above it "
    "(blind to order: 50), with the half-width of its interval over clips. "
)
LEGEND_CONTROLS = (
    "Shuffled, reversed, middle, differences: change of the accuracy in points where the method sees the frames in a random "
    "order, queries backwards, the middle frame alone, or differences of neighbouring features (± 95 % interval over clips, "
    "paired); blind: shuffling changes less than 1 point, so the order of frames does not matter to it. "
)
LEGEND_TUNED = (
    "Tuned: trials × training episodes of each, with which the row's settings were chosen on val (changed: some were changed "
    "afterwards); a dash: those of its config, or nothing is trained. "
)
LEGEND_SUBMITTED = (
    "(submitted): predictions of another code base on these episodes; frames, crops and training are those of their own code "
    "and were not run here. "
)
SYNTHETIC = "Measured on synthetic clips: for trying, testing and teaching. Not comparable with real datasets."
_VERDICT_NOTE = (
    "Same dataset, way, shot and architecture; the episodes, frames and crops of a paper are not known. A paper tests on the "
    "same clips, so what may differ by chance are the episodes of both and the training. Reproduced: the difference is within"
    " the 95 % interval of these (±); with fewer than three trainings, too little is known of how much they differ, and there"
    " is no verdict; with one, ± is of the episodes alone."
)
_PUBLISHED_NOTE = (
    "Not measured here: figures as their sources state them, on their own episodes. Never ranked with measured rows."
)
_FLAGS_NOTE = (
    "Leak: in the released code, the labels of the queries reach their scores. Transductive: so do the other queries of the "
    "episode. Selected on test: the released code chooses the checkpoint on the test split. Unknown list: which clips were used "
    "is not known. No flag means that nothing of the kind is known."
)
_OVERVIEW_NOTE = (
    "Accuracy in percent and, in brackets, the rank (a star: of one training); bold: it may be 1. Mean difference: from "
    "{control}, in points, paired on the same episodes, over the boards that have both; ± is the 95 % interval over clips "
    "(and trainings, where there are several), as wide as if all boards had the same clips."
)
_OVERVIEW_ALONE = "Accuracy in percent and, in brackets, the rank (a star: of one training); bold: it may be 1."
_UNKNOWN = "–"
SHOWN = 1000  # rows of a board in tables that people read, the most accurate ones; CSV and JSON have all
OVERVIEW_BOARDS, OVERVIEW_METHODS = 40, 500  # columns and rows of the overview


def frame(board: Board, places: Sequence[int] | None = None) -> pd.DataFrame:
    """The table of a board as text, in its order; chance comes last.

    Args:
        board: the board.
        places: of the rows that are shown; None: the first `SHOWN`.
    """
    entries = board.entries[:SHOWN] if places is None else [board.entries[place] for place in places]
    lines = [_line(board, entry) for entry in entries]
    chance = dict.fromkeys(lines[0], "")
    chance |= {"rank": _UNKNOWN, "method": "Chance (1 / way)", "accuracy %": f"{100 / board.first.protocol.way:.2f}"}
    table = pd.DataFrame([*lines, chance])
    empty = [
        name
        for name in ("pair %", "± pair", "± all", "± seeds", "tuned", *CONTROLS)
        if set(table[name]) <= {_UNKNOWN, ""}
    ]
    if "± all" not in empty and table["± all"].equals(table[CLIPS]):  # nothing was trained
        empty.append("± all")
    if all(entry.result.trained_on in (None, entry.result.dataset) for entry in entries):
        empty.append("trained on")
    if not any("checkpoint" in entry.result.cell.identity.inputs for entry in entries):
        empty.append("checkpoint")
    table = table.drop(columns=empty)
    return table.rename(columns={CLIPS: BY_RECORDING}) if board.by_recording else table


def _line(board: Board, entry: Entry) -> dict[str, str]:
    """A row as text, by column."""
    row, result, statistics = entry.row, entry.result, entry.statistics
    memory = row.memory_mb
    return {
        "rank": rank_text(board, entry),
        "may be best": "yes" if statistics.may_be_best else "",
        "method": row.title,
        "accuracy %": f"{statistics.accuracy:.2f}",
        "± all": widths_text(statistics.overall),
        CLIPS: widths_text(statistics.clips),
        "± classes": as_text(statistics.classes, 2),
        "± episodes": as_text(statistics.episodes, 2),
        "± seeds": as_text(statistics.seeds, 2),
        "pair %": as_text(row.pair_accuracy, 1),
        "± pair": as_text(statistics.pairs, 1),
        **{kind: change_text(statistics, kind) for kind in CONTROLS},
        "backbone": result.backbone_name,
        "pre-training": result.backbone.pretraining,
        "trained on": result.trained_on or _UNKNOWN,
        "checkpoint": ", ".join(seed.result.checkpoint or _UNKNOWN for seed in row.seeds),
        "names": "yes" if result.traits.uses_class_names else "no",
        "transd.": "yes" if result.traits.transductive else "no",
        "tuned": budget_text(row, board.usual_budget),
        "trained M": f"{result.parameters.trainable / 1e6:.2f}",
        "total M": f"{result.parameters.total / 1e6:.2f}",
        "train s": as_text(row.train_seconds, 1),
        "encode videos/s": as_text(row.videos_per_second, 0),
        "score episodes/s": as_text(row.episodes_per_second, 0),
        "memory GB": as_text(memory and memory / 1000, 1),
        "seeds": str(len(row.seeds)),
        "coverage %": f"{100 * result.data.coverage:.2f}".removesuffix(".00"),
    }


def rank_text(board: Board, entry: Entry) -> str:
    """The ranks that a row may have, such as 2–5; with * where they are of a checkpoint."""
    best, worst = entry.statistics.rank
    of_checkpoint = board.of_checkpoints and entry.row.is_trained
    return (str(best) if best == worst else f"{best}–{worst}") + "*" * of_checkpoint


def change_text(statistics: RowStatistics, kind: str) -> str:
    """What a control changes, such as -12.3 ± 0.9; a dash where it was not run."""
    change = statistics.controls.get(kind)
    if change is None:
        return _UNKNOWN
    width = "" if change.half_width is None else f" ± {change.half_width:.1f}"
    blind = " blind" if kind == "shuffled" and change.is_none else ""
    return f"{change.difference:+.1f}{width}{blind}"


def as_text(value: float | None, digits: int) -> str:
    """A number with fixed digits; a dash for None."""
    return _UNKNOWN if value is None else f"{value:.{digits}f}"


def widths_text(widths: Widths | None) -> str:
    """How far an interval reaches: one number, or both ends where they differ; a dash for None."""
    if widths is None:
        return _UNKNOWN
    if round(widths.below, 2) == round(widths.above, 2):
        return f"{widths.below:.2f}"
    return f"-{widths.below:.1f} +{widths.above:.1f}"


def html(board: Board) -> str:
    """The table of a board for a notebook."""
    note = " ".join(filter(None, [board.note, left_out(board), board.budget_note]))
    texts = f"<p><b>{escape(board.title)}</b><br>{escape(note)}</p>"
    return f'<div class="tex2jax_ignore mathjax_ignore">{texts}{frame(board).to_html(index=False)}</div>'


def left_out(board: Board) -> str:
    """A sentence for a board with more rows than a table shows; else empty."""
    if len(board) <= SHOWN:
        return ""
    return f"The {SHOWN} most accurate of {len(board)} rows are shown; leaderboard.csv has all of them."


def markdown(board: Board) -> str:
    """The table of a board; in bold the accuracies of rows whose rank may be 1, and that are told from chance."""
    table = frame(board).map(plain_markdown)
    for i, entry in enumerate(board.entries[:SHOWN]):
        if entry.statistics.is_first:
            table.loc[i, "accuracy %"] = f"**{entry.statistics.accuracy:.2f}**"
    return _markdown(table)


def _markdown(table: pd.DataFrame) -> str:
    """A table whose cells are markdown."""
    align = ["left" if column in TEXT_COLUMNS else "right" for column in table.columns]
    text = table.to_markdown(index=False, colalign=align, disable_numparse=True)
    return str(text)


def page(group: list[Board], published: list[Published]) -> str:
    """Markdown of all boards of one dataset, way and shot, and of what the literature says about them."""
    first = group[0]
    out = [f"# {plain_markdown(first.title)}", ""]
    if first.first.cell.label.synthetic:
        out += [SYNTHETIC, ""]
    out += [legend(group), ""]
    for number, board in enumerate(group, 1):
        if len(group) > 1:
            out += [f"## Board {number} of {len(group)}", "", _separation(group, number - 1), ""]
        out += [plain_markdown(board.note), "", markdown(board), ""]
        for below in filter(None, (left_out(board), board.budget_note)):
            out += [below, ""]
        compared = verdicts(board, published)
        if compared:
            out += [
                "### Published next to measured",
                "",
                _VERDICT_NOTE,
                "",
                _markdown(_verdict_frame(compared).map(plain_markdown)),
                "",
            ]
    of_page = [p for p in published if p.page_of(first.first)]
    if of_page:
        out += [
            "## Published",
            "",
            _PUBLISHED_NOTE,
            "",
            *_published_tables(of_page, f"Flagged, and not ranked with the others. {_FLAGS_NOTE}"),
        ]
    return "\n".join(out)


def legend(group: list[Board]) -> str:
    """What the columns of some boards mean."""
    rows = [row for board in group for row in board.rows]
    text = LEGEND.format(unit=LEGEND_UNIT if any(board.by_recording for board in group) else "")
    if any(board.of_checkpoints for board in group):
        text += LEGEND_CHECKPOINT
    if any(row.pair_accuracy is not None for row in rows):
        text += LEGEND_PAIR
    if any(row.controls for row in rows):
        text += LEGEND_CONTROLS
    if any(row.result.cell.label.tuned for row in rows):
        text += LEGEND_TUNED
    if any(row.result.submitted for row in rows):
        text += LEGEND_SUBMITTED
    return text.strip()


def _verdict_frame(compared: list[Verdict]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "method": v.entry.row.title,
            "published": v.published.method,
            "pre-training": v.entry.result.backbone.pretraining,
            "paper %": f"{v.published.accuracy:.1f}",
            "ours %": f"{v.entry.statistics.accuracy:.2f}",
            "difference": f"{v.difference:+.2f}",
            "±": as_text(v.half_width, 2),
            "trainings": str(v.trainings),
            "reproduced": {True: "yes", False: "no", None: _UNKNOWN}[v.is_reproduced],
            "source": v.published.source,
            "flags": ", ".join(v.published.flags),
        }
        for v in compared
    )
    return table if any(v.published.flags for v in compared) else table.drop(columns="flags")


def published_frame(published: list[Published]) -> pd.DataFrame:
    """Published figures, those without flags first, each kind best first; figures that another paper only cites are marked."""
    table = pd.DataFrame(
        {
            "method": p.method,
            "accuracy %": f"{p.accuracy:.1f}" + (" (cited)" if p.cited else ""),
            "flags": ", ".join(p.flags),
            "backbone": p.backbone,
            "pre-training": p.pretraining,
            "year": p.year,
            "source": p.source,
        }
        for p in in_order(published)
    )
    return table if any(p.flags for p in published) else table.drop(columns="flags")


def _published_tables(published: list[Published], note: str) -> list[str]:
    """Lines of a table of the figures without flags and, after a note, one of those with flags."""
    clean, flagged = ([p for p in published if bool(p.flags) is has_flags] for has_flags in (False, True))
    out = []
    if clean:
        out += [_markdown(published_frame(clean).map(plain_markdown)), ""]
    if flagged:
        out += [note, "", _markdown(published_frame(flagged).map(plain_markdown)), ""]
    return out


def _separation(group: list[Board], number: int) -> str:
    """Which fields keep a board from being ranked with the first one."""
    if number == 0:
        return "These boards differ in fields that must be equal for ranking, so their rows are not ranked together."
    fields = differing(group[0].first, group[number].first) or ["the completeness of the clips"]
    if fields == ["transductive"]:
        return "Not ranked with board 1: these rows are transductive, they see the queries of an episode together."
    return f"Not ranked with board 1: {', '.join(fields)} {'differs' if len(fields) == 1 else 'differ'}."


def index(all_boards: list[Board], published: list[Published]) -> str:
    """All methods over all boards: accuracy with rank, and the mean difference from a control that is on the most boards."""
    out = ["# Leaderboards", ""]
    tested = [board for board in all_boards if board.is_tested]
    others = [board for board in all_boards if not board.is_tested]
    for title, note, of_kind in (
        ("Real datasets", "", [board for board in tested if not board.first.cell.label.synthetic]),
        ("Synthetic data", SYNTHETIC, [board for board in tested if board.first.cell.label.synthetic]),
        ("Not on the test split", f"{NOT_TEST[0].upper()}{NOT_TEST[1:]}.", others),
    ):
        if of_kind:
            out += [f"## {title}", ""]
            out += [note, ""] if note else []
            table, sentences = _overview(of_kind)
            out += [_markdown(table), "", " ".join(sentences), ""]
    for board in all_boards:
        best = f"best {plain_markdown(board.rows[0].title)} {board.rows[0].accuracy:.2f} %"
        out.append(f"- [{plain_markdown(board.title)}]({board.page}.md): {len(board)} rows, {best}")
    if published:
        out += [
            "",
            f"Published figures of the literature, separate from what is measured here: "
            f"[published.md](published.md), {len(published)} figures.",
        ]
    return "\n".join([*out, ""])


@dataclass
class _Overview:
    """A method in the overview: its cell in each board's column, and its differences from the control."""

    is_control: bool
    cells: dict[str, str] = field(default_factory=dict)
    differences: list[Gap] = field(default_factory=list)

    def add(self, column: str, board: Board, place: int, control: int | None) -> None:
        """Add the row at a place of a board."""
        entry = board.entries[place]
        text = plain_markdown(f"{entry.statistics.accuracy:.2f} ({rank_text(board, entry)})")
        self.cells[column] = f"**{text}**" if entry.statistics.is_first else text
        if control is not None and place != control:
            self.differences.append(board.gap(place, control))

    @property
    def mean(self) -> float:
        """Mean difference from the control in percent; minus infinity where there is none."""
        if self.is_control:
            return 0.0
        return fmean(gap.difference for gap in self.differences) if self.differences else -math.inf

    @property
    def text(self) -> str:
        """The mean difference with its interval."""
        if self.is_control:
            return "control"
        if not self.differences:
            return _UNKNOWN
        widths = [gap.half_width for gap in self.differences]
        known = [width for width in widths if width is not None]
        return f"{self.mean:+.2f}" + (f" ± {fmean(known):.2f}" if len(known) == len(widths) else "")


def common_control(all_boards: list[Board]) -> tuple[str, str] | None:
    """Title and backbone of the row that others are compared with over boards; None if none is on two boards.

    The control that is on the most boards: a row that is marked as one before others, one without class names before one
    with them, then the one with fewer trained parameters, then by name.
    """
    found: dict[tuple[str, str], tuple[int, bool, bool, int]] = {}
    for board in all_boards:
        for row in board.rows:
            key, result = (row.title, row.result.backbone_name), row.result
            count = found[key][0] if key in found else 0
            is_no_control, uses_names = not result.cell.label.control, result.traits.uses_class_names
            found[key] = (count - 1, is_no_control, uses_names, result.parameters.trainable)
    best = min(found, key=lambda key: (found[key], key))
    return best if found[best][0] < -1 else None


def _overview(all_boards: list[Board]) -> tuple[pd.DataFrame, list[str]]:
    """The overview of some boards, and sentences on it; of many boards, those of the fewest rows are left out."""
    columns, control = _short_names(all_boards), common_control(all_boards)
    methods: dict[tuple[str, str], _Overview] = {}
    for column, board in zip(columns, all_boards, strict=True):
        keys = [(row.title, row.result.backbone_name) for row in board.rows]
        place_of_control = keys.index(control) if control in keys else None
        for place, key in enumerate(keys):
            methods.setdefault(key, _Overview(key == control)).add(column, board, place, place_of_control)
    order = sorted(methods, key=lambda key: (-len(methods[key].cells), -methods[key].mean, key))
    sentences = [_OVERVIEW_NOTE.format(control=plain_markdown(control[0])) if control else _OVERVIEW_ALONE]
    if len(columns) > OVERVIEW_BOARDS:
        largest = sorted(range(len(columns)), key=lambda number: (-len(all_boards[number]), number))[:OVERVIEW_BOARDS]
        sentences += [
            f"Columns are the {OVERVIEW_BOARDS} of {len(columns)} boards that have the most rows; means are over all."
        ]
        columns = [columns[number] for number in sorted(largest)]
    if len(order) > OVERVIEW_METHODS:
        sentences += [f"{OVERVIEW_METHODS} of {len(order)} rows are shown; leaderboard.csv has all of them."]
    table = pd.DataFrame(
        {
            "method": plain_markdown(key[0]),
            "backbone": plain_markdown(key[1]),
            "mean difference": methods[key].text,
            "boards": str(len(methods[key].cells)),
            **{column: methods[key].cells.get(column, "") for column in columns},
        }
        for key in order[:OVERVIEW_METHODS]
    )
    return (table.drop(columns="mean difference") if control is None else table), sentences


def _short_names(all_boards: list[Board]) -> list[str]:
    """A column title for each board; boards of the same dataset, way and shot are numbered."""
    out: list[str] = []
    count: Counter[str] = Counter()
    for board in all_boards:
        p = board.first.protocol
        split = "" if board.is_tested else f" {p.split}"
        name = f"{board.first.dataset}{split} {p.way}w{p.shot}s" + (f" seed {p.seed}" if p.seed else "")
        name += " transd." if board.first.traits.transductive else ""
        count[name] += 1
        out.append(f"{name} #{count[name]}" if count[name] > 1 else name)
    return out


def published_page(published: list[Published]) -> str:
    """All published figures, a table for each dataset, way and shot."""
    out = [
        "# Published figures",
        "",
        _PUBLISHED_NOTE,
        "",
        "Cited: the source only repeats the figure of another paper.",
        "",
        f"Flagged figures are in tables of their own, and not ranked with the others. {_FLAGS_NOTE}",
        "",
    ]
    groups: dict[tuple[str, int, int], list[Published]] = defaultdict(list)
    for p in published:
        groups[p.dataset, p.way, p.shot].append(p)
    for (dataset, way, shot), group in sorted(groups.items()):
        title = f"{plain_markdown(dataset)}, {way}-way {shot}-shot"
        out += [f"## {title}", "", *_published_tables(group, "Flagged:")]
    return "\n".join(out)


def without_block(text: str) -> str:
    """The part of a page that was written by hand; empty where there is none."""
    before, _, rest = text.partition(BEGIN)
    by_hand = f"{before.rstrip()}\n\n{rest.partition(END)[2].strip()}".strip()
    return f"{by_hand}\n" if by_hand else ""


def into_page(text: str | None, generated: str, name: str) -> str:
    """The text of a page with its generated block replaced; everything outside the markers stays.

    Args:
        text: the page as it is; None where there is none.
        generated: the new content of the block.
        name: of the page, for the error.

    Raises:
        ResultError: the page has only one of the markers.
    """
    block = f"{BEGIN}\n{generated.rstrip()}\n{END}\n"
    if text is None or not text.strip():
        return block
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n{block}"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before:
        raise ResultError(f"{name} has lost one of its markers {BEGIN!r} and {END!r}. Put it back, or delete the page.")
    return before + block.rstrip() + (after if after.startswith("\n") else f"\n{after}")
