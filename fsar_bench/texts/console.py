"""The consoles of rich that we print with: none passes on a control character of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fsar_bench.texts.characters import plain


class PlainConsole(Console):
    """A console whose texts are plain; the codes of colours and live lines are rich's own, and pass.

    A string is no markup unless a call or the console says `markup=True`, and `:100:` is no picture: most strings quote a path
    or a name.

    Args:
        options: as rich takes them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, "markup": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, as rich does, with plain texts."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else plain(segment.text)
            yield segment if text is segment.text else Segment(text, segment.style)
