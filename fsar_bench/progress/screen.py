"""The screen of a run: two live lines in a terminal or notebook, lines with times elsewhere.

What lasts is printed in both: when a cell begins and ends, and every validation. In a terminal the two lines below tell how
far the run is (cells, time, time left) and what its cell does at the moment (stage, units, rate, loss, last val accuracy).
Elsewhere a stage prints at most its first event, its quarters and, where it is long, a line every 30 seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fsar_bench.progress.estimate import Estimate
from fsar_bench.progress.events import HASHING, POSTPONED, VALIDATED, VALIDATION, WARNING, Event
from fsar_bench.progress.words import about, clock, rate, shorten, shorten_name
from fsar_bench.texts.characters import plain

SILENCE = 30.0  # seconds after which a long stage says how far it is
BAR = 24  # characters
PATIENCE = 45.0  # seconds after which a rough estimate is better than none
STEADY = 1.0  # seconds after which the rate of a stage is told
MEMORY = 60.0  # seconds after which the past of a stage counts half


class Speed:
    """Units per second of a stage, which others may interrupt; what is long ago counts less."""

    def __init__(self) -> None:
        self._units = self._seconds = 0.0

    def add(self, units: int, seconds: float) -> None:
        """Add what was just done."""
        if self._seconds > MEMORY:
            self._units, self._seconds = self._units / 2, self._seconds / 2
        self._units, self._seconds = self._units + units, self._seconds + seconds

    @property
    def per_second(self) -> float | None:
        """Units per second; None as long as it would only jump."""
        return self._units / self._seconds if self._units and self._seconds >= STEADY else None


@dataclass
class Stage:
    """The stage that a cell is in.

    Attributes:
        event: its last event.
        when: that event was.
        speed: of the stage.
    """

    event: Event
    when: float
    speed: Speed

    def tell(self, event: Event, now: float) -> None:
        """Take its next event; one that counts from the beginning again tells of no speed."""
        self.speed.add(max(0, event.done - self.event.done), now - self.when)
        self.event, self.when = event, now

    def text(self) -> str:
        """How far it is: units, rate and note; of hashing also the time left, which no estimate of a run contains."""
        name, done, total = self.event.stage, self.event.done, self.event.total
        if total <= 1:
            return ", ".join(filter(None, (name, self.event.note)))
        per_second = self.speed.per_second
        if name == HASHING:
            speed = "" if per_second is None else rate(per_second, "clips")
            left = "" if per_second is None or done == total else f"about {about((total - done) / per_second)} left"
            return ", ".join(filter(None, (f"{name} {done:,}/{total:,}", speed, left)))
        unit = "videos" if name.endswith("encoding") else "episodes"
        speed = "" if per_second is None else rate(per_second, unit)
        return ", ".join(filter(None, (f"{name} {done}/{total}", speed, self.event.note)))


class Stages:
    """How far a check is whose stages follow each other: the text of each event, with rate and time left where it has them."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stage: Stage | None = None

    def text(self, event: Event) -> str:
        """Take the next event, and tell how far its stage is."""
        now = self._clock()
        if self._stage is None or self._stage.event.stage != event.stage:
            self._stage = Stage(event, now, Speed())
        else:
            self._stage.tell(event, now)
        if event.stage == HASHING:
            return self._stage.text()
        return f"{event.stage}, {event.done} of {event.total}" if event.total > 1 else event.stage


def stage_line(name: str, stage: str, accuracy: str, width: int) -> str:
    """The line of a stage: the name gives way to the numbers."""
    numbers = ", ".join(filter(None, (stage, accuracy)))
    name = shorten_name(name, width - len(numbers) - 2)
    return shorten(f"{name}: {numbers}" if name else numbers, width)


def run_line(done: int, cells: int, elapsed: float, remaining: float | None, width: int) -> str:
    """The line of the whole run, with a bar where there is room for one."""
    count = f"{done}/{cells} cell{'' if cells == 1 else 's'}"
    time = f"{clock(elapsed)} elapsed"
    if remaining is not None:
        time += f", about {about(remaining)} left of {about(elapsed + remaining)}"
    share = done / max(cells, 1) if remaining is None else elapsed / max(elapsed + remaining, 1e-9)
    room = min(BAR, width - len(count) - len(time) - 4)
    filled = round(room * share)
    bar = f"{'━' * filled}{'─' * (room - filled)}  " if room >= 8 else ""
    return shorten(f"{count}  {bar}{time}", width)


class Screen:
    """Shows how far a run is; a context manager.

    Args:
        console: where to; its file is kept, so that a cell in this process may redirect standard output.
        names: of the cells, in their order.
        estimate: of the time; without it none is told.
        clock: seconds.
    """

    def __init__(
        self,
        console: Console,
        names: Sequence[str],
        estimate: Estimate | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.console, self.names, self.clock = console, list(map(plain, names)), clock
        self.estimate = estimate or Estimate(dict.fromkeys(range(len(self.names))), clock=clock)
        self.live = console.is_terminal or console.is_jupyter
        self.done = 0
        self._began = self._printed = clock()
        self._file = console.file
        self._number: int | None = None
        self._stage: Stage | None = None
        self._speeds: dict[str, Speed] = {}
        self._quarters: dict[str, int] = {}
        self._accuracy, self._is_announced = "", False
        self._estimated: tuple[float, float] | None = None  # when it was said, and which
        self._remaining: tuple[float, float | None] = (self._began, self.estimate.remaining())  # when, and which
        self._lock, self._over = threading.RLock(), threading.Event()
        self._lines = Live(console=console, get_renderable=self._render, transient=True, refresh_per_second=4)
        self._ticker = threading.Thread(target=self._tick, name="progress lines", daemon=True)

    def __enter__(self) -> Screen:
        self._say_estimate()
        if self.live:
            self._lines.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.live:
            self._lines.stop()
        else:
            self._ticker.join()

    @property
    def doing(self) -> str:
        """The cell that runs and how far it is; empty where none runs."""
        if self._number is None:
            return ""
        return f"{self.names[self._number]}: {self._stage.text()}" if self._stage else self.names[self._number]

    def begin(self, number: int) -> None:
        """The cell of this number, from 0, begins; it is named once it tells something."""
        with self._lock:
            self._number, self._stage, self._accuracy, self._is_announced = number, None, "", False
            self._speeds, self._quarters = {}, {}
            self.estimate.begin(number)
            self._look_at_time()

    def show(self, event: Event) -> None:
        """Show an event of the current cell."""
        event = replace(event, stage=plain(event.stage), note=plain(event.note))  # before it is fitted into a line
        with self._lock:
            if event.stage == WARNING:
                self._keep(f"warning: {event.note}")
                return
            self.estimate.tell(event)
            self._look_at_time()
            if event.stage == POSTPONED:
                self._postpone(event)
                return
            if not self._is_announced:
                self._is_announced = True
                self._keep_name("")
            if event.stage == VALIDATED:
                self._accuracy = event.note.replace("accuracy ", "")
                self._keep(f"  after {event.done} of {event.total} training episodes, {event.note}")
                return
            self._enter(event)
            if not self.live:
                self._show_quarter(event)
            self._say_estimate()

    def end(self, state: str, *, finished: bool = True) -> None:
        """Show what became of the current cell.

        Args:
            state: in words.
            finished: whether it has a result.
        """
        with self._lock:
            self.done += 1
            self.estimate.end(finished=finished)
            self._look_at_time()
            remaining = self._remaining[1] if self._is_announced and self.done < len(self.names) else None
            self._keep_name(f": {plain(state)}" + (f", about {about(remaining)} left" if remaining else ""))
            self._number = self._stage = None

    def _look_at_time(self) -> None:
        """Estimate anew; a first guess from a few clips waits for more of them, but not longer than `PATIENCE`."""
        now = self.clock()
        is_rough = self.estimate.rates.is_rough and self._remaining[1] is None and now - self._began < PATIENCE
        self._remaining = now, None if is_rough else self.estimate.remaining()

    def _postpone(self, event: Event) -> None:
        self.estimate.postpone()
        if not self._is_announced:
            self._keep_name("")
        self._keep(f"  {event.note}")
        self._number = self._stage = None

    def _enter(self, event: Event) -> None:
        """Note the event of a stage, which another stage may have interrupted."""
        now = self.clock()
        if self._stage is None or self._stage.event.stage != event.stage:
            self._stage = Stage(event, now, self._speeds.setdefault(event.stage, Speed()))
        else:
            self._stage.tell(event, now)

    def _show_quarter(self, event: Event) -> None:
        """Print a stage's first event and its quarters; validations end in a line of their own."""
        if not event.done:
            self._quarters.pop(event.stage, None)  # it may begin again, with other clips
        quarter = 4 * event.done // max(event.total, 1)
        is_first = event.stage not in self._quarters and (event.done > 0 or event.total <= 1)
        is_next = event.stage in self._quarters and quarter > self._quarters[event.stage]
        if (is_first or is_next) and not event.stage.startswith(VALIDATION):
            self._quarters[event.stage] = quarter
            self._keep_stage()

    def _tick(self) -> None:
        """Print a line where a stage was silent for long."""
        while not self._over.wait(1.0):
            self.tick()

    def tick(self) -> None:
        """Say how far the stage is if nothing was printed for `SILENCE` seconds."""
        with self._lock:
            self._look_at_time()
            self._say_estimate()
            if self._stage and self.clock() - self._printed >= SILENCE:
                self._keep_stage()

    def _keep_stage(self) -> None:
        assert self._stage is not None
        remaining = self._remaining[1]
        left = f", {about(remaining)} left in all" if remaining else ""
        self._keep(f"  {shorten(self._stage.text(), self._room - len(left) - 2)}{left}")

    def _say_estimate(self) -> None:
        """Print the estimated time of the whole once it is known, and again where it was far off."""
        now, remaining = self._remaining
        if remaining is None or self.live:
            return
        total = now - self._began + remaining
        if self._estimated:
            when, before = self._estimated
            if now - when < SILENCE or 2 / 3 < total / before < 3 / 2:
                return
        self._keep(f"estimated {about(total)} in all")
        self._estimated = now, total

    @property
    def _room(self) -> int:
        """Characters of a kept line beside its time."""
        return self.console.width - 9

    def _keep_name(self, rest: str) -> None:
        """Print a line with the number and name of the cell."""
        assert self._number is not None
        number = f"[{self._number + 1}/{len(self.names)}] "
        rest = shorten(rest, self._room - len(number) - 8)
        self._keep(f"{number}{shorten_name(self.names[self._number], self._room - len(number) - len(rest))}{rest}")

    def _keep(self, text: str) -> None:
        """Print a line that stays."""
        self._printed = self.clock()
        line = f"{clock(self._printed - self._began):>7}  {text}"
        if self.live:
            self.console.print(line, markup=False, highlight=False, overflow="crop", no_wrap=True)
        else:
            print(line, file=self._file, flush=True)

    def _render(self) -> Text:
        """The two lines. Called by rich's thread too: it takes no lock, so it reads what the events left."""
        width = self.console.width
        now = self.clock()
        elapsed = now - self._began
        when, remaining = self._remaining
        if remaining is not None:
            remaining = max(0.0, remaining - (now - when))
        lines = [run_line(self.done, len(self.names), elapsed, remaining, width)]
        number, stage = self._number, self._stage
        if number is not None:
            text = stage.text() if stage else "looking for its result"
            trains = stage is not None and stage.event.stage.startswith(("training", VALIDATION))
            lines.append(stage_line(self.names[number], text, self._accuracy if trains else "", width))
        return Text("\n".join(lines), no_wrap=True, overflow="crop")
