"""What reaches a terminal: everything that is printed while the command line works passes here.

Messages quote what strangers wrote: file names, clip ids, class names, texts of libraries. A terminal would obey the control
characters in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fsar_bench.texts.characters import plain


class PlainStream:
    """A text stream that shows control and format characters instead of passing them on.

    A carriage return that begins a write passes, as the progress bars of libraries begin: before it, the line is theirs.
    It hides the bytes below (`buffer`), which would be a way around it. Consoles of rich write to the stream itself: their
    own control codes must arrive, and what they print is cleaned by `console.PlainConsole`.

    Args:
        stream: such as standard output.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich looks for this name

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        if not isinstance(text, str):
            raise TypeError(f"a text is written here, not {type(text).__name__}")
        bar = "\r" if text.startswith("\r") else ""
        self.rich_proxied_file.write(bar + plain(text[len(bar) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError("a stream of texts shows no bytes")
        return getattr(self.rich_proxied_file, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Clean what this process prints; kept after an error that nobody foresaw, since Python prints it when all is over."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_cleaned, before)
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = before
        raise
    sys.stdout, sys.stderr = before


def _cleaned(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, PlainStream) else PlainStream(stream)
