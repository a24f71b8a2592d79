"""How rows were tuned, and which of a board had another budget than most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fsar_bench.leaderboard.rows import Row
from fsar_bench.results.record import Result

UNEQUAL = "†"
Budget = tuple[int, int]  # trials, training episodes of each


def budget_of(result: Result) -> Budget | None:
    """What a result's settings were chosen with; None where they are not those that a tuning chose."""
    tuned = result.cell.label.tuned
    return (tuned.trials, tuned.episodes) if tuned and result.cell.is_as_tuned else None


def usual_budget(rows: Sequence[Row]) -> Budget | None:
    """The budget of most trained rows, of equals the larger one; None where no row was tuned."""
    budgets = [budget_of(row.result) for row in rows if _could_be_tuned(row)]
    if not any(budgets):
        return None
    counts = Counter(budgets)
    tuned = [budget for budget in counts if budget is not None]
    most = max(counts.values())
    # Rows that nobody tuned are no budget: where they are most, those that were tuned are still the measure.
    return max((budget for budget in tuned if counts[budget] == most), default=max(tuned, key=lambda b: (counts[b], b)))


def is_unequal(row: Row, usual: Budget | None) -> bool:
    """Whether a trained row had another budget than the usual one of its board."""
    return usual is not None and _could_be_tuned(row) and budget_of(row.result) != usual


def budget_text(row: Row, usual: Budget | None) -> str:
    """The budget of a row in a table; a dash where nothing was tuned."""
    tuned = row.result.cell.label.tuned
    changed = "" if row.result.cell.is_as_tuned else ", changed"
    text = f"{tuned.trials} × {tuned.episodes}{changed}" if tuned else "–"
    return f"{text} {UNEQUAL}" if is_unequal(row, usual) else text


def budget_note(rows: Sequence[Row], usual: Budget | None) -> str:
    """What stands under a table whose rows had unequal budgets; empty where they were equal, or nothing was tuned."""
    unequal = [row for row in rows if is_unequal(row, usual)]
    if usual is None or not unequal:
        return ""
    return (
        f"{UNEQUAL}: not tuned with {usual[0]} trials of {usual[1]} training episodes, as "
        f"{sum(_could_be_tuned(row) for row in rows) - len(unequal)} trained rows of this board were ({len(unequal)} were not: "
        "settings of configs, another budget, or settings that were changed after the tuning). Differences between such rows and "
        "others may be those of tuning."
    )


def _could_be_tuned(row: Row) -> bool:
    return row.is_trained and not row.result.submitted
