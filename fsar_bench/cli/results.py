"""`fsar-bench results merge`: results of other machines, checked one by one, taken in together or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from fsar_bench.cli.leaderboard import read_boards, write_tables
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard.boards import checked_plan
from fsar_bench.results import Stored, read, write_atomically

FILES = ("predictions.npz", "cost.json", "result.json")  # the record last: without it, a folder is no result


def merge_command(folders: list[Path], out: Path) -> int:
    """Check all results of the folders against their plans, then copy what is new; returns the exit code."""
    problems: list[str] = []
    fresh: dict[Path, Stored] = {}
    plans: dict[str, Path] = {}
    duplicates = 0
    for folder in folders:
        for found in _results(folder, problems):
            where = found.result.folder
            other = fresh.get(where) or _stored(out / "results" / where)
            if other is None:
                fresh[where] = found
                plans[found.plan_file.name] = found.plan_file
            elif other.result == found.result:
                duplicates += 1
            else:
                problems.append(
                    f"{found.folder} and {other.folder} have the same config hash and differ "
                    f"({_difference(found, other)}). Find out "
                    "which is right and delete the other."
                )
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        print(f"error: nothing was taken in ({len(problems)} problems above).", file=sys.stderr)
        return 1
    for name, plan in plans.items():
        if not (out / "plans" / name).exists():
            write_atomically(out / "plans" / name, plan.read_bytes())
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


def _results(folder: Path, problems: list[str]) -> list[Stored]:
    """Every sound result below a folder; what is wrong with the others goes to `problems`."""
    root = folder / "results"
    if not root.is_dir():
        problems.append(f"{folder} has no results/ folder. Name the folder that out= named on the other machine.")
        return []
    out = []
    for path in sorted(root.glob("*/*/*/result.json")):
        try:
            links = [
                p for p in (*path.relative_to(root).parents, *map(Path, FILES)) if _below(root, path, p).is_symlink()
            ]
            if links:
                raise ResultError(f"{path.parent} is or holds a link ({links[0]}). Copy the files themselves.")
            found = read(path.parent)
            _check_plan(found)
            out.append(found)
        except ResultError as error:
            problems.append(str(error))
    if not out and not problems:
        problems.append(f"{root} holds no results. Name the folder that out= named on the other machine.")
    return out


def _below(root: Path, record: Path, part: Path) -> Path:
    return record.parent / part if str(part) in FILES else root / part


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
