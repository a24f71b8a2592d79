"""Run the study of MA-CLIP, tell what it costs, or write its page from stored results.

python -m tools.study plan                        (hours of each group, as far as stored results tell)
python -m tools.study run jobs=2                  (what is missing; interrupted or killed, it resumes)
python -m tools.study run --group parts           (the groups whose titles hold this word alone)
python -m tools.study page                        (docs/ma_clip.md)
python -m tools.study page --check                (exit 1 if the page is not that of the results)
python -m tools.study run --quick, page --quick   (tiny trainings in another folder: a test of the program)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fsar_bench.config.cell import Cell, short_names
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.errors import ConfigError, FsarBenchError, suggest
from tools.study.design import Design, Group
from tools.study.measured import CURVES, Measured
from tools.study.page import NOTES, Notes, Page

ROOT = Path(__file__).parents[2]
STORE, PAGE = ROOT / "leaderboards" / "studies" / "ma_clip", ROOT / "docs" / "ma_clip.md"
QUICK = {
    "episodes": "60", "train.episodes": "4", "train.val_interval": "2", "train.val_episodes": "20",
}  # fmt: skip
QUICK_STORE = Path("work_dirs") / "study_quick"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "plan", "page"))
    parser.add_argument("options", nargs="*", help="options of fsar-bench run, such as jobs=2 or work_dir=FOLDER")
    parser.add_argument("--group", default="", help="only groups whose title holds this text")
    parser.add_argument("--store", type=Path, help="folder of the results")
    parser.add_argument("--page", type=Path, help="where the page is")
    parser.add_argument("--check", action="store_true", help="with page: write nothing, exit 1 if it is stale")
    parser.add_argument("--quick", action="store_true", help="tiny trainings, to try the program")
    asked = parser.parse_intermixed_args(arguments)
    design = Design(changes=QUICK if asked.quick else {})
    store = asked.store or (QUICK_STORE if asked.quick else STORE)
    page = asked.page or (QUICK_STORE / "ma_clip.md" if asked.quick else PAGE)
    try:
        if asked.verb == "page":
            return _write(design, store, page, check=asked.check)
        options, groups = _options(asked.options, store), _groups(design, asked.group)
        return _plan(design, groups, options) if asked.verb == "plan" else _run(design, groups, options)
    except FsarBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        return 130


def _options(pairs: list[str], store: Path) -> RunOptions:
    """How cells run.

    Raises:
        ConfigError: a key that is no option, or out=.
    """
    for pair in pairs:
        key = pair.partition("=")[0]
        if key == "out":
            raise ConfigError(f"{pair} has no effect: say --store FOLDER.")
        if key not in RunOptions.model_fields:
            raise ConfigError(f"{key}= is no option of a run.{suggest(key, RunOptions.model_fields)}")
    return resolve(["methods=prototype_frozen", f"out={store}", *pairs]).options


def _groups(design: Design, word: str) -> list[Group]:
    """Groups by a part of their title.

    Raises:
        ConfigError: none has it.
    """
    groups = [group for group in design.groups if word in group.title]
    if not groups:
        titles = ", ".join(group.title for group in design.groups)
        raise ConfigError(f"No group has {word!r} in its title. There are: {titles}.")
    return groups


def _plan(design: Design, groups: list[Group], options: RunOptions) -> int:
    """Print the cells and hours of each group, cells of earlier groups left out."""
    from fsar_bench.engine.forecast import backbone_of, forecast, stored_knowledge

    backbones = {backbone_of(cell) for cell in design.cells()}
    known = stored_knowledge(options.out, backbones)
    if not known.source:  # nothing of the study is stored yet
        known = stored_knowledge(ROOT / "leaderboards", backbones)
    print(f"from: {known.source or 'nothing that is stored'}")
    cells = list({cell.hash: cell for group in groups for cell in design.cells_of(group)}.values())
    foreseen = forecast(cells, options, known) if cells else None
    seconds = dict(zip((cell.hash for cell in cells), foreseen.seconds, strict=True)) if foreseen else {}
    works = dict(zip((cell.hash for cell in cells), foreseen.works, strict=True)) if foreseen else {}
    for group in groups:
        hashes = [cell.hash for cell in design.cells_of(group) if cell.hash in works]
        unfinished = [key for key in hashes if works[key] is not None]
        hours = sum(seconds[key] or 0.0 for key in unfinished) / 3600
        unknown = sum(seconds[key] is None for key in unfinished)
        more = f" and {unknown} cells of unknown time" if unknown else ""
        lacks = "" if design.can_run(group) else f", there is no backbone {group.backbone} yet"
        print(
            f"{group.title}: {len(hashes)} cells, {len(unfinished)} to run, {hours:.1f} hours of a device{more}{lacks}"
        )
        for key in hashes:
            del works[key]  # it is counted once
    total = sum(each or 0.0 for each in seconds.values()) / 3600
    print(f"in all {total:.1f} hours of a device, with jobs= several at a time")
    return 0


def _run(design: Design, groups: list[Group], options: RunOptions) -> int:
    """Run what is missing, group by group; returns 1 if a cell failed."""
    failed = 0
    for group in groups:
        cells = design.cells_of(group)
        if not design.can_run(group):
            print(f"\n{group.title}: there is no backbone {group.backbone} yet", flush=True)
            continue
        print(f"\n{group.title}: {len(cells)} cells", flush=True)
        failed += _sweep(cells, options)
    return int(failed > 0)


def _sweep(cells: list[Cell], options: RunOptions) -> int:
    """Run some cells and keep their curves; returns the number that failed."""
    from fsar_bench.engine.forecast import estimate_of
    from fsar_bench.engine.jobs import settled
    from fsar_bench.engine.preflight import preflight
    from fsar_bench.engine.sweep import run_isolated, sweep_on
    from fsar_bench.progress.screen import Screen
    from fsar_bench.texts.console import PlainConsole

    try:
        checked = preflight(cells, options, isolate=True)
    except FsarBenchError as error:  # none of them can be run; other groups may
        print(f"error: {error}", file=sys.stderr)
        return len(cells)
    errors = [str(error) for error in checked.errors]
    ran = settled(options, checked.sound)
    with Screen(PlainConsole(file=sys.stdout), short_names(checked.sound), estimate_of(checked.sound, ran)) as screen:
        for outcome in sweep_on(screen, checked.sound, ran, run_isolated):
            if outcome.stored:
                _keep_curve(outcome.cell, outcome.stored.result.training_key, options)
            else:
                errors.append(f"{outcome.cell}: {outcome.error}")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return len(errors)


def _keep_curve(cell: Cell, key: str | None, options: RunOptions) -> None:
    """Copy the val accuracies of a training from the work folder to the store, where that has them."""
    from fsar_bench.io import write_atomically

    if key is None:
        return
    curve = options.work_dir / cell.training_folder(key) / "curve.csv"
    if curve.is_file():
        write_atomically(options.out / CURVES / f"{key}.csv", curve.read_bytes())


def _write(design: Design, store: Path, path: Path, *, check: bool) -> int:
    page = Page(Measured(design, store), Notes.read(NOTES), path.stem)
    if check:
        stale = page.stale(path)
        if stale:
            print(f"error: stale: {', '.join(stale)}; run python -m tools.study page", file=sys.stderr)
        return int(bool(stale))
    page.write(path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
