"""Published figures of the literature, shown apart from what is measured, and compared where the setting is the same."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.boards import Board, Numbers, Row
from fsar_bench.results.store import Result

NAMES = {  # datasets as the literature writes them
    "hmdb51": "HMDB51",
    "ucf101": "UCF101",
    "ssv2_full": "SSv2-Full",
    "ssv2_small": "SSv2-Small",
    "kinetics100": "Kinetics-100",
}


@dataclass(frozen=True)
class Published:
    """One figure of a paper or an official repository.

    Attributes:
        accuracy: percent, as printed.
        source: where it is printed.
        cited: the source repeats it from another paper.
        our_method: name of the config that re-implements it, with `our_backbone` and `our_dataset`; empty where there is none, or
            where the source does not say enough (which Kinetics-100, for one).
    """

    method: str
    venue: str
    year: str
    backbone: str
    pretraining: str
    dataset: str
    way: int
    shot: int
    accuracy: float
    source: str
    cited: bool
    our_method: str
    our_backbone: str
    our_dataset: str

    def page_of(self, result: Result) -> bool:
        """Whether it belongs on the page of a result's dataset, way and shot."""
        p = result.protocol
        same = self.dataset == NAMES.get(result.dataset.name.partition("@")[0])
        return same and (self.way, self.shot) == (p.way, p.shot)


@dataclass(frozen=True)
class Verdict:
    """A measured row beside a published figure of the same setting; `inside` is None where there is no interval."""

    published: Published
    row: Row
    numbers: Numbers

    @property
    def inside(self) -> bool | None:
        if self.numbers.clips is None:
            return None
        return abs(self.numbers.accuracy - self.published.accuracy) <= self.numbers.clips


def shipped() -> Path:
    """The file of figures that comes with fsar-bench.

    Raises:
        ResultError: it is not installed.
    """
    spec = find_spec("fsar_bench.leaderboards")
    if spec is None or not spec.submodule_search_locations:
        raise ResultError("The published figures are not installed. Install fsar-bench again.")
    return Path(next(iter(spec.submodule_search_locations)), "published.csv")


def read_published(out: Path) -> list[Published]:
    """The figures of `out`/published.csv where there is one, else those that ship.

    Raises:
        ResultError: a line that cannot be read, with its number.
    """
    path = out / "published.csv"
    path = path if path.is_file() else shipped()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultError(f"{path} cannot be read ({error}).") from error
    found = []
    for number, row in enumerate(rows, 2):
        try:
            numbers = {"way": int(row["way"]), "shot": int(row["shot"]), "accuracy": float(row["accuracy"])}
            if not 0 <= numbers["accuracy"] <= 100 or row["cited"] not in ("yes", "no"):
                raise ValueError("accuracy must lie in 0..100, cited must be yes or no")
            found.append(Published(**{**row, **numbers, "cited": row["cited"] == "yes"}))
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{path}, line {number} cannot be read ({error}). Mend or delete the line.") from error
    return found


def verdicts(board: Board, published: list[Published]) -> list[Verdict]:
    """Rows of a board that a published figure has the same setting as; cited figures only where there are no others.

    A row qualifies with the defaults of its config alone: its title names no changed setting, or only where its weights are from.
    """
    out = []
    for row, numbers in zip(board.rows, board.numbers, strict=True):
        r = row.result
        if row.changed - {"pretrained", "activation"}:
            continue
        setting = (r.method.name, r.backbone.name, r.dataset.name, r.protocol.way, r.protocol.shot)
        mine = [p for p in published if (p.our_method, p.our_backbone, p.our_dataset, p.way, p.shot) == setting]
        own = [p for p in mine if not p.cited] or mine
        out += [Verdict(p, row, numbers) for p in sorted(own, key=lambda p: (p.source, p.accuracy))]
    return out
