"""Results of other machines: checked one by one, then copied together or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fsar_bench.errors import ResultError
from fsar_bench.io import replacing_all
from fsar_bench.leaderboard import exports
from fsar_bench.leaderboard.boards import build_boards
from fsar_bench.leaderboard.page import page_data
from fsar_bench.leaderboard.published import read_published
from fsar_bench.plan import (
    EpisodePlan,
    changed_places,
    digest_of_names,
    digest_of_recordings,
    stored_names,
    stored_recordings,
)
from fsar_bench.results.plans import check_claims, checked_plan, require_plan
from fsar_bench.results.predictions import FILE as PREDICTIONS
from fsar_bench.results.record import Cost
from fsar_bench.results.store import COST, RECORD, Stored, read, read_all, read_record

FILES = (PREDICTIONS, COST, RECORD)  # the record last: a folder without it is not a result
_MOST_RECORDS = 200_000_000  # weight of all records of a merge: some 20,000 results
_OF_VALUE = 64  # weight of a value of a record, in addition to that of its characters


@dataclass
class Merge:
    """Outcome of a merge. If there is any problem, nothing was copied.

    Attributes:
        problems: a sentence for each.
        taken: the new results, as they are stored in the folders that they come from.
        duplicates: number of results that were there already.
    """

    problems: list[str] = field(default_factory=list)
    taken: list[Stored] = field(default_factory=list)
    duplicates: int = 0


def merge_results(folders: list[Path], out: Path) -> Merge:
    """Check all results of some folders against their plans and predictions, then copy the new ones.

    Args:
        folders: each holds `results/` and `plans/`, as `out=` names them.
        out: the folder that the results are copied to; its tables are not written.

    Raises:
        ResultError: a result of `out` is damaged, or it cannot be written; nothing was copied then.
    """
    outcome = Merge()
    incoming, plans = _new_results(folders, out, outcome)
    if incoming and not outcome.problems:
        _try_tables(list(incoming.values()), out, outcome.problems)
    if outcome.problems:
        return outcome
    with replacing_all(hint="--out") as batch:
        for target, source in plans.items():
            if source != target:
                batch.copy(target, source)
        for name in FILES:
            for place, stored in incoming.items():
                batch.copy(out / "results" / place / name, stored.folder / name)
    outcome.taken = list(incoming.values())
    return outcome


def _new_results(folders: list[Path], out: Path, outcome: Merge) -> tuple[dict[Path, Stored], dict[Path, Path]]:
    """The results that are not in `out`, by place, and of each of their plans the file to take: that of `out` if it has one."""
    incoming: dict[Path, Stored] = {}
    plans: dict[Path, Path] = {}
    loaded = _Plans()
    for folder in folders:
        for stored in _sound_results(folder, loaded, outcome.problems):
            target = out / "plans" / stored.plan_file.name
            if target not in plans:
                plans[target] = target if _is_plan(target) else stored.plan_file
            _check_kept(stored, plans[target], outcome)
            if _sort_in(stored, incoming, outcome, out=out):
                outcome.problems += _replacement_problems(stored, loaded.load(stored.plan_file), out)
    return incoming, plans


def _sort_in(stored: Stored, incoming: dict[Path, Stored], outcome: Merge, *, out: Path) -> bool:
    """A result is new (returns True), a duplicate, or in conflict with another one."""
    place = stored.result.folder
    other = incoming.get(place) or _existing(out / "results" / place)
    if other is None:
        incoming[place] = stored
        return True
    if other.result == stored.result:
        outcome.duplicates += 1
    else:
        outcome.problems.append(
            f"{stored.folder} and {other.folder} have the same config hash and differ ({_differences(stored, other)}). Find "
            "out which is right and delete the other."
        )
    return False


def _check_kept(stored: Stored, kept: Path, outcome: Merge) -> None:
    """The plan that is kept, of all with the same name, has the class names and the recordings of a result."""
    if kept == stored.plan_file:
        return
    data, numbers = stored.result.data, stored_recordings(kept)
    fits = {
        "class names": digest_of_names(stored_names(kept)) == data.class_names,
        "recordings": (None if numbers is None else digest_of_recordings(numbers)) == data.recordings,
    }
    outcome.problems += [
        f"{stored.folder} has other {what} than the same episodes in {kept}. Find out which are right and delete the others."
        for what, is_same in fits.items()
        if not is_same
    ]


def _try_tables(incoming: list[Stored], out: Path, problems: list[str]) -> None:
    """Dry-run all tables and the page on the incoming results; a merge that would break them is rejected."""
    try:
        existing = read_all(out / "results") if (out / "results").is_dir() else []
        all_boards, published = build_boards([*existing, *incoming]), read_published(out)
        exports.pages(all_boards, published)
        json.dumps(page_data(all_boards, published), allow_nan=False)
    except ResultError as error:
        problems.append(str(error))
    except Exception as error:
        problems.append(
            f"The tables cannot be made with these results ({type(error).__name__}: {error}). Leave some out."
        )


def _is_plan(path: Path) -> bool:
    try:
        EpisodePlan.load(path)
    except ResultError:
        return False
    return True


class _Plans:
    """Loads plans; remembers the last one, for results that share their plan follow each other."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._plan: EpisodePlan | None = None

    def load(self, path: Path) -> EpisodePlan:
        """Read a plan; raises as `EpisodePlan.load` does."""
        if self._plan is None or self._path != path:
            self._path = self._plan = None  # two large plans are never in memory at a time
            self._path, self._plan = path, EpisodePlan.load(path)
        return self._plan


def _replacement_problems(stored: Stored, plan: EpisodePlan, out: Path) -> list[str]:
    """Faults of the episodes: a clip that is twice in one, or differences from the whole plan other than replaced clips."""
    problems = []
    episodes = stored.result.episodes
    if plan.has_a_clip_twice():
        problems.append(f"{stored.plan_file} has a clip twice in one episode. Run the cell of {stored.folder} again.")
    whole_file = _file_of(episodes.plan, out) if episodes.plan != episodes.realised else None
    if whole_file and changed_places(plan, whole_file) != plan.replaced:
        problems.append(
            f"{stored.plan_file} is not a realisation of the plan {whole_file}. Run the cell of {stored.folder} again."
        )
    return problems


def _file_of(realised: str, out: Path) -> Path | None:
    """A file of some episodes, regardless of the recordings that it holds; None if there is none."""
    return next(filter(_is_plan, sorted((out / "plans").glob(f"{realised[:16]}*.npz"))), None)


def _sound_results(folder: Path, plans: _Plans, problems: list[str]) -> Iterator[Stored]:
    """Every sound result below a folder; the faults of the others are added to `problems`."""
    root = folder / "results"
    if not root.is_dir():
        problems.append(f"{folder} has no results/ folder. Name the folder that out= named on the other machine.")
        return
    records, weight = sorted(root.glob(f"*/*/*/{RECORD}")), 0
    if not records:
        problems.append(f"{root} holds no results. Name the folder that out= named on the other machine.")
    for path in records:
        try:
            _refuse_links(folder, path.parent)
            weight += _check_claims(path.parent)
            if weight > _MOST_RECORDS:
                problems.append(f"{folder} holds more results than one merge takes. Merge it in parts.")
                return
            stored = read(path.parent)
            _check_plan(stored, plans)
            yield stored
        except ResultError as error:
            problems.append(str(error))


def _check_claims(folder: Path) -> int:
    """Compare the sizes that a record claims with those of its plan, before anything is unpacked; returns the record's weight."""
    result, text = read_record(folder)
    stored = Stored(result, Cost(), folder)
    _refuse_links(folder.parents[3], stored.plan_file)
    require_plan(stored)
    check_claims(result, stored.plan_file)
    return len(text) + _OF_VALUE * text.count(b",")


def _refuse_links(root: Path, path: Path) -> None:
    """Refuse links at a path, in it, and between it and a root."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    links = [p for p in (path, *inside, *path.parents) if p.is_relative_to(root) and p != root and p.is_symlink()]
    if links:
        raise ResultError(f"{path} is or holds a link ({links[0].name}). Copy the files themselves.")


def _check_plan(stored: Stored, plans: _Plans) -> None:
    """The plan is the one that the result names and fits its predictions and its coverage."""
    checked_plan(stored, plans.load)
    episodes = stored.result.episodes
    if stored.result.data.coverage == 1 and episodes.plan != episodes.realised:
        raise ResultError(
            f"{stored.folder} claims a complete dataset, but its episodes had clips replaced. Run the cell again."
        )


def _existing(folder: Path) -> Stored | None:
    return read(folder) if (folder / RECORD).exists() else None


def _differences(first: Stored, second: Stored) -> str:
    """The first fields that differ, with the accuracies."""
    a, b = first.result.model_dump(), second.result.model_dump()
    fields = [f"{k}.{f}" for k in a if isinstance(a[k], dict) for f in a[k] if a[k][f] != (b[k] or {}).get(f)]
    fields += [k for k in a if not isinstance(a[k], dict) and a[k] != b.get(k)]
    accuracies = f"accuracy {first.result.metrics.accuracy:.2f} and {second.result.metrics.accuracy:.2f}"
    return f"{', '.join(fields[:4])}; {accuracies}"
