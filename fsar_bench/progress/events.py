"""Progress: what a stage reports while it works, and who listens."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from fsar_bench.texts.characters import plain

# Stages by name. Others are "training", "encoding" and "scoring"; the latter two also after VALIDATION and CHOOSING.
STARTING = "starting"  # what is imported, built or opened comes after a colon
HASHING = "hashing clips"  # those whose content is not known yet; of the training, then of the test
WAITING = "waiting"  # for another run
VALIDATION = "validation: "
CHOOSING = "choosing on val"
CACHED = "cached"  # the note of an event whose units were found in a cache: they say nothing of the time of others
VALIDATED = "validated"  # the stage whose events say how good a validation was
WARNING = "warning"  # the stage of events whose note is a warning
POSTPONED = "postponed"  # the cell is looked at again after the others; the note says why


@dataclass(frozen=True)
class Event:
    """How far a stage is.

    Attributes:
        stage: its name, such as "training".
        done: units that are done.
        total: units in all.
        note: what else is worth saying, such as the loss.
    """

    stage: str
    done: int
    total: int
    note: str = ""


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that ignores events; only warnings are printed."""
    if event.stage == WARNING:
        print(f"warning: {plain(event.note)}", file=sys.stderr, flush=True)


_listener: ContextVar[Listener] = ContextVar("listener", default=silent)


def report(stage: str, done: int, total: int, note: str = "") -> None:
    """Tell the current listener how far a stage is."""
    _listener.get()(Event(stage, done, total, note))


_warned: set[str] = set()  # warnings of this process, and of the children that it listens to
_lock = threading.Lock()  # threads listen to one child each


def warn(text: str) -> None:
    """Warn the user, once per process and text: tell the current listener, or print where nobody listens."""
    if _is_new(text):
        report(WARNING, 0, 0, text)


def relay(event: Event, listener: Listener) -> None:
    """Pass on an event of a child process, except for a warning that was given before: each child warns for itself."""
    if event.stage != WARNING or _is_new(event.note):
        listener(event)


def _is_new(warning: str) -> bool:
    with _lock:
        is_new = warning not in _warned
        _warned.add(warning)
    return is_new


def counter(stage: str) -> Callable[..., None]:
    """A function of (done, total) and perhaps a note that reports a stage."""

    def count(done: int, total: int, note: str = "") -> None:
        report(stage, done, total, note)

    return count


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the reports of this context to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def watching(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function at each report of this context, before its listener is told."""
    listener = _listener.get()

    def tell(event: Event) -> None:
        callback()
        listener(event)

    with listening(tell):
        yield
