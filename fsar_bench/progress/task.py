"""Progress of one task, such as the verification of a dataset: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

EVERY = 5.0  # seconds between lines


class Task:
    """Shows how far a task is; call it with the number of units that are done, and the number in all if it is known.

    Args:
        console: where to.
        doing: what is done, such as "decoding".
        unit: what is counted, such as "clips".
        clock: seconds that pass.
    """

    def __init__(self, console: Console, doing: str, unit: str, *, clock: Callable[[], float] = monotonic) -> None:
        self.console, self.doing, self.unit, self._clock = console, doing, unit, clock
        self._is_live = console.is_terminal or console.is_jupyter
        columns = (SpinnerColumn(), TextColumn(doing), BarColumn(24), MofNCompleteColumn(), TextColumn(unit))
        self._bar = Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._began = self._printed = clock()

    def __enter__(self) -> Task:
        if self._is_live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._bar.stop()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that `done` units are done, of `total` if that is known."""
        if self._is_live:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = self._clock()
        if now - self._printed >= EVERY:
            self._printed = now
            print(self._line(done, total, now - self._began), flush=True)

    def _line(self, done: int, total: int | None, seconds: float) -> str:
        rate = done / seconds
        if total is None:
            return f"{self.doing}: {done} {self.unit}, {seconds:.0f} s"
        left = f", about {(total - done) / rate:.0f} s left" if done else ""
        return f"{self.doing} {done}/{total}, {rate:.{0 if rate >= 10 else 1}f} {self.unit}/s{left}"
