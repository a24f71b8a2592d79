"""`fsar-bench run`: cells one after the other, each in a process of its own, with progress; then the table."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fsar_bench.config.resolve import Run, resolve
from fsar_bench.engine import run as cell_process
from fsar_bench.errors import ResultError
from fsar_bench.results import store as results


def run_command(pairs: list[str]) -> int:
    """Run all cells; returns the exit code (1 if a cell failed)."""
    from fsar_bench.cli.leaderboard import read_boards, show, write_tables

    run = resolve(pairs)
    out = Path(run.options["out"])
    _check_writable(out, "out")
    _check_writable(Path(run.options["work_dir"]), "work_dir")
    console = Console()
    screen = _Screen(console, len(run.cells))
    failed: list[tuple[str, str]] = []
    _warn_of_overlaps(run.cells)
    with screen:
        for number, cell in enumerate(run.cells, 1):
            screen.begin(number, _name(cell))
            error = _run_or_reuse(cell, run, out / "results", screen)
            if error and screen.inapplicable and cell["is_control"]:
                screen.note("left out, a control that does not apply here")
                error = None
            if error:
                failed.append((_name(cell), error))
            screen.end(error)
    for name, error in failed:
        print(f"error: {name}: {error}", file=sys.stderr)
    found = read_boards(out)
    mine = {cell["hash"] for cell in run.cells}
    touched = [b for b in found if any(s.result.config_hash in mine for row in b.rows for s in row.seeds)]
    written = write_tables(out, found)
    show(console, touched, highlight=mine)
    for path in written:
        if path.name in {f"{board.page}.md" for board in touched}:
            console.print(f"table: {path}", soft_wrap=True, highlight=False)
    return 1 if failed else 0


def _warn_of_overlaps(cells: list[dict]) -> None:
    """Say where what is trained here has seen clips that another dataset tests on."""
    trained = {cell["dataset"]["name"]: cell["overlaps"] for cell in cells if "train" in cell}
    for name, overlaps in trained.items():
        for other, count in overlaps.items():
            print(
                f"warning: the train split of {name} holds {count} val and test clips of {other}: do not test there what is "
                "trained here.",
                file=sys.stderr,
            )


def _name(cell: dict) -> str:
    protocol = cell["protocol"]
    seed = f" seed {protocol['seed']}" if protocol["seed"] else ""
    seed += f" training seed {cell['train']['seed']}" if "seed" in cell.get("train", {}) else ""
    return f"{cell['title']} on {cell['dataset']['name']}, {protocol['way']}-way {protocol['shot']}-shot{seed}"


def _check_writable(folder: Path, key: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResultError(
            f"The folder {folder} cannot be written ({error.strerror}). Choose another with {key}=."
        ) from error


def _run_or_reuse(cell: dict, run: Run, store: Path, screen: _Screen) -> str | None:
    """Run one cell, or take up its finished result. Returns the error, or None."""
    protocol = cell["protocol"]
    folder = store / results.cell_folder(
        cell["dataset"]["name"], protocol["way"], protocol["shot"], cell["name"], cell["hash"]
    )
    if run.options["overwrite"]:
        shutil.rmtree(cell_process.work_folder(cell, Path(run.options["work_dir"])), ignore_errors=True)
    elif (folder / "result.json").exists():
        try:
            result = results.read(folder).result
        except ResultError as error:
            return f"{error} Or run with overwrite=true."
        if result.config_hash == cell["hash"]:
            screen.note("finished before, reused")
            return None
    return _run_process(cell, run.options, screen)


def _run_process(cell: dict, options: dict, screen: _Screen) -> str | None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=cell_process.main, args=(cell, options, theirs))
    process.start()
    theirs.close()
    outcome: tuple[str, str] | None = None
    screen.inapplicable = False
    try:
        while True:
            kind, *rest = ours.recv()
            if kind == "progress":
                screen.progress(*rest)
            else:
                outcome = (kind, rest[0])
    except EOFError:
        process.join()
    except BaseException:
        process.kill()
        process.join()
        raise
    log = cell_process.work_folder(cell, Path(options["work_dir"])) / "log.txt"
    if outcome is None:
        return f"its process ended early (exit code {process.exitcode}; out of memory?). The log is {log}."
    screen.inapplicable = outcome[0] == "not applicable"
    return None if outcome[0] == "done" else outcome[1]


class _Screen:
    """Progress of cells: live bars in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, cells: int) -> None:
        self.console, self.cells, self.live = console, cells, console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[note]}", style="dim"),
            console=console, transient=True,
        )  # fmt: skip
        self._stage, self._task, self._note, self.inapplicable = "", None, "", False

    def __enter__(self) -> _Screen:
        if self.live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, number: int, name: str) -> None:
        self._name, self._began, self._stage, self._note, self._shown = (
            f"[{number}/{self.cells}] {name}",
            perf_counter(),
            "",
            "",
            -1,
        )
        if self.live:
            self._task = self._bars.add_task(self._name, total=None, note="")
        else:
            self._line(self._name)

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "validated":
            self._keep(f"{self._name}: after {done} of {total} training episodes, {note}")
            return
        if self.live:
            if stage != self._stage:
                self._bars.reset(self._task, description=f"{self._name}: {stage}", total=total)
            self._bars.update(self._task, completed=done, total=total, note=note)
        elif not stage.startswith("validation"):
            quarter = 4 * done // max(total, 1)
            if stage != self._stage or quarter != self._shown:
                self._line(f"  {stage} {done}/{total}" + (f", {note}" if note else ""))
            self._shown = quarter
        self._stage = stage

    def note(self, text: str) -> None:
        self._note = text

    def end(self, error: str | None) -> None:
        if self.live:
            self._bars.remove_task(self._task)
        state = "failed" if error else self._note or "done"
        self._keep(f"{self._name}: {state} ({perf_counter() - self._began:.0f} s)")

    def _keep(self, text: str) -> None:
        (self._bars.console.print if self.live else self._line)(text)

    def _line(self, text: str) -> None:
        print(text, flush=True)
