"""The page: what was measured, as markdown and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.performance.growth import Curve
from tools.performance.heads import HEADS, Timed
from tools.performance.machine import Rates
from tools.performance.points import Point
from tools.performance.starting import Taken

TITLES = {name: title for name, (title, _) in HEADS.items()}
FIGURES: dict[str, Callable[[Point], float]] = {
    "growth of seconds": lambda point: point.total,
    "growth of memory": lambda point: point.memory / 1e6,
}


@dataclass
class Measured:
    """Everything on the page.

    Attributes:
        command: that made it.
        machine: what it is, by what it is called.
        rates: of the device.
        heads: scoring.
        curves: growths.
        commands: start-up and cells.
        spread: the main job with one and two jobs or ranks, by key.
        left_out: what was not run, and why.
    """

    command: str
    machine: dict[str, str]
    rates: Rates
    heads: list[Timed]
    curves: list[Curve]
    commands: list[Taken]
    spread: list[tuple[str, Taken, Taken]]
    left_out: list[str] = field(default_factory=list)


def write(measured: Measured, path: Path) -> None:
    """Write the page, and its figures into a folder of the same name next to it."""
    figures = path.with_suffix("")
    figures.mkdir(parents=True, exist_ok=True)
    for title, value in FIGURES.items():
        _draw(measured.curves, title, value, figures / f"{title.replace(' ', '_')}.png")
    path.write_text("\n".join(_lines(measured, figures.name)) + "\n", encoding="utf-8")


def _lines(m: Measured, figures: str) -> list[str]:
    return [
        "# Performance",
        "",
        f"Written by `{m.command}`, all in one run on one machine: compare figures within a table, not with other machines.",
        "",
        "## Machine",
        *_machine(m),
        "",
        "## Scoring, and its floor",
        "Milliseconds of one more episode: 5-way 1-shot, one query per class, 8 frames, width 512, from a bank of 2,400 clips. "
        "*ours*: as `run` scores a plan; *one by one*: the same with `score_batch=1`; *naive*: a loop over episodes in the plain "
        "form that training has. What is computed once a video (*index*) is not part of them.",
        "",
        *_scoring(m.heads),
        "",
        "The floor is what an episode costs at least: matrix products at the rate that this machine reaches at their sizes, then "
        "exponentials and logarithms at their rate, or the bytes of the features, read once, and of the scores, at the rate of "
        "copies, if these take longer. Operations and bytes follow from the definition of a head, not from our code: "
        "`tools/performance/floors.py` has the formulas.",
        "",
        *_floors(m.heads, m.rates),
        "",
        "## Growth",
        "A frozen method through the whole path (plan, scoring, files, tables) against the number of episodes, and heads on "
        "random features of width 128 against clips, ways, shots and frames. The exponent is the slope of the logarithms over "
        "the larger half of the sizes: 1 is linear. Memory is what is added to that of a process that has loaded its libraries.",
        "",
        *_growth(m.curves),
        "",
        *(f"![{title}]({figures}/{title.replace(' ', '_')}.png)" for title in FIGURES),
        "",
        *_stages(m.curves),
        "",
        "## Commands",
        *_table(("what", "seconds"), [(taken.title, f"{taken.seconds:.2f}") for taken in m.commands]),
        "",
        "## Several jobs, several ranks",
        "The main job (`methods=ma_clip,clip_fsar`, a third of its training) with `jobs=`, and MA-CLIP alone with `devices=`.",
        "",
        *_spread(m.spread),
        "",
        "## Not run",
        *(f"- {reason}" for reason in m.left_out),
    ]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, texts: int = 1) -> list[str]:
    """Lines of a table; the first `texts` columns are texts, the others numbers."""
    head = list(head)
    lines = [head, [":--"] * texts + ["--:"] * (len(head) - texts), *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _machine(m: Measured) -> list[str]:
    rates = m.rates
    rows = [*m.machine.items()]
    rows += [(f"product of {n} x {n}, float32", f"{rate / 1e9:.0f} GFLOP/s") for n, rate in rates.squares.items()]
    rows += [("copies, into memory that is there", f"{rates.copy / 1e9:.1f} GB/s")]
    rows += [("copies, into fresh memory", f"{rates.fresh / 1e9:.1f} GB/s")] if rates.device.type == "cpu" else []
    rows += [("exponentials", f"{rates.exponentials / 1e9:.2f} G/s")]
    return _table(("", ""), rows)


def _scoring(heads: list[Timed]) -> list[str]:
    rows = [
        (
            t.title, f"{t.batched:.3f}", f"{t.single:.3f}", f"{t.naive:.3f}", f"{t.naive / t.batched:.1f}",
            f"{t.index:.3f}", f"{t.difference:.0e}",
        )
        for t in heads
    ]  # fmt: skip
    head = ("head", "ours", "one by one", "naive", "naive : ours", "index, ms per clip", "largest difference to naive")
    return _table(head, rows)


def _floors(heads: list[Timed], rates: Rates) -> list[str]:
    rows = []
    for t in heads:
        floor = rates.seconds(t.work)
        products, functions, moved, least = (
            1000 * value for value in (floor.products, floor.functions, floor.bytes, floor.seconds)
        )
        rows.append(
            (
                t.title, f"{t.work.operations / 1e6:.2f}", f"{t.work.operations / floor.products / 1e9:.0f}",
                f"{t.work.bytes / 1e3:.0f}", f"{products:.4f}", f"{functions:.4f}", f"{moved:.4f}", f"{least:.4f}",
                f"{100 * products / t.batched:.0f} %", f"{100 * least / t.batched:.0f} %",
            )
        )  # fmt: skip
    head = (
        "head", "products, MFLOP", "at GFLOP/s", "kB", "products, ms", "functions, ms", "bytes, ms", "floor, ms",
        "share of products", "share of the floor",
    )  # fmt: skip
    return _table(head, rows)


def _growth(curves: list[Curve]) -> list[str]:
    rows = []
    for curve in curves:
        sizes = sorted(curve.points)
        ends = [curve.points[size] for size in (sizes[0], sizes[-1])]
        seconds, memory = (_exponent(curve.exponent(value)) for value in (lambda p: p.total, lambda p: p.memory))
        rows.append(
            (
                TITLES.get(curve.title, curve.title), curve.axis, f"{sizes[0]:,} to {sizes[-1]:,}",
                " to ".join(f"{point.total:.2f}" for point in ends), seconds,
                " to ".join(f"{point.memory / 1e6:,.0f}" for point in ends), memory,
            )
        )  # fmt: skip
    head = ("what", "against", "sizes", "seconds", "exponent", "MB", "exponent")
    return _table(head, rows, texts=2)


def _exponent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _stages(curves: list[Curve]) -> list[str]:
    """Seconds of the stages of the whole path, and the memory at their ends."""
    whole = [curve for curve in curves if curve.axis == "episodes"]
    if not whole:
        return []
    stages = list(next(iter(whole[0].points.values())).seconds)
    rows = [
        (curve.title, f"{size:,}", *(f"{point.seconds[s]:.2f} ({point.peaks[s] / 1e6:,.0f})" for s in stages))
        for curve in whole
        for size, point in sorted(curve.points.items())
    ]
    head = ("seconds of a stage (MB at its end)", "episodes", *stages)
    return _table(head, rows)


def _spread(spread: list[tuple[str, Taken, Taken]]) -> list[str]:
    rows = []
    for _, one, two in spread:
        if one.seconds is None or two.seconds is None:
            rows.append((one.title, two.title, f"not measured here: {one.reason}"))
        else:
            rows.append(
                (
                    f"{one.title}: {one.seconds:.1f} s",
                    f"{two.title}: {two.seconds:.1f} s",
                    f"{two.seconds / one.seconds:.2f}",
                )
            )
    return _table(("one", "two", "two : one"), rows, texts=2)


def _short(size: int) -> str:
    """A size in three characters or so: 2,400 is 2.4k."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{letter}"
    return str(size)


def _draw(curves: list[Curve], title: str, value: Callable[[Point], float], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    axes_of = list(dict.fromkeys(curve.axis for curve in curves))
    figure, axes = plt.subplots(1, len(axes_of), figsize=(3 * len(axes_of), 2.8), squeeze=False)
    for axis, name in zip(axes[0], axes_of, strict=True):
        for curve in (curve for curve in curves if curve.axis == name):
            sizes = sorted(curve.points)
            values = [max(1e-6, value(curve.points[size])) for size in sizes]
            axis.loglog(sizes, values, marker="o", markersize=3, label=TITLES.get(curve.title, curve.title))
        sizes = sorted({size for curve in curves if curve.axis == name for size in curve.points})
        axis.set_xticks(sizes, labels=[_short(size) for size in sizes], fontsize=7)
        axis.xaxis.minorticks_off()  # their labels would lie on those of the sizes
        axis.set_xlabel(name)
        axis.legend(fontsize=6, frameon=False)
    axes[0][0].set_ylabel("seconds" if "seconds" in title else "MB")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
