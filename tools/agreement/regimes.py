"""The regimes of the built-in boards next to their targets: text alone, frozen with and without order, trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fsar_bench.leaderboard.boards import Board, Entry
from tools.agreement.matching import PAIRS, SHOTS, hash_of, rows_by_hash

Kind = Literal["text alone", "frozen, blind to order", "frozen, keeps order", "best trained row", "best row"]
NAMED: dict[str, Kind] = {
    "zero_shot": "text alone",
    "prototype_frozen": "frozen, blind to order",
    "bi_mhm_frozen": "frozen, blind to order",
    "otam_frozen": "frozen, keeps order",
    "dtw_frozen": "frozen, keeps order",
}


@dataclass(frozen=True)
class Target:
    """Where accuracies of some kinds of rows should be on a board, in percent."""

    board: str
    shots: tuple[int, ...]
    kinds: tuple[Kind, ...]
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == 0:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high == 100 else f"{self.low:g} to {self.high:g}"


FROZEN: tuple[Kind, ...] = ("frozen, blind to order", "frozen, keeps order")
TARGETS = (
    Target("synthact_scene", SHOTS, ("text alone",), 85, 100),
    Target("synthact_scene", (1,), FROZEN, 70, 80),
    Target("synthact_scene", (5,), ("best row",), 0, 96),
    Target("synthact_order", SHOTS, ("text alone",), 30, 45),
    Target("synthact_order", (1,), FROZEN, 25, 40),
    Target("synthact_order", (1,), ("best trained row",), 45, 70),
    Target("synthact_order", SHOTS, ("best row",), 0, 85),
    Target("synthact_scene", (1,), ("best row",), 0, 92),
    Target("synthact", (1,), ("best row",), 0, 92),
)


@dataclass(frozen=True)
class Line:
    """A row of a built-in board and the targets of its kind.

    Attributes:
        board: name of the dataset.
        shot: K.
        kind: of the row.
        ours: words of the row; of the best ones only its title is known.
        entry: the row; None where it is missing.
    """

    board: str
    shot: int
    kind: Kind
    ours: str | None
    entry: Entry | None

    @property
    def targets(self) -> list[Target]:
        """What was aimed at."""
        return [
            target
            for target in TARGETS
            if target.board == self.board and self.shot in target.shots and self.kind in target.kinds
        ]

    @property
    def verdict(self) -> str:
        """Whether all targets are met; uncertain where the interval of the accuracy holds an end of one."""
        if self.entry is None or not self.targets:
            return ""
        value, (low, high) = self.entry.statistics.accuracy, ends(self.entry)
        is_met = all(target.low <= value <= target.high for target in self.targets)
        is_unsure = any(low < end < high for target in self.targets for end in (target.low, target.high))
        return ("met" if is_met else "not met") + ", uncertain" * is_unsure


def ends(entry: Entry) -> tuple[float, float]:
    """The 95 % interval of a row in percent: over clips and trainings, or over clips where trainings are not known."""
    value, widths = entry.statistics.accuracy, entry.statistics.overall or entry.statistics.clips
    return (value - widths.below, value + widths.above) if widths else (value, value)


def lines(boards: list[Board]) -> list[Line]:
    """The regimes of all built-in boards."""
    rows = rows_by_hash(boards)
    out = []
    for board in PAIRS:
        for shot in SHOTS:
            for ours, kind in NAMED.items():
                found = rows.get(hash_of(ours, board, shot))
                out.append(Line(board, shot, kind, ours, found and found[0].entries[found[1]]))
            of_board = list(_entries(boards, board, shot))
            trained = [entry for entry in of_board if entry.row.is_trained]
            out.append(Line(board, shot, "best trained row", None, _best(trained)))
            out.append(Line(board, shot, "best row", None, _best(of_board)))
    return out


def _entries(boards: Iterable[Board], dataset: str, shot: int) -> Iterator[Entry]:
    """All rows of a dataset's boards, transductive ones too; submitted predictions are not of methods here."""
    for board in boards:
        first = board.first
        if board.is_tested and (first.dataset, first.protocol.way, first.protocol.shot) == (dataset, 5, shot):
            yield from (entry for entry in board.entries if not entry.result.submitted)


def _best(entries: list[Entry]) -> Entry | None:
    return max(entries, key=lambda entry: entry.statistics.accuracy, default=None)


def missing(lines: Iterable[Line]) -> dict[tuple[str, str], set[int]]:
    """Shots at which a row is missing, by board and words of the row."""
    out: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        if line.ours and line.entry is None:
            out.setdefault((line.board, line.ours), set()).add(line.shot)
    return out
