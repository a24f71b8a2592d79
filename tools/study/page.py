"""docs/ma_clip.md, from stored results alone: the same results give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsar_bench.errors import ConfigError
from tools import SHORT_WORDS
from tools.study.design import (
    BACKBONES,
    CLAIMS,
    CLIP_FSAR,
    FOLLOWED,
    HERE,
    LEARNERS,
    MA_CLIP,
    NO_TEXT,
    ORDER,
    PARTS,
    SCENE,
    TABLES,
    TEXT_ALONE,
    TEXT_PARTS,
    TIMES,
    WORDS,
    Place,
    ablation,
)
from tools.study.figures import Curves, Figure, Forest, Line, Panel, digest_of, drawn_digest
from tools.study.measured import Accuracy, Gap, Measured, significant
from tools.study.words import (
    BOARDS,
    MISSING,
    NAMES,
    TITLES,
    Board,
    conclusions,
    is_published,
    measured_gap,
    part_gaps,
    published_gap,
    row_title,
    setting_gaps,
    verdict,
)

NOTES = HERE / "notes.md"  # what people read out of the numbers, by the titles of sections
NONE = "–"
RUN, PAGE = "python -m tools.study run", "python -m tools.study page"


@dataclass(frozen=True)
class Notes:
    """Sentences of people, by the title of the section that they end.

    Attributes:
        of: the results that they were written for, by their digest.
        sections: markdown, by title.
    """

    of: str
    sections: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Read them; a file that is not there has none.

        The first line is "results: DIGEST", and every section begins with "## TITLE".

        Raises:
            ConfigError: the first line is another one.
        """
        if not path.is_file():
            return cls("", {})
        head, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        matched = re.fullmatch(r"results: ([0-9a-f]{12})\s*", head)
        if matched is None:
            raise ConfigError(
                f"{path} begins with {head.strip()[:60]!r}; it must begin with 'results: DIGEST', the twelve digits that the "
                "page shows of the results that the notes were written for, and then have sections '## TITLE'."
            )
        sections = {}
        for part in parts:
            title, _, text = part.partition("\n")
            sections[title.strip()] = text.strip()
        return cls(matched[1], sections)


@dataclass(frozen=True)
class Page:
    """The page of some results.

    Attributes:
        measured: the results.
        notes: sentences of people.
        folder: name of the folder of its figures, next to the page.
    """

    measured: Measured
    notes: Notes
    folder: str

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Figures by file name, those that have anything to show."""
        every: dict[str, Figure] = {
            "parts.png": _parts_figure(self.measured),
            "episodes.png": _episodes_figure(self.measured),
            "parameters.png": _parameters_figure(self.measured),
            "settings.png": _settings_figure(self.measured),
        }
        return {name: figure for name, figure in every.items() if not figure.is_empty}

    @cached_property
    def text(self) -> str:
        """The markdown.

        Raises:
            ConfigError: a note is of a section that the page does not have.
        """
        sections = dict(self._sections())
        unknown = sorted(set(self.notes.sections) - set(sections))
        if unknown:
            raise ConfigError(
                f"The notes have a section {unknown[0]!r}, which the page lacks. Its sections are: {', '.join(sections)}."
            )
        lines = [
            "# MA-CLIP on the built-in boards",
            "",
            f"Written by `{PAGE}` from stored results; `{RUN}` measures what is missing, and resumes where it was stopped. "
            "5-way 1-shot; accuracies and differences in percent, ± 95 % intervals. Differences are paired over clips, as in "
            "`fsar-bench compare`. The data are synthetic: the page tells how MA-CLIP's parts work in a world that can be "
            "looked into, not how accurate it is on real videos.",
        ]
        for title, body in sections.items():
            lines += ["", f"## {title}", *body, *self._note(title)]
        return "\n".join(lines) + "\n"

    def _note(self, title: str) -> list[str]:
        if title not in self.notes.sections:
            return []
        is_old = self.notes.of != self.measured.digest
        marked = f" (of other results, {self.notes.of})" * is_old
        return ["", f"*Reading{marked}*: {self.notes.sections[title]}"]

    def _figure(self, name: str) -> list[str]:
        return ["", f"![{name.removesuffix('.png')}]({self.folder}/{name})"] if name in self.figures else []

    def _sections(self) -> Iterator[tuple[str, list[str]]]:
        m = self.measured
        yield "What was measured", _coverage(m)
        yield "Tables of the paper", _tables(m)
        yield "What each part brings", [*_parts(m), *self._figure("parts.png")]
        yield "Text, with and without the words", _words(m)
        figures = [*self._figure("episodes.png"), *self._figure("parameters.png")]
        yield "Training episodes and trained parameters", [*_episodes(m), *figures]
        yield "Settings that the paper does not tell", [*_settings(m), *self._figure("settings.png")]
        yield "What holds, what does not, and why", [*_RULE, "", *conclusions(m)]

    def write(self, path: Path) -> None:
        """Write the page and its figures."""
        folder = path.with_name(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            if drawn_digest(folder / name) != digest_of(figure):
                (folder / name).write_bytes(figure.draw())
        for name in self._extra(folder):
            (folder / name).unlink()
        path.write_text(self.text, encoding="utf-8")

    def stale(self, path: Path) -> list[str]:
        """Files that are not those of these results."""
        folder = path.with_name(self.folder)
        is_same = path.is_file() and path.read_text(encoding="utf-8") == self.text
        drawn = [name for name, figure in self.figures.items() if drawn_digest(folder / name) != digest_of(figure)]
        return [path.name] * (not is_same) + [f"{self.folder}/{name}" for name in (*drawn, *self._extra(folder))]

    def _extra(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.glob("*.png") if path.name not in self.figures)


_RULE = [
    "A claim holds where the difference has the sign that the paper reports and its interval excludes 0, is contradicted where "
    "it has the other sign and its interval excludes 0, and cannot be told otherwise. Intervals of claims and parts are not "
    "corrected for their number: one in twenty excludes 0 by chance where nothing differs."
]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> list[str]:
    """Lines of a table; the first `texts` columns are texts, the others numbers."""
    lines = [head, [":--"] * texts + ["--:"] * (len(head) - texts), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _shown(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return NONE
    several = f" ({accuracy.trainings})" if accuracy.trainings > 1 else ""
    return f"{accuracy.percent:.1f}" + (f" ± {accuracy.width:.1f}" if accuracy.width is not None else "") + several


def _gap(gap: Gap | None) -> str:
    return NONE if gap is None else f"**{gap}**" if gap.sign else str(gap)


def _figure_of_paper(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _boards(measured: Measured, rows: Sequence[str]) -> list[Board]:
    """Boards on which some of these rows can be compared: two of them are stored."""
    return [board for board in BOARDS if sum(measured.accuracy(board.place(row)) is not None for row in rows) > 1]


def _coverage(measured: Measured) -> list[str]:
    design = measured.design
    rows, total = [], 0
    for group in design.groups:
        done, count = measured.progress(group)
        total += count
        lacks = "" if design.can_run(group) else f"there is no backbone `{group.backbone}` yet"
        missing = lacks or (f"{count - done} missing" if done < count else "")
        datasets = ", ".join(NAMES[dataset] for dataset in group.datasets)
        rows.append([group.title, datasets, f"{done} of {count}", missing])
    cells = design.cells()
    lacking = ", ".join(f"{NAMES[dataset]} ({split})" for dataset, split in measured.of_checkpoints)
    trainings = (
        "Intervals are over clips and trainings: rows of one training borrow the variance of those that have several, whose "
        "number stands in brackets."
    )
    if lacking:
        trainings += f" Where no row has several yet, they are over clips alone, and compare checkpoints: {lacking}."
    return [
        f"{len(measured)} of {len(cells)} cells are stored; they took {measured.hours:.1f} hours of one device. Results "
        f"`{measured.digest}`. {trainings} All are trained with `{SHORT_WORDS}`, as settings were tuned, unless they say "
        "otherwise; the order board's own training has eight times the updates ([what that changes](agreement.md)). Some cells "
        "belong to several of these groups:",
        "",
        *_table(["group", "boards", "cells", ""], rows, texts=2),
        *_defaults(measured),
    ]


def _defaults(measured: Measured) -> list[str]:
    """Settings of the trainings as they were run."""
    rows = []
    for row in LEARNERS:
        for dataset in (ORDER, SCENE):
            cell = measured.any_cell(Place(row, dataset))
            if cell is None or cell.identity.train is None:
                continue
            train, method = cell.identity.train, cell.identity.method
            alpha = method.get("alpha", NONE) if "temperature" in method else NONE
            rows.append(
                [
                    TITLES[row], NAMES[dataset], str(train.episodes), f"{train.optimizer['lr']:g}", str(alpha),
                    str(method.get("ffn_width", NONE)),
                ]
            )  # fmt: skip
    head = ["default", "board", "training episodes", "learning rate", "alpha", "ffn_width"]
    return ["", *_table(head, rows)] if rows else []


def _tables(measured: Measured) -> list[str]:
    lines: list[str] = [
        "The paper's figures (ViT-B/32; tables 1 and 2: ViT-B/16) are next to ours; order stands for Something-Something, scene "
        "for Kinetics. The rows of table 7 on ImageNet encoders have no counterpart.",
    ]
    for name in TABLES:
        table = ablation(name)
        boards = _boards(measured, table.rows)
        if not boards:
            continue
        title = WORDS.get(name, name.replace("table", "Table "))
        lines += ["", f"### {title}", f"`fsar-bench run methods=ablations/{name}`", ""]
        rows = [
            [
                row_title(row),
                *(_figure_of_paper(figures[number]) for figures in table.published.values()),
                *(_shown(measured.accuracy(board.place(row))) for board in boards),
            ]
            for number, row in enumerate(table.rows)
        ]
        lines += _table(["", *table.published, *(board.title for board in boards)], rows)
        lines += ["", *_claims(measured, name, boards)]
    return lines


def _claims(measured: Measured, name: str, boards: Sequence[Board]) -> list[str]:
    """Differences of a table, the paper's and ours, with verdicts."""
    datasets = list(ablation(name).published)
    rows = []
    for claim in (claim for claim in CLAIMS if claim.table == name):
        theirs = [published_gap(claim, dataset) for dataset in datasets]
        ours = []
        for board in boards:
            gap = measured_gap(measured, claim, board)
            told = f": {verdict(gap)}" if is_published(claim, board) and gap is not None else ""
            ours.append(MISSING if gap is None else _gap(gap) + told)
        rows.append([claim.words, *(NONE if gap is None else f"{gap:+.1f}" for gap in theirs), *ours])
    return _table(["claim", *datasets, *(board.title for board in boards)], rows)


def _parts(measured: Measured) -> list[str]:
    boards = [board for board in BOARDS if board.backbone == BOARDS[0].backbone and part_gaps(measured, board)]
    if not boards:
        return ["Nothing of it is stored yet."]
    gaps = {board: part_gaps(measured, board) for board in boards}
    whole = ["all of it: accuracy", *(_shown(measured.accuracy(board.place(MA_CLIP))) for board in boards)]
    rows = [[PARTS[row], *(_gap(gaps[board].get(row)) for board in boards)] for row in PARTS]
    return [
        "MA-CLIP minus MA-CLIP without a part; bold where the interval excludes 0.",
        "",
        *_table(["part", *(board.title for board in boards)], [whole, *rows]),
    ]


def _words(measured: Measured) -> list[str]:
    boards = _boards(measured, (MA_CLIP, NO_TEXT))
    if not boards:
        return ["Nothing of it is stored yet."]
    rows = [[PARTS[row], *(_gap(part_gaps(measured, board).get(row)) for board in boards)] for row in TEXT_PARTS]
    rivals = [measured.gap(board.place(MA_CLIP), board.place(CLIP_FSAR)) for board in boards]
    alone = ["text alone: accuracy", *(_shown(measured.accuracy(board.place(TEXT_ALONE))) for board in boards)]
    last = ["MA-CLIP minus CLIP-FSAR", *map(_gap, rivals)]
    told = ", ".join(f"`{name}` {what}" for name, what in BACKBONES.items())
    return [
        f"The same differences by backbone: {told} (strict).",
        "",
        *_table(["text", *(board.title for board in boards)], [alone, *rows, last]),
    ]


def _episodes(measured: Measured) -> list[str]:
    lines = [
        "Each point is a training of its own, with its whole schedule; the checkpoint is chosen on val. Thin lines of the figure "
        "are val accuracies within the longest training. 1 x is the short training.",
    ]
    for dataset in (ORDER, SCENE):
        rows = []
        for row in FOLLOWED:
            accuracies = [measured.accuracy(Place(row, dataset, times=times)) for times in TIMES]
            known = next((each for each in accuracies if each is not None), None)
            if known is not None:
                rows.append([TITLES[row], f"{known.parameters / 1e6:.2f}", *map(_shown, accuracies)])
        if rows:
            head = [NAMES[dataset], "trained M", *(f"{times} x" for times in TIMES)]
            lines += ["", *_table(head, rows)]
    return lines


def _settings(measured: Measured) -> list[str]:
    by_dataset = {dataset: gaps for dataset in (ORDER, SCENE) if (gaps := setting_gaps(measured, dataset))}
    if not by_dataset:
        return ["Nothing of it is stored yet."]
    marked = {
        dataset: dict(zip(gaps, significant(list(gaps.values())), strict=True)) for dataset, gaps in by_dataset.items()
    }
    changes = list(dict.fromkeys(change for gaps in by_dataset.values() for change in gaps))
    rows = [
        [f"`{change}`", *(_setting(gaps.get(change), marked[d].get(change, False)) for d, gaps in by_dataset.items())]
        for change in changes
    ]
    defaults = [_shown(measured.accuracy(Place(MA_CLIP, dataset, split="val"))) for dataset in by_dataset]
    return [
        "One change at a time, minus the default. Measured on **val**, where choosing is allowed: nobody who reads this has "
        "looked at test. The checkpoints of all rows were chosen on val too, which makes these accuracies somewhat too high, not "
        "their differences. Bold where the difference is significant at 5 %, corrected for the number of changes (Holm).",
        "",
        *_table(["", *(NAMES[dataset] for dataset in by_dataset)], [["default: accuracy", *defaults], *rows]),
    ]


def _setting(gap: Gap | None, is_marked: bool) -> str:
    return NONE if gap is None else f"**{gap}**" if is_marked else str(gap)


def _parts_figure(measured: Measured) -> Forest:
    values = {
        board.title: {PARTS[row]: (gap.points, gap.width) for row, gap in part_gaps(measured, board).items()}
        for board in BOARDS
    }
    return Forest("what a part brings, points", {title: series for title, series in values.items() if series})


def _settings_figure(measured: Measured) -> Forest:
    values = {
        NAMES[dataset]: {change: (gap.points, gap.width) for change, gap in setting_gaps(measured, dataset).items()}
        for dataset in (ORDER, SCENE)
    }
    return Forest(
        "val accuracy minus that of the default, points", {t: series for t, series in values.items() if series}
    )


def _episodes_figure(measured: Measured) -> Curves:
    panels = []
    for dataset in (ORDER, SCENE):
        lines = []
        for row in FOLLOWED:
            points = [measured.accuracy(Place(row, dataset, times=times)) for times in TIMES]
            known = [point for point in points if point is not None]
            if len(known) > 1:
                x = [float(point.episodes or 0) for point in known]
                curve = [(float(n), y) for n, y in measured.curve(Place(row, dataset, times=max(TIMES))) if n]
                lines.append(Line(TITLES[row], x, [p.percent for p in known], [p.width for p in known], curve))
        if lines:
            panels.append(Panel(NAMES[dataset], lines))
    return Curves("training episodes", "accuracy, %", panels)


def _parameters_figure(measured: Measured) -> Curves:
    """Accuracy against trained parameters, all after the short training."""
    rows = dict.fromkeys([*LEARNERS, *(row for name in TABLES for row in ablation(name).rows)])
    panels = []
    for dataset in (ORDER, SCENE):
        points = {row: measured.accuracy(Place(row, dataset)) for row in rows}
        lines = [
            Line(row_title(row), [point.parameters / 1e6], [point.percent], [point.width])
            for row, point in points.items()
            if point is not None and point.parameters
        ]
        if lines:
            panels.append(Panel(NAMES[dataset], lines))
    return Curves("trained parameters, millions", "accuracy, %", panels, is_connected=False)
