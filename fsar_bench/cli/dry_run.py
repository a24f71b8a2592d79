"""`fsar-bench run --dry-run`: the cells of a run, what is stored of them, and how long they would take. Writes nothing."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsar_bench.config.cell import Cell, common_training
from fsar_bench.config.resolve import Run
from fsar_bench.engine.forecast import forecast
from fsar_bench.progress.words import about
from fsar_bench.texts.console import PlainConsole

WIDE = 200  # characters of a line that no terminal folds


def show_cells(run: Run, console: Console) -> None:
    """Print a line for each cell, and the total.

    Raises:
        FsarBenchError: a dataset is not prepared, or a stored result is damaged.
    """
    foreseen, common = forecast(run.cells, run.options), common_training(run.cells)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for heading in ("hash", "method", "dataset", "way", "shot", "seeds", "state"):
        table.add_column(heading, no_wrap=heading == "hash", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    for cell, state, seconds in zip(run.cells, foreseen.states, foreseen.seconds, strict=True):
        detail = f" ({state.detail})" if state.kind == "resumable" else ""
        p = cell.protocol
        time = "–" if seconds is None or state.kind == "finished" else about(seconds)
        row = (cell.hash[:8], cell.label.without(common).row, cell.identity.dataset.name, str(p.way), str(p.shot))
        table.add_row(*map(Text, (*row, _seeds(cell), f"{state.kind}{detail}", time)))
    if not console.is_terminal:  # a file or another program reads it
        console = PlainConsole(file=console.file, width=max(WIDE, console.width))
    console.print(table)
    if common:
        settings = ", ".join(f"{key}={value}" for key, value in common.items())
        console.print(f"Trained cells: {settings}", soft_wrap=True, highlight=False, markup=False)
    console.print(_summary(run, [state.kind for state in foreseen.states], foreseen.total), highlight=False)


def _seeds(cell: Cell) -> str:
    """Seed of the episodes, and of the training where it is another one."""
    train = cell.identity.train
    of_training = f", training {train.seed}" if train and train.seed is not None else ""
    return f"{cell.protocol.seed}{of_training}"


def _summary(run: Run, kinds: list[str], total: float | None) -> str:
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    if all(kind == "finished" for kind in kinds):
        time = "nothing to do"
    elif total is None:
        time = f"no estimate: {run.options.out} holds no result with this backbone"
    else:
        time = f"estimated {about(total)} in all"
    return f"{len(kinds)} cells ({counts}): {time}"
