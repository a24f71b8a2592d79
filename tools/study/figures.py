"""Figures of the page. Each holds a digest of what is drawn, so that a check needs no equal pixels."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

MARK = "Comment"  # of the PNG
ROUND = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]  # ticks where points are anywhere


@dataclass(frozen=True)
class Line:
    """Points that are connected.

    Attributes:
        title: in the legend.
        x: places.
        y: percent.
        widths: half-widths of intervals; None where they are not known.
        curve: further points, drawn as a thin line without marks.
    """

    title: str
    x: Sequence[float]
    y: Sequence[float]
    widths: Sequence[float | None] = ()
    curve: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Panel:
    """One set of axes with lines."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Curves:
    """Accuracy against something, in panels."""

    x: str
    y: str
    panels: Sequence[Panel]
    is_connected: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(panel.lines for panel in self.panels)

    def draw(self) -> bytes:
        """A PNG."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        count, titles = len(self.panels), self._titles
        figure, axes = plt.subplots(1, count, figsize=(4.2 * count + 2.8, 3.8), squeeze=False, layout="constrained")
        for axis, panel in zip(axes[0], self.panels, strict=True):
            for line in panel.lines:
                self._draw_line(axis, line, titles.index(line.title))
            axis.set_xscale("log")
            places = sorted({x for line in panel.lines for x in line.x})
            ticks = places if self.is_connected else [tick for tick in ROUND if places[0] < tick < places[-1]]
            axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axis.xaxis.minorticks_off()
            axis.set(title=panel.title, xlabel=self.x, ylabel=self.y)
        handles = {h.get_label(): h for axis in axes[0] for h in axis.get_legend_handles_labels()[0]}
        figure.legend([handles[title] for title in titles], titles, fontsize=6, frameon=False, loc="outside right")
        return _png(figure, self)

    @property
    def _titles(self) -> list[str]:
        """Of all lines: a title has one colour in all panels."""
        return list(dict.fromkeys(line.title for panel in self.panels for line in panel.lines))

    def _draw_line(self, axis: Any, line: Line, place: int) -> None:
        colour, mark = f"C{place % 10}", "os^D"[place // 10 % 4]
        axis.errorbar(
            line.x, line.y, [width or 0.0 for width in line.widths] or None, label=line.title, color=colour, marker=mark,
            markersize=3, capsize=2, linestyle="-" if self.is_connected else "none",
        )  # fmt: skip
        if line.curve:
            axis.plot(*zip(*line.curve, strict=True), color=colour, linewidth=0.8, alpha=0.5)


@dataclass(frozen=True)
class Forest:
    """Differences with their intervals, one below the other.

    Attributes:
        x: what the differences are.
        values: (points, half-width or None) by what they are of, by the series.
    """

    x: str
    values: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(self.values.values())

    def draw(self) -> bytes:
        """A PNG."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        names = list(dict.fromkeys(name for series in self.values.values() for name in series))
        figure, axis = plt.subplots(figsize=(7, 1.4 + 0.3 * len(names)), layout="constrained")
        step = 0.7 / max(len(self.values), 1)
        for number, (title, series) in enumerate(self.values.items()):
            y = [names.index(name) + (number - (len(self.values) - 1) / 2) * step for name in series]
            points, widths = zip(*series.values(), strict=True) if series else ((), ())
            axis.errorbar(
                points, y, xerr=[width or 0.0 for width in widths], linestyle="none", marker="o", markersize=3, capsize=2,
                label=title,
            )  # fmt: skip
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(names)), labels=names, fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel(self.x)
        figure.legend(fontsize=7, frameon=False, loc="outside upper right", ncols=len(self.values))
        return _png(figure, self)


Figure = Curves | Forest


def digest_of(figure: Figure) -> str:
    """SHA-256 of what is drawn, to the digits that the page shows."""
    return hashlib.sha256(json.dumps(_plain(figure), sort_keys=True).encode()).hexdigest()


def drawn_digest(path: Path) -> str | None:
    """Digest that a stored figure holds; None where there is no such file, or none of ours."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return image.info.get(MARK)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, Mapping):
        return [[key, _plain(each)] for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    fields = getattr(value, "__dataclass_fields__", None)
    return value if fields is None else {name: _plain(getattr(value, name)) for name in fields}


def _png(figure: Any, data: Figure) -> bytes:
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png", metadata={"Software": None, MARK: digest_of(data)})
    plt.close(figure)
    return out.getvalue()
