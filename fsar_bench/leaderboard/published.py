"""Published figures of the literature: shown separately from what is measured, and compared where the setting is the same."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, variance
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Strict, ValidationError, field_validator
from scipy.special import stdtrit

from fsar_bench.config.fields import explain_fault
from fsar_bench.config.settings import Frozen, Text
from fsar_bench.errors import ResultError, shown, suggest
from fsar_bench.io import read_text, reason_of
from fsar_bench.leaderboard.boards import TESTED, Board, Entry
from fsar_bench.results.metrics import NORMAL95
from fsar_bench.results.record import Result

Flag = Literal["leak", "transductive", "selected on test", "unknown list"]
FEWEST_TRAININGS = 3  # of a row that is said to reproduce a figure, or not to
NAMES = {  # datasets as the literature writes them
    "hmdb51": "HMDB51",
    "ucf101": "UCF101",
    "ssv2_full": "SSv2-Full",
    "ssv2_small": "SSv2-Small",
    "kinetics100": "Kinetics-100",
}


class Published(Frozen):
    """One figure of a paper or an official repository: a line of the file, whose columns are these fields.

    Attributes:
        method: as the source writes it.
        venue: of the method.
        year: of the method.
        backbone: architecture.
        pretraining: of the backbone.
        dataset: as the literature writes it, see `NAMES`.
        way: N.
        shot: K.
        accuracy: percent, as printed.
        source: where it is printed.
        cited: the source repeats it from another paper.
        our_method: name of the config that re-implements the method, with `our_backbone` and `our_dataset`; empty where there is
            none, or where the source does not say enough (for example, which Kinetics-100 it used).
        our_backbone: name of the backbone's config.
        our_dataset: name of the dataset's config.
        interval: half-width of the figure's 95 % interval over episodes in percent, as printed; None where none is.
        episodes: number of test episodes; None where the source does not say.
        flags: what is known to keep it from being compared with others, several separated by `;` in the file. "leak": in the
            released code, labels of the queries reach their scores; "transductive": so do the other queries of the episode;
            "selected on test": the checkpoint was chosen on the test split; "unknown list": which clips were used is not known.
    """

    method: Text
    venue: Text
    year: Text
    backbone: Text
    pretraining: Text
    dataset: Text
    way: Annotated[int, Strict(False), Field(ge=1, le=10**6)]
    shot: Annotated[int, Strict(False), Field(ge=0, le=10**6)]
    accuracy: Annotated[float, Strict(False), Field(ge=0, le=100)]
    source: Text
    cited: bool
    our_method: Text
    our_backbone: Text
    our_dataset: Text
    interval: Annotated[float, Strict(False), Field(ge=0, le=100)] | None = None
    episodes: Annotated[int, Strict(False), Field(ge=1, le=10**9)] | None = None
    flags: tuple[Flag, ...] = ()

    @field_validator("flags", mode="before")
    @classmethod
    def _is_separated(cls, flags: Any) -> tuple[str, ...]:
        names = tuple(name.strip() for name in (flags or "").split(";")) if isinstance(flags, str | None) else flags
        if names == ("",):
            return ()
        known = get_args(Flag)
        for name in names:
            if name not in known:
                raise ValueError(f"flags={shown(name)} is unknown.{suggest(name, known)}")
        if len(set(names)) < len(names):
            raise ValueError(f"flags={shown(flags)} names a flag twice.")
        return names

    @field_validator("interval", "episodes", mode="before")
    @classmethod
    def _may_be_empty(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("cited", mode="before")
    @classmethod
    def _says_yes_or_no(cls, cited: Any) -> bool:
        if cited not in ("yes", "no"):
            raise ValueError(f"cited={shown(cited)} must be yes or no.")
        return bool(cited == "yes")

    def page_of(self, result: Result) -> bool:
        """Whether it belongs on the page of a result's dataset, way and shot."""
        is_same = self.dataset == NAMES.get(result.dataset.partition("@")[0])
        p = result.protocol
        return is_same and p.split == TESTED and (self.way, self.shot) == (p.way, p.shot)


@dataclass(frozen=True)
class Verdict:
    """A measured row next to a published figure of the same setting."""

    published: Published
    entry: Entry

    @property
    def difference(self) -> float:
        """Measured minus published, in percent."""
        return self.entry.statistics.accuracy - self.published.accuracy

    @property
    def trainings(self) -> int:
        """Number of trainings of the measured row."""
        return len(self.entry.row.seeds)

    @property
    def half_width(self) -> float | None:
        """How far the two may differ by chance, with 95 % confidence, in percent; None where the episodes tell nothing.

        A paper tests on the same clips, so clips are no source of a difference: t sqrt(V + V' + s^2 (1 + 1 / n)), where V and
        V' are variances over the episodes measured here and those of the paper, and s^2 is the sample variance of n trainings,
        of which the paper has one more. t has n - 1 degrees of freedom. With one training, or none, s is left out, and t is
        that of a normal distribution.
        """
        episodes, accuracies = self._over_episodes, [seed.result.metrics.accuracy for seed in self.entry.row.seeds]
        if episodes is None:
            return None
        n = len(accuracies)
        if n < 2 or not self.entry.row.is_trained:
            return NORMAL95 * math.sqrt(episodes)
        return float(stdtrit(n - 1, 0.975)) * math.sqrt(episodes + variance(accuracies) * (1 + 1 / n))

    @property
    def _over_episodes(self) -> float | None:
        """Sum of both variances over episodes, in squared percent.

        That of the paper is the one that it prints, else that of one of our trainings for its number of episodes.
        """
        ours, count = self.entry.statistics.episodes, self.entry.result.protocol.episodes
        if ours is None:
            return None
        theirs = self.published.interval
        if theirs is None:
            alone = [seed.result.metrics.interval95 or 0.0 for seed in self.entry.row.seeds]
            theirs = math.sqrt(fmean(width**2 for width in alone) * count / (self.published.episodes or count))
        return (ours**2 + theirs**2) / NORMAL95**2

    @property
    def is_reproduced(self) -> bool | None:
        """Whether the difference is within `half_width`; None with too few trainings to know how much these differ.

        With one, nothing is known of it, and with two so little that a paper that is points off would be inside.
        """
        width = self.half_width
        if width is None or (self.trainings < FEWEST_TRAININGS and self.entry.row.is_trained):
            return None
        return abs(self.difference) <= width


def shipped() -> Path:
    """The file of published figures that ships with fsar-bench.

    Raises:
        ResultError: it is not installed.
    """
    spec = find_spec("fsar_bench.leaderboards")
    if spec is None or not spec.submodule_search_locations:
        raise ResultError("The published figures are not installed. Install fsar-bench again.")
    return Path(next(iter(spec.submodule_search_locations)), "published.csv")


def read_published(out: Path) -> list[Published]:
    """The figures of `out`/published.csv where there is one, else those that ship with fsar-bench.

    Raises:
        ResultError: a line that cannot be read, with its number.
    """
    path = out / "published.csv"
    path = path if os.path.lexists(path) else shipped()
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        columns, rows = set(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultError(
            f"{path} cannot be read ({reason_of(error)}). Correct it, or delete it: figures ship."
        ) from error
    needed = [name for name, of_field in Published.model_fields.items() if of_field.is_required()]
    if lacking := [name for name in needed if name not in columns]:
        raise ResultError(
            f"{path} cannot be read: its first line lacks the column {lacking[0]!r}. Add it, or delete the file."
        )
    return [_parsed(row, f"{path}, line {number}") for number, row in enumerate(rows, 2)]


def _parsed(row: dict[Any, Any], place: str) -> Published:
    if None in row:
        raise ResultError(
            f"{place} cannot be read: it has more cells than the header has columns. Fix or delete the line."
        )
    try:
        return Published(**row)
    except ValidationError as error:
        fault = explain_fault(error, "", Published.model_fields)
        raise ResultError(f"{place} cannot be read: {fault} Fix or delete the line.") from error


def in_order(published: list[Published]) -> list[Published]:
    """Figures in the order in which they are shown: those with flags after all others, each kind best first."""
    return sorted(published, key=lambda p: (bool(p.flags), -p.accuracy, p.method, p.backbone, p.source))


def verdicts(board: Board, published: list[Published]) -> list[Verdict]:
    """Rows of a board next to the published figures of their setting; cited figures only where there are no others.

    A row qualifies with the defaults of its config alone: it has no changed settings but the source of its weights and the
    published recipe. Submitted predictions do not qualify: they are not of the method's implementation here.
    """
    out: list[Verdict] = []
    figures = defaultdict(list)
    for p in published if board.is_tested else []:
        figures[p.our_method, p.our_backbone, p.our_dataset, p.way, p.shot].append(p)
    for entry in board.entries if figures else []:
        result = entry.result
        if result.submitted or set(result.cell.label.changed) - {"pretrained", "activation", "recipe"}:
            continue
        setting = (result.name, result.backbone_name, result.dataset, result.protocol.way, result.protocol.shot)
        same = figures.get(setting, [])
        original = [p for p in same if not p.cited] or same
        out += [Verdict(p, entry) for p in sorted(original, key=lambda p: (bool(p.flags), p.source, p.accuracy))]
    return out
