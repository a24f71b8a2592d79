"""The screen of a run: live lines in a terminal or notebook, lines with times elsewhere.

What lasts is printed in both: when a cell begins and ends, and every validation. In a terminal the lines below tell how far
the run is (cells, time, time left) and, one for each cell that runs, what it does at the moment (stage, units, rate, loss,
last val accuracy). Elsewhere a stage prints at most its first event, its quarters and, where it is long, a line every 30
seconds. Where several cells run at a time, every line that lasts begins with the number of its cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass
class _Running:
    """What is shown of a cell that runs.

    Attributes:
        number: of the cell, from 0.
        printed: when it, or the run, last printed a line.
        stage: that it is in.
        accuracy: of its last validation.
        is_announced: whether it was named.
        speeds: of its stages.
        quarters: of its stages that were printed.
    """

    number: int
    printed: float
    stage: Stage | None = None
    accuracy: str = ""
    is_announced: bool = False
    speeds: dict[str, Speed] = field(default_factory=dict)
    quarters: dict[str, int] = field(default_factory=dict)

    def enter(self, event: Event, now: float) -> None:
        """Note the event of a stage, which another stage may have interrupted."""
        if self.stage is None or self.stage.event.stage != event.stage:
            self.stage = Stage(event, now, self.speeds.setdefault(event.stage, Speed()))
        else:
            self.stage.tell(event, now)

    def ends_quarter(self, event: Event) -> bool:
        """Whether a stage begins or has done another quarter; validations end in a line of their own."""
        if not event.done:
            self.quarters.pop(event.stage, None)  # it may begin again, with other clips
        quarter = 4 * event.done // max(event.total, 1)
        is_first = event.stage not in self.quarters and (event.done > 0 or event.total <= 1)
        is_next = event.stage in self.quarters and quarter > self.quarters[event.stage]
        if event.stage.startswith(VALIDATION) or not (is_first or is_next):
            return False
        self.quarters[event.stage] = quarter
        return True

    def line(self, name: str, width: int) -> str:
        """Its live line."""
        text = self.stage.text() if self.stage else "looking for its result"
        trains = self.stage is not None and self.stage.event.stage.startswith(("training", VALIDATION))
        return stage_line(name, text, self.accuracy if trains else "", width)


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
    """Shows how far a run is; a context manager. Its methods may be called from any thread.

    Those that tell of a cell take its number; without one they mean the cell that began last.

    Args:
        console: where to; its file is kept, so that a cell in this process may redirect standard output.
        names: of the cells, in their order.
        estimate: of the time; without it none is told. It also says how many cells run at a time.
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
        self._running: dict[int, _Running] = {}
        self._last = -1  # number of the cell that began last
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
    def doing(self) -> list[str]:
        """The cells that run and how far each is."""
        running = [self._running[number] for number in sorted(self._running)]
        names = [self.names[cell.number] for cell in running]
        return [
            f"{name}: {cell.stage.text()}" if cell.stage else name for name, cell in zip(names, running, strict=True)
        ]

    def share(self, jobs: int) -> None:
        """So many cells run at a time: known once a cluster is reached."""
        with self._lock:
            self.estimate.jobs = jobs

    def begin(self, number: int) -> None:
        """The cell of this number, from 0, begins; it is named once it tells something."""
        with self._lock:
            self._last, self._running[number] = number, _Running(number, self._printed)
            self.estimate.begin(number)
            self._look_at_time()

    def show(self, event: Event, number: int | None = None) -> None:
        """Show an event of a cell."""
        event = replace(event, stage=plain(event.stage), note=plain(event.note))  # before it is fitted into a line
        with self._lock:
            if event.stage == WARNING:
                self._keep(f"warning: {event.note}")
                return
            cell = self._running[self._last if number is None else number]
            self.estimate.tell(event, cell.number)
            self._look_at_time()
            if event.stage == POSTPONED:
                self._postpone(cell, event)
                return
            if not cell.is_announced:
                cell.is_announced = True
                self._keep_name(cell, "")
            if event.stage == VALIDATED:
                cell.accuracy = event.note.replace("accuracy ", "")
                self._keep_of(cell, f"after {event.done} of {event.total} training episodes, {event.note}")
                return
            cell.enter(event, self.clock())
            if not self.live and cell.ends_quarter(event):
                self._keep_stage(cell)
            self._say_estimate()

    def end(self, state: str, *, finished: bool = True, number: int | None = None) -> None:
        """Show what became of a cell.

        Args:
            state: in words.
            finished: whether it has a result.
            number: of the cell.
        """
        with self._lock:
            cell = self._running[self._last if number is None else number]
            self.done += 1
            self.estimate.end(cell.number, finished=finished)
            self._look_at_time()
            remaining = self._remaining[1] if cell.is_announced and self.done < len(self.names) else None
            self._keep_name(cell, f": {plain(state)}" + (f", about {about(remaining)} left" if remaining else ""))
            del self._running[cell.number]

    def _look_at_time(self) -> None:
        """Estimate anew; a first guess from a few clips waits for more of them, but not longer than `PATIENCE`."""
        now = self.clock()
        is_rough = self.estimate.rates.is_rough and self._remaining[1] is None and now - self._began < PATIENCE
        self._remaining = now, None if is_rough else self.estimate.remaining()

    def _postpone(self, cell: _Running, event: Event) -> None:
        self.estimate.postpone(cell.number)
        if not cell.is_announced:
            self._keep_name(cell, "")
        self._keep_of(cell, event.note)
        del self._running[cell.number]

    def _tick(self) -> None:
        """Print a line where a stage was silent for long."""
        while not self._over.wait(1.0):
            self.tick()

    def tick(self) -> None:
        """Say how far the stage is if nothing was printed for `SILENCE` seconds."""
        with self._lock:
            self._look_at_time()
            self._say_estimate()
            for cell in self._running.values():
                if cell.stage and self.clock() - cell.printed >= SILENCE:
                    self._keep_stage(cell)

    def _keep_stage(self, cell: _Running) -> None:
        assert cell.stage is not None
        remaining = self._remaining[1]
        left = f", {about(remaining)} left in all" if remaining else ""
        room = self._room - len(left) - len(self._mark(cell))
        self._keep_of(cell, f"{shorten(cell.stage.text(), room)}{left}")

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

    def _count(self, cell: _Running) -> str:
        """Which cell it is, such as "[3/12] "."""
        return f"[{cell.number + 1}/{len(self.names)}] "

    def _mark(self, cell: _Running) -> str:
        """What the lines of a cell begin with: where several run at a time, which it is."""
        return self._count(cell) if self.estimate.jobs > 1 else "  "

    def _keep_name(self, cell: _Running, rest: str) -> None:
        """Print a line with the number and name of a cell."""
        number = self._count(cell)
        rest = shorten(rest, self._room - len(number) - 8)
        name = shorten_name(self.names[cell.number], self._room - len(number) - len(rest))
        self._keep(f"{number}{name}{rest}", cell)

    def _keep_of(self, cell: _Running, text: str) -> None:
        """Print a line of a cell."""
        self._keep(f"{self._mark(cell)}{text}", cell)

    def _keep(self, text: str, of: _Running | None = None) -> None:
        """Print a line that stays, of a cell or of the run."""
        self._printed = self.clock()
        for cell in self._running.values() if of is None else (of,):
            cell.printed = self._printed
        line = f"{clock(self._printed - self._began):>7}  {text}"
        if self.live:
            self.console.print(line, markup=False, highlight=False, overflow="crop", no_wrap=True)
        else:
            print(line, file=self._file, flush=True)

    def _render(self) -> Text:
        """The live lines. Called by rich's thread too: it takes no lock, so it reads what the events left."""
        width = self.console.width
        now = self.clock()
        elapsed = now - self._began
        when, remaining = self._remaining
        if remaining is not None:
            remaining = max(0.0, remaining - (now - when))
        lines = [run_line(self.done, len(self.names), elapsed, remaining, width)]
        lines += [cell.line(self.names[cell.number], width) for cell in list(self._running.values())]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")
