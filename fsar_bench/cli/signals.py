"""Signals other than Ctrl-C: SIGTERM and SIGHUP end a command in order, Ctrl-Z stops its children too."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")  # Windows has the first alone
GRACE = 20.0  # seconds in which a command that is told to end may end its children and restore the terminal
SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def answering_signals() -> Iterator[None]:
    """Answer signals while the body runs; those that are ignored, as below nohup, stay ignored.

    SIGTERM and SIGHUP raise in the body, so that children end, files are closed and the terminal shows its cursor again.

    Raises:
        SystemExit: the body was ended by a signal n; the exit code is 128 + n, as in a shell.
    """
    ended_by: list[signal.Signals] = []
    before = {}

    def end(number: int, _frame: FrameType | None) -> None:
        if not ended_by:  # some send it more than once
            ended_by.append(signal.Signals(number))
            backstop.start()
            raise SystemExit(128 + number)

    def give_up() -> None:
        with contextlib.suppress(Exception):
            print(SHOW_CURSOR if sys.stdout.isatty() else "", end="", flush=True)
        os._exit(128 + ended_by[0])

    def suspend(_number: int, _frame: FrameType | None) -> None:
        from fsar_bench import processes  # `--help` needs none

        processes.suspend()

    backstop = threading.Timer(GRACE, give_up)
    backstop.daemon = True
    with contextlib.suppress(ValueError):  # only the main thread has signals
        for name, answer in (*((name, end) for name in ENDING), ("SIGTSTP", suspend)):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, answer)
    try:
        yield
    except BaseException:
        if not ended_by:
            raise
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            print(f"\nEnded by {ended_by[0].name}. Run the same command again to resume.", file=sys.stderr, flush=True)
        raise SystemExit(128 + ended_by[0]) from None
    finally:
        backstop.cancel()  # what called the command, such as a notebook, lives on
        for number, handler in before.items():
            signal.signal(number, handler)
