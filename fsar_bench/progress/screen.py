"""The screen of a sweep: live bars in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fsar_bench.progress.events import VALIDATED, WARNING, Event


class Screen:
    """Shows how far cells are.

    Args:
        console: where to.
        cells: number of cells.
    """

    def __init__(self, console: Console, cells: int) -> None:
        self.console, self.cells, self.number = console, cells, 0
        self.live = console.is_terminal or console.is_jupyter
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
        )
        self._task = self._bars.add_task("", total=None, note="", visible=False)
        self._name, self._stage, self._quarter = "", "", -1

    def __enter__(self) -> Screen:
        if self.live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, name: str) -> None:
        """Show that the next cell begins."""
        self.number += 1
        self._name, self._stage, self._quarter = f"[{self.number}/{self.cells}] {name}", "", -1
        if self.live:
            self._bars.reset(self._task, description=self._name, total=None, visible=True, note="")
        else:
            self._line(self._name)

    def show(self, event: Event) -> None:
        """Show an event of the current cell."""
        if event.stage == WARNING:
            self._keep(f"warning: {event.note}")
            return
        if event.stage == VALIDATED:
            self._keep(f"{self._name}: after {event.done} of {event.total} training episodes, {event.note}")
            return
        if self.live:
            if event.stage != self._stage:
                self._bars.reset(self._task, description=f"{self._name}: {event.stage}", total=event.total)
            self._bars.update(self._task, completed=event.done, total=event.total, note=event.note)
        elif not event.stage.startswith("validation"):
            self._show_quarters(event)
        self._stage = event.stage

    def _show_quarters(self, event: Event) -> None:
        quarter = 4 * event.done // max(event.total, 1)
        if event.stage != self._stage or quarter != self._quarter:
            self._line(f"  {event.stage} {event.done}/{event.total}" + (f", {event.note}" if event.note else ""))
        self._quarter = quarter

    def end(self, state: str, seconds: float) -> None:
        """Show what became of the current cell."""
        if self.live:
            self._bars.update(self._task, visible=False)
        self._keep(f"{self._name}: {state} ({seconds:.0f} s)")

    def _keep(self, text: str) -> None:
        if self.live:
            self.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        print(text, flush=True)
