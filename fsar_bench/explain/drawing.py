"""Pictures of an explained episode: PNG by matplotlib, and one page that holds them all."""

from __future__ import annotations

import base64
import html
import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.transforms import Bbox

from fsar_bench.explain.episode import Explained, Matched
from fsar_bench.io import replacing_all
from fsar_bench.results.store import Stored

RIGHT, WRONG, PLAIN = "#1a7f37", "#c4320a", "#4b5563"
STRIP, SCORES = 1.0, 2.2  # inches of a strip of frames and of the panel of scores


def write_pictures(stored: Stored, explained: Explained, queries: list[int], out: Path) -> tuple[Path, dict[int, Path]]:
    """Write a picture per query and a page of them all.

    Args:
        stored: the result.
        explained: one of its episodes.
        queries: numbers of the queries to draw.
        out: folder.

    Returns:
        Path of the page, and paths of the pictures by query.
    """
    result = stored.result
    p, label = result.protocol, result.cell.label
    title = f"{label.row} on {label.dataset}, {p.way}-way {p.shot}-shot"
    name = f"{stored.folder.name}-episode{explained.episode}"
    pictures = {j: draw_query(explained, j, title) for j in queries}
    paths = {j: out / f"{name}-query{j}.png" for j in queries}
    page_path = out / f"{name}.html"
    with replacing_all(hint="--out") as batch:
        for j, picture in pictures.items():
            batch.write(paths[j], picture)
        batch.write(page_path, page(explained, title, pictures).encode())
    return page_path, paths


def draw_query(explained: Explained, j: int, title: str) -> bytes:
    """PNG of one query: its frames, the supports of each class with the alignment, and all scores."""
    N, K, T = explained.support.shape[:3]
    matched = explained.matched[j]
    columns = len(matched)
    figure = Figure(figsize=(1.9 + T * STRIP + columns * 1.9, (N * K + 1) * STRIP * 1.12 + SCORES + 1.0), dpi=80)
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(
        N * K + 2,
        1,
        height_ratios=[1.0] * (N * K + 1) + [SCORES],
        hspace=0.28,
        left=0.02,
        right=0.98,
        top=0.93,
        bottom=0.05,
    )
    label, taken = int(explained.labels[j]), int(explained.prediction[j])
    verdict = "right" if label == taken else f"wrong: predicted as “{explained.names[taken]}”"
    line = f"{title}\nepisode {explained.episode}, query {j}: “{explained.names[label]}”, {verdict}"
    figure.suptitle(_plain(line), fontsize=12, x=0.02, ha="left")
    widths = [1.7, T * STRIP, *[1.7] * columns]
    for axes in _strip(figure, rows[0], widths, "query", explained.query[j], PLAIN):
        axes.axis("off")
    for n in range(N):
        color = RIGHT if n == label else WRONG if n == taken else PLAIN
        for k in range(K):
            mark = ("✓ " if n == label else "") + ("→ " if n == taken else "")
            name = f"{mark}{explained.names[n]}" + (f"\nsupport {k + 1}" if K > 1 else "")
            cells = _strip(figure, rows[1 + n * K + k], widths, name, explained.support[n, k], color)
            for cell, match in zip(cells, matched, strict=True):
                _alignment(cell, match, n, k, heading=n == 0 and k == 0)
    _scores(figure, rows[N * K + 1], explained, j)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _strip(
    figure: Figure, row: SubplotSpec, widths: list[float], name: str, frames: np.ndarray, color: str
) -> list[Axes]:
    """A name and the frames of one clip; returns the axes to their right."""
    cells = row.subgridspec(1, len(widths), width_ratios=widths, wspace=0.06)
    caption = figure.add_subplot(cells[0])
    caption.axis("off")
    caption.text(
        0.0,
        0.5,
        _wrapped(name),
        va="center",
        ha="left",
        fontsize=9,
        color=color,
        weight="bold" if color != PLAIN else "normal",
    )
    picture = figure.add_subplot(cells[1])
    picture.imshow(np.concatenate(list(frames), axis=1), interpolation="nearest", aspect="auto")
    picture.set_xticks([])
    picture.set_yticks([])
    for side in picture.spines.values():
        side.set_color(color)
        side.set_linewidth(2.0 if color != PLAIN else 0.8)
    width = frames.shape[2]
    for t in range(1, len(frames)):
        picture.axvline(t * width - 0.5, color="white", linewidth=1)
    return [figure.add_subplot(cell) for cell in [cells[i] for i in range(2, len(widths))]]


def _alignment(axes: Axes, match: Matched, n: int, k: int, *, heading: bool) -> None:
    """Frame distances (bright is near), and on them what was set against what."""
    K = match.distance.shape[1]
    if k >= K:
        axes.axis("off")
        axes.text(0.5, 0.5, "shots merged\nbefore matching", ha="center", va="center", fontsize=7, color=PLAIN)
        return
    distance, weight = match.distance[n, k], match.weight[n, k]
    low, high = float(match.distance.min()), float(match.distance.max())
    axes.imshow(distance, cmap="viridis_r", vmin=low, vmax=high if high > low else low + 1)
    rows, columns = np.indices(weight.shape)
    most = float(match.weight.max()) or 1.0
    axes.scatter(
        columns.ravel(), rows.ravel(), s=42 * weight.ravel() / most, c="#ff4d4d", edgecolors="white", linewidths=0.4
    )
    axes.set_xticks([])
    axes.set_yticks([])
    if n == 0 and k == 0:
        axes.set_ylabel("query", fontsize=7)
        axes.set_xlabel("support", fontsize=7, labelpad=1)
    if heading:
        axes.set_title(_plain(match.matcher), fontsize=8)


def _scores(figure: Figure, row: SubplotSpec, explained: Explained, j: int) -> None:
    """One panel of bars for the total and for each of its parts."""
    cells = row.subgridspec(1, len(explained.scores), wspace=0.12)
    label, taken, N = int(explained.labels[j]), int(explained.prediction[j]), len(explained.names)
    for place, (name, scores) in enumerate(explained.scores.items()):
        axes = figure.add_subplot(cells[place])
        values = scores[j]
        colors = [RIGHT if n == label else WRONG if n == taken else "#9aa3af" for n in range(N)]
        base = float(values.min()) - 0.08 * float(np.ptp(values) or 1.0)
        axes.barh(range(N), values - base, left=base, color=colors)
        axes.invert_yaxis()
        axes.set_yticks(range(N), [_wrapped(n, 22) for n in explained.names] if place == 0 else [""] * N, fontsize=7)
        axes.set_title(f"{_plain(name)} score" + (" (decides)" if name == "total" else ""), fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        if place == 0:
            box = axes.get_position()
            axes.set_position(Bbox.from_extents(box.x0 + 0.11, box.y0, box.x1, box.y1))  # room for the labels


def _wrapped(text: str, width: int = 20) -> str:
    return _plain("\n".join("\n".join(textwrap.wrap(line, width)) for line in text.split("\n")))


def _plain(text: str) -> str:
    """Text without formulas."""
    return text.replace("$", r"\$")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; background: #fff; color: #1c2024; }
@media (prefers-color-scheme: dark) { body { background: #15181c; color: #e8eaed; } img { background: #fff; } }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; margin: .5rem 0 2rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8886; } th:first-child, td:first-child {
text-align: left; }
.true td:first-child::after { content: " ✓"; color: #1a7f37; } .taken { font-weight: 700; } .scroll { overflow-x: auto; }
"""


def page(explained: Explained, title: str, pictures: dict[int, bytes]) -> str:
    """A page of the pictures (by query) with the scores as tables; no network is needed."""
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}, episode {explained.episode}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p>Episode {explained.episode}. ✓ the true class, bold the predicted class. "
        f"Bright: similar frames.</p>",
    ]
    for note in sorted({f"{m.matcher}: dots show the {m.what}." for query in explained.matched for m in query}):
        out.append(f"<p>{html.escape(note)}</p>")
    for j, picture in pictures.items():
        label, taken = int(explained.labels[j]), int(explained.prediction[j])
        outcome = "right" if label == taken else f"predicted as {explained.names[taken]}"
        verdict = f"query {j}: {explained.names[label]}, {outcome}"
        source = base64.b64encode(picture).decode()
        out.append(
            f'<h2>{html.escape(verdict)}</h2><img alt="{html.escape(verdict)}" src="data:image/png;base64,{source}">'
        )
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in explained.scores)
        out.append(f'<div class="scroll"><table><thead><tr><th>class</th>{heads}</tr></thead><tbody>')
        for n, name in enumerate(explained.names):
            marks = " ".join(["true"] * (n == label) + ["taken"] * (n == taken))
            cells = "".join(f"<td>{scores[j, n]:.4f}</td>" for scores in explained.scores.values())
            out.append(f'<tr class="{marks}"><td>{html.escape(name)}</td>{cells}</tr>')
        out.append("</tbody></table></div>")
    return "\n".join([*out, "</body></html>", ""])
