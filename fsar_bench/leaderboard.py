"""Leaderboards: a pure function of result files. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from fsar_bench.results import Result

TEXT_COLUMNS = ("method", "backbone", "class names")
_HEAD = "<!-- Made by `fsar-bench leaderboard` from the files in results/. Edits are lost. -->"


@dataclass(frozen=True)
class Board:
    """Rows of one dataset, protocol and plan: the only ones that may be ranked together."""

    rows: tuple[tuple[Result, dict], ...]

    @property
    def first(self) -> Result:
        return self.rows[0][0]

    @property
    def title(self) -> str:
        p, d = self.first.protocol, self.first.dataset
        synthetic = " (synthetic)" if d.synthetic else ""
        return f"{d.title}{synthetic}, {p.way}-way {p.shot}-shot"

    @property
    def note(self) -> str:
        p, d = self.first.protocol, self.first.dataset
        return (
            f"{p.episodes} episodes, {p.query} query a class, {d.classes} {p.split} classes, {d.clips} clips, {p.frames} frames; "
            f"plan {p.plan[:12]}, seed {p.seed}, class texts {p.template!r}, reader {p.reader}."
            + (" Supports share no source recording with queries of their class." if p.group_disjoint else "")
            + (
                f" Coverage {100 * d.coverage:.2f} %: missing clips are replaced within their episodes."
                if d.coverage < 1
                else ""
            )
        )

    def _ranked(self) -> list[tuple[Result, dict]]:
        return sorted(self.rows, key=lambda row: (-row[0].metrics.accuracy, row[0].method.title, row[0].config_hash))

    def hashes(self) -> list[str | None]:
        """Config hash of each row of `frame`; None for chance."""
        return [result.config_hash for result, _ in self._ranked()] + [None]

    def frame(self) -> pd.DataFrame:
        """The table as text, best first; control rows are marked, chance comes last."""
        records, rank, previous = [], 0, None
        for place, (result, cost) in enumerate(self._ranked(), 1):
            metrics, seconds = result.metrics, cost.get("seconds", {})
            rank = rank if metrics.accuracy == previous else place
            previous = metrics.accuracy
            control = " (control)" if result.method.name in result.dataset.controls else ""
            half = "" if metrics.interval95 is None else f" ± {metrics.interval95:.2f}"
            pair = "–" if metrics.pair_accuracy is None else f"{metrics.pair_accuracy:.1f}"
            records.append(
                {
                    "rank": str(rank),
                    "method": result.method.title + control,
                    "accuracy %": f"{metrics.accuracy:.2f}{half}",
                    "pair %": pair,
                    "backbone": result.backbone.name,
                    "class names": "yes" if result.traits.uses_class_names else "no",
                    "trained M": f"{result.parameters.trainable / 1e6:.2f}",
                    "total M": f"{result.parameters.total / 1e6:.2f}",
                    "train s": _seconds(seconds.get("train")),
                    "encode s": _seconds(seconds.get("encode")),
                    "score s": _seconds(seconds.get("score")),
                }
            )
        chance = dict.fromkeys(records[0], "")
        chance |= {"rank": "–", "method": "Chance (1 / way)", "accuracy %": f"{100 / self.first.protocol.way:.2f}"}
        return pd.DataFrame([*records, chance])


def _seconds(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, (int, float)) else "–"


def boards(stored: list[tuple[Result, dict]]) -> list[Board]:
    """Boards in a fixed order. Rows share one only if episodes, clips, frames, class texts and reader are identical."""

    def key(row: tuple[Result, dict]) -> tuple:
        result = row[0]
        p, d = result.protocol, result.dataset
        return d.name, p.way, p.shot, p.plan, p.realised, d.fingerprint, p.frames, p.sampling, p.class_names, p.reader

    return [Board(tuple(rows)) for _, rows in groupby(sorted(stored, key=key), key=key)]


def pages(stored: list[tuple[Result, dict]]) -> dict[str, str]:
    """Markdown by file name: one page a dataset, and an index."""
    out: dict[str, str] = {}
    index = [_HEAD, "# Leaderboards", ""]
    for name, group in groupby(boards(stored), key=lambda board: board.first.dataset.name):
        page = list(group)
        first = page[0].first.dataset
        synthetic = " (synthetic data)" if first.synthetic else ""
        text = [_HEAD, f"# {first.title}{synthetic}", ""]
        if first.synthetic:
            text += [
                "Measured on synthetic clips: for trying, testing and teaching. Not comparable with real datasets.",
                "",
            ]
        text += [
            "Accuracy: percent of queries, ± half-width of the 95 % interval over episodes. Pair: among queries whose "
            "time-reversed class is in the episode, percent that score the true class above it (blind to order: 50). "
            "Parameters in millions. Seconds on the machine named in each cost file.",
            "",
        ]
        for board in page:
            p = board.first.protocol
            best = board._ranked()[0][0]
            text += [f"## {p.way}-way {p.shot}-shot", "", board.note, "", _markdown(board.frame()), ""]
            index.append(
                f"- [{board.title}]({name}.md): {len(board.rows)} rows, best {best.method.title} {best.metrics.accuracy:.2f} %"
            )
        out[f"{name}.md"] = "\n".join(text)
    out["README.md"] = "\n".join([*index, ""])
    return out


def _markdown(frame: pd.DataFrame) -> str:
    align = ["left" if column in TEXT_COLUMNS else "right" for column in frame.columns]
    safe = frame.map(lambda text: text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " "))
    return safe.to_markdown(index=False, colalign=align, disable_numparse=True)
