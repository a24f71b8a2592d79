"""`fsar-bench results merge`: results of other machines, checked one by one, taken in together or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from fsar_bench.cli.leaderboard import read_boards, write_tables
from fsar_bench.errors import ResultError
from fsar_bench.io import write_atomically
from fsar_bench.leaderboard import boards as boards_of
from fsar_bench.leaderboard import exports
from fsar_bench.leaderboard.boards import checked_plan
from fsar_bench.leaderboard.page import page_data
from fsar_bench.leaderboard.published import read_published
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.store import Stored, plan_name, read, read_all

FILES = ("predictions.npz", "cost.json", "result.json")  # the record last: without it, a folder is no result


def merge_command(folders: list[Path], out: Path) -> int:
    """Check all results of the folders against their plans, then copy what is new; returns the exit code."""
    problems: list[str] = []
    fresh: dict[Path, Stored] = {}
    plans: dict[Path, Path] = {}
    duplicates = 0
    for folder in folders:
        for found in _results(folder, problems):
            where = found.result.folder
            other = fresh.get(where) or _stored(out / "results" / where)
            plans.setdefault(out / "plans" / found.plan_file.name, found.plan_file)
            if other is None:
                fresh[where] = found
                _check_replacements(found, out, problems)
            elif other.result == found.result:
                duplicates += 1
            else:
                problems.append(
                    f"{found.folder} and {other.folder} have the same config hash and differ ({_difference(found, other)}). Find "
                    "out which is right and delete the other."
                )
    if fresh and not problems:
        _try_tables(fresh, out, problems)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        print(f"error: nothing was taken in ({len(problems)} problems above).", file=sys.stderr)
        return 1
    for ours, theirs in plans.items():
        if not _is_plan(ours):
            write_atomically(ours, theirs.read_bytes())
    for where, found in fresh.items():
        for name in FILES:
            write_atomically(out / "results" / where / name, (found.folder / name).read_bytes())
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{len(fresh)} results taken in, {duplicates} were there already")
    if fresh:
        boards = read_boards(out)
        for path in write_tables(out, boards):
            console.print(str(path))
    return 0


def _try_tables(fresh: dict[Path, Stored], out: Path, problems: list[str]) -> None:
    """Make every table and the data of the page with the new results, where they lie: what breaks them is not taken in."""
    try:
        here = read_all(out / "results") if (out / "results").is_dir() else []
        all_boards, published = boards_of([*here, *fresh.values()]), read_published(out)
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


def _check_replacements(found: Stored, out: Path, problems: list[str]) -> None:
    """Episodes hold no clip twice; on incomplete data they differ from the whole plan (if it is here) in replaced clips alone."""
    p = found.result.protocol
    plan = EpisodePlan.load(found.plan_file)
    clips = np.sort(np.concatenate([plan.support, plan.query], 2).reshape(len(plan), -1), axis=1)
    if (clips[:, 1:] == clips[:, :-1]).any():
        problems.append(f"{found.plan_file} has a clip twice in one episode. Run the cell of {found.folder} again.")
    whole = out / "plans" / plan_name(p.plan)
    if p.plan != p.realised and _is_plan(whole):
        full = EpisodePlan.load(whole)
        places = sum(int((a != b).sum()) for a, b in ((plan.support, full.support), (plan.query, full.query)))
        if (plan.classes != full.classes).any() or places != plan.replaced:
            problems.append(
                f"{found.plan_file} is not a realisation of the plan {whole}. Run the cell of {found.folder} again."
            )


def _results(folder: Path, problems: list[str]) -> list[Stored]:
    """Every sound result below a folder; what is wrong with the others goes to `problems`."""
    root = folder / "results"
    if not root.is_dir():
        problems.append(f"{folder} has no results/ folder. Name the folder that out= named on the other machine.")
        return []
    out = []
    for path in sorted(root.glob("*/*/*/result.json")):
        try:
            _no_links(root, path.parent)
            found = read(path.parent)
            _no_links(folder, found.plan_file)
            _check_plan(found)
            out.append(found)
        except ResultError as error:
            problems.append(str(error))
    if not out and not problems:
        problems.append(f"{root} holds no results. Name the folder that out= named on the other machine.")
    return out


def _no_links(root: Path, path: Path) -> None:
    """Refuse links at a path, in it, and between it and a root."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    links = [p for p in (path, *inside, *path.parents) if p.is_relative_to(root) and p != root and p.is_symlink()]
    if links:
        raise ResultError(f"{path} is or holds a link ({links[0].name}). Copy the files themselves.")


def _check_plan(found: Stored) -> None:
    """The plan is the one that the result names and fits its predictions and its coverage."""
    checked_plan(found)
    p = found.result.protocol
    if found.result.dataset.coverage == 1 and p.plan != p.realised:
        raise ResultError(
            f"{found.folder} claims a complete dataset, but its episodes had clips replaced. Run the cell again."
        )


def _stored(folder: Path) -> Stored | None:
    return read(folder) if (folder / "result.json").exists() else None


def _difference(one: Stored, two: Stored) -> str:
    """The first fields that differ, with what they hold."""
    a, b = one.result.model_dump(), two.result.model_dump()
    parts = [f"{k}.{f}" for k in a if isinstance(a[k], dict) for f in a[k] if a[k][f] != b[k].get(f)]
    parts += [k for k in a if not isinstance(a[k], dict) and a[k] != b[k]]
    accuracy = f"; accuracy {one.result.metrics.accuracy:.2f} and {two.result.metrics.accuracy:.2f}"
    return ", ".join(parts[:4]) + accuracy
