"""The results that were committed with fsar-bench: their digests ship, so that a run can say whether it reproduced them.

The table holds of each committed result the digests of its two files that repeat, its accuracy, the half-width of its row's
interval, and where it was measured. `python -m tools.committed_table` makes it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fsar_bench.config.settings import Frozen
from fsar_bench.errors import ResultError
from fsar_bench.io import read_whole, reason_of
from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.published import shipped
from fsar_bench.results.record import Environment, Percent
from fsar_bench.results.store import RECORD, Stored

FILE = "committed.json"
DIGITS = 16  # of a digest: enough to tell files apart, and the table stays small
NAMED = 6  # rows that are named in one sentence
Short = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGITS}}}$")]
Kind = Literal["itself", "bytes", "predictions", "accuracy", "other"]


class CommittedRow(Frozen):
    """One committed result.

    Attributes:
        record: digest of `result.json`.
        predictions: digest of the predictions.
        accuracy: percent.
        half_width: of the 95 % interval of its row over clips and trainings, or over clips alone, in percent; None where it is
            not known, and for controls, which are no rows.
        environment: number of the environment in the table; None where it is not known.
    """

    record: Short
    predictions: Short
    accuracy: Percent
    half_width: Annotated[float, Field(ge=0)] | None
    environment: Annotated[int, Field(ge=0)] | None


class CommittedTable(Frozen):
    """All committed results by config hash, and the environments that they were measured in."""

    environments: tuple[Environment, ...]
    rows: dict[str, CommittedRow]

    def environment_of(self, row: CommittedRow) -> Environment | None:
        """Where a result was measured."""
        return None if row.environment is None else self.environments[row.environment]


@dataclass(frozen=True)
class Comparison:
    """A result next to the committed one of the same cell.

    Attributes:
        name: of the cell, for people.
        kind: "itself" (the committed files, which were reused), "bytes" (both files are the same), "predictions" (they are; the
            record differs, such as by the version of a reader), "accuracy" (the same printed digits, other predictions) or
            "other".
        ours: accuracy in percent.
        committed: the same of the committed result.
        half_width: see `CommittedRow`.
        reasons: in what the two environments differ.
    """

    name: str
    kind: Kind
    ours: float
    committed: float
    half_width: float | None
    reasons: tuple[str, ...]


def committed_file() -> Path:
    """The table that ships with fsar-bench."""
    return shipped().with_name(FILE)


def read_committed(path: Path) -> CommittedTable:
    """Read the table.

    Raises:
        ResultError: it is missing or damaged.
    """
    hint = "Install fsar-bench again, or in a clone run make leaderboard."
    try:
        return CommittedTable.model_validate_json(read_whole(path))
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({reason_of(error)}). {hint}") from error
    except ValidationError as error:
        raise ResultError(f"{path} is damaged ({error.errors()[0]['msg']}). {hint}") from error


def make_table(results: Iterable[Stored], boards: Iterable[Board]) -> CommittedTable:
    """The table of some results.

    Args:
        results: all of them, controls too.
        boards: made from them.

    Raises:
        ResultError: something is damaged.
    """
    widths: dict[str, float | None] = {}
    for board in boards:
        for entry in board.entries:
            interval = entry.statistics.overall or entry.statistics.clips
            half = None if interval is None else round(interval.half, 4)
            widths |= {seed.result.config_hash: half for seed in entry.row.seeds}
    environments: list[Environment] = []
    rows = {}
    for stored in sorted(results, key=lambda stored: stored.result.config_hash):
        environment, result = stored.cost.environment, stored.result
        if environment is not None and environment not in environments:
            environments.append(environment)
        rows[result.config_hash] = CommittedRow(
            record=_digest(stored),
            predictions=result.predictions[:DIGITS],
            accuracy=result.metrics.accuracy,
            half_width=widths.get(result.config_hash),
            environment=None if environment is None else environments.index(environment),
        )
    return CommittedTable(environments=tuple(environments), rows=rows)


def compare(name: str, stored: Stored, table: CommittedTable, *, is_itself: bool) -> Comparison | None:
    """Compare a result with the committed one of its cell; None where there is none.

    Args:
        name: of the cell, for people.
        stored: the result.
        table: the committed results.
        is_itself: whether it is the committed result, which was reused.

    Raises:
        ResultError: its record cannot be read.
    """
    result, row = stored.result, table.rows.get(stored.result.config_hash)
    if row is None:
        return None
    ours = result.metrics.accuracy
    kind: Kind = "other"
    if is_itself:
        kind = "itself"
    elif result.predictions[:DIGITS] == row.predictions:
        kind = "bytes" if _digest(stored) == row.record else "predictions"
    elif f"{ours:.2f}" == f"{row.accuracy:.2f}":
        kind = "accuracy"
    there = table.environment_of(row)
    reasons = differences(stored.cost.environment, there) if kind in ("accuracy", "other") else ()
    return Comparison(name, kind, ours, row.accuracy, row.half_width, reasons)


def _digest(stored: Stored) -> str:
    """Digest of a record's file.

    Raises:
        ResultError: it cannot be read.
    """
    path = stored.folder / RECORD
    try:
        return hashlib.sha256(read_whole(path)).hexdigest()[:DIGITS]
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({reason_of(error)}). Run the cell again.") from error


def differences(here: Environment | None, there: Environment | None) -> tuple[str, ...]:
    """In what two environments differ, each as "torch 2.6 (committed: 2.5)"; empty where either is not known."""
    if here is None or there is None:
        return ()
    pairs = {
        "device": (here.device, there.device),
        "threads": (str(here.threads), str(there.threads)),
        "machine": (here.machine, there.machine),
        "Python": (here.python, there.python),
    }
    for name in sorted({*here.packages, *there.packages}):
        pairs[name] = (here.packages.get(name) or "none", there.packages.get(name) or "none")
    return tuple(f"{name} {ours} (committed: {theirs})" for name, (ours, theirs) in pairs.items() if ours != theirs)


def told(comparisons: Sequence[Comparison], count: int) -> list[str]:
    """Sentences on which committed rows a run reproduced; none where it has no committed counterpart.

    Args:
        comparisons: of the cells that have one.
        count: number of cells with a result.
    """
    if not comparisons:
        return []
    of_kind: dict[Kind, list[Comparison]] = {}
    for comparison in comparisons:
        of_kind.setdefault(comparison.kind, []).append(comparison)
    lines = [line for kind in _WORDS if (line := _counted(kind, of_kind.get(kind, []), len(comparisons)))]
    lines += [_difference(comparison) for comparison in of_kind.get("other", [])]
    lines += _reasons(comparisons)
    if count > len(comparisons):
        lines.append(f"Without a committed counterpart: {count - len(comparisons)} of {count} cells.")
    return lines


_WORDS: dict[Kind, str] = {
    "bytes": "reproduced, the same bytes",
    "predictions": "reproduced, the same predictions; their records differ, such as by the version of the reader",
    "accuracy": "with the same accuracy to the digit, but other bytes",
    "itself": "reused as they are: nothing was computed again. Add out=./again to compute them and compare",
}


def _counted(kind: Kind, found: Sequence[Comparison], count: int) -> str:
    if not found:
        return ""
    names = "" if kind == "itself" or len(found) == count else f": {_names(found)}"
    return f"Committed rows: {len(found)} of {count} {_WORDS[kind]}{names}."


def _names(found: Sequence[Comparison]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(comparison.name for comparison in found[:NAMED]) + more


def _difference(comparison: Comparison) -> str:
    gap, width = comparison.ours - comparison.committed, comparison.half_width
    place = "whose interval is not known"
    if width is not None:
        place = f"{'within' if abs(gap) <= width else 'outside'} its interval of ± {width:.2f}"
    return (
        f"Committed row not reproduced: {comparison.name}: {comparison.ours:.2f} %, committed {comparison.committed:.2f} %: "
        f"{gap:+.2f} points, {place}."
    )


def _reasons(comparisons: Sequence[Comparison]) -> list[str]:
    """Why bytes may differ, as far as the records of both sides tell."""
    differing = [comparison for comparison in comparisons if comparison.kind in ("accuracy", "other")]
    if not differing:
        return []
    counted = Counter(reason for comparison in differing for reason in comparison.reasons)
    if not counted:
        return [
            "Why that may be: both records tell of the same versions, threads and device; another processor rounds differently."
        ]
    return [f"Why that may be: {', '.join(reason for reason, _ in counted.most_common(NAMED))}."]
