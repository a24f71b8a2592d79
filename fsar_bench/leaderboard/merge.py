"""Results of other machines: checked one by one, then copied together or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fsar_bench.errors import ResultError
from fsar_bench.io import write_atomically
from fsar_bench.leaderboard import exports
from fsar_bench.leaderboard.boards import build_boards, checked_plan
from fsar_bench.leaderboard.page import page_data
from fsar_bench.leaderboard.published import read_published
from fsar_bench.plan import EpisodePlan, digest_of_names
from fsar_bench.results.predictions import FILE as PREDICTIONS
from fsar_bench.results.record import plan_name
from fsar_bench.results.store import COST, RECORD, Stored, read, read_all

FILES = (PREDICTIONS, COST, RECORD)  # the record last: a folder without it is not a result


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
        ResultError: a result of `out` is damaged, or it cannot be written.
    """
    outcome = Merge()
    incoming: dict[Path, Stored] = {}
    plans: dict[Path, Path] = {}
    for folder in folders:
        for stored in _sound_results(folder, outcome.problems):
            target = out / "plans" / stored.plan_file.name
            _check_names(stored, target if _is_plan(target) else plans.setdefault(target, stored.plan_file), outcome)
            _sort_in(stored, incoming, outcome, out=out)
    if incoming and not outcome.problems:
        _try_tables(list(incoming.values()), out, outcome.problems)
    if outcome.problems:
        return outcome
    for target, source in plans.items():
        if not _is_plan(target):
            write_atomically(target, source.read_bytes())
    for place, stored in incoming.items():
        for name in FILES:
            write_atomically(out / "results" / place / name, (stored.folder / name).read_bytes())
    outcome.taken = list(incoming.values())
    return outcome


def _sort_in(stored: Stored, incoming: dict[Path, Stored], outcome: Merge, *, out: Path) -> None:
    """A result is new, a duplicate, or in conflict with another one."""
    place = stored.result.folder
    other = incoming.get(place) or _existing(out / "results" / place)
    if other is None:
        incoming[place] = stored
        outcome.problems += _replacement_problems(stored, out)
    elif other.result == stored.result:
        outcome.duplicates += 1
    else:
        outcome.problems.append(
            f"{stored.folder} and {other.folder} have the same config hash and differ ({_differences(stored, other)}). Find "
            "out which is right and delete the other."
        )


def _check_names(stored: Stored, kept: Path, outcome: Merge) -> None:
    """The plan that is kept, of all with the same episodes, has the class names of a result."""
    if kept != stored.plan_file and digest_of_names(EpisodePlan.load(kept).names) != stored.result.data.class_names:
        outcome.problems.append(
            f"{stored.folder} has other class names than the same episodes in {kept}. Find out which are right and delete "
            "the others."
        )


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


def _replacement_problems(stored: Stored, out: Path) -> list[str]:
    """Faults of the episodes: a clip that is twice in one, or differences from the whole plan other than replaced clips."""
    problems = []
    episodes, plan = stored.result.episodes, EpisodePlan.load(stored.plan_file)
    clips = np.sort(np.concatenate([plan.support, plan.query], 2).reshape(len(plan), -1), axis=1)
    if (clips[:, 1:] == clips[:, :-1]).any():
        problems.append(f"{stored.plan_file} has a clip twice in one episode. Run the cell of {stored.folder} again.")
    whole_file = out / "plans" / plan_name(episodes.plan)
    if episodes.plan != episodes.realised and _is_plan(whole_file):
        whole = EpisodePlan.load(whole_file)
        changed = int((plan.support != whole.support).sum()) + int((plan.query != whole.query).sum())
        if (plan.classes != whole.classes).any() or changed != plan.replaced:
            problems.append(
                f"{stored.plan_file} is not a realisation of the plan {whole_file}. Run the cell of {stored.folder} again."
            )
    return problems


def _sound_results(folder: Path, problems: list[str]) -> list[Stored]:
    """Every sound result below a folder; the faults of the others are added to `problems`."""
    root = folder / "results"
    if not root.is_dir():
        problems.append(f"{folder} has no results/ folder. Name the folder that out= named on the other machine.")
        return []
    records = sorted(root.glob(f"*/*/*/{RECORD}"))
    if not records:
        problems.append(f"{root} holds no results. Name the folder that out= named on the other machine.")
    sound = []
    for path in records:
        try:
            _refuse_links(root, path.parent)
            stored = read(path.parent)
            _refuse_links(folder, stored.plan_file)
            _check_plan(stored)
            sound.append(stored)
        except ResultError as error:
            problems.append(str(error))
    return sound


def _refuse_links(root: Path, path: Path) -> None:
    """Refuse links at a path, in it, and between it and a root."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    links = [p for p in (path, *inside, *path.parents) if p.is_relative_to(root) and p != root and p.is_symlink()]
    if links:
        raise ResultError(f"{path} is or holds a link ({links[0].name}). Copy the files themselves.")


def _check_plan(stored: Stored) -> None:
    """The plan is the one that the result names and fits its predictions and its coverage."""
    checked_plan(stored)
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
