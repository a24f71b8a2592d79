"""Text streams whose writes never fail: a log on a full disk must not end what it tells of."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Tell = Callable[[OSError], None]  # is told of a write that failed


def at_once(path: str, flags: int) -> int:
    """Open a file to write, as the `opener` of `open`: a pipe that nobody reads is an error, and not waited for."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return descriptor


class _Forgiving(io.FileIO):
    """A file of which writes that fail are dropped; the first is told."""

    def __init__(self, file: Path | int | str, tell: Tell) -> None:
        self._tell: Tell | None = tell
        is_open = isinstance(file, int)
        if is_open:
            super().__init__(file, "w", closefd=False)
        else:
            super().__init__(file, "a", opener=at_once)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # nobody reads any more: that ends a command
            raise
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise
            self._say(error)
            return memoryview(data).nbytes

    def close(self) -> None:
        """Close the file; what the disk refuses only now is dropped too."""
        try:
            super().close()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(error)


def open_log(path: Path, tell: Tell) -> TextIO:
    """Open a log to append lines to; where it cannot be opened, what is written goes nowhere.

    Args:
        path: of the log; its folder is made.
        tell: is told, once, why the log is not whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Forgiving(path, tell)
    except OSError as error:
        tell(error)
        raw = _Forgiving(os.devnull, tell)
    return _text(raw, "utf-8", "backslashreplace")


def forgiving(stream: TextIO, tell: Tell) -> TextIO:
    """A stream for what another one writes to, such as standard output; the other one itself if it is a terminal, or no file.

    Args:
        stream: what is replaced.
        tell: is told, once, of a write that failed.
    """
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return stream
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        raw = _Forgiving(stream.fileno(), tell)
        return _text(raw, stream.encoding, stream.errors or "strict", line_buffering=stream.line_buffering)
    return stream


def _text(raw: io.FileIO, encoding: str, errors: str, *, line_buffering: bool = True) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=line_buffering)
