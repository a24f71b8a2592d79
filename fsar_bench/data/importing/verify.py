"""Decoding every clip of a dataset once, before a long run meets the bad ones: named, listed, and left out only when accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsar_bench.data.dataset import Clip, Dataset
from fsar_bench.data.decode import DecodePool, ReadPlan, Request
from fsar_bench.errors import DataError
from fsar_bench.io import to_json, write_atomically

FRAMES = 16  # at segment midpoints: from the first to almost the last
SIDE = 32  # pixels of the decoded frames; what they show does not matter here
AHEAD = 64  # clips handed to the decode processes at a time


@dataclass(frozen=True)
class Verdict:
    """What decoding a clip gave: an empty reason is good."""

    split: str
    clip: Clip
    reason: str


def all_clips(dataset: Dataset) -> list[tuple[str, Clip]]:
    """Every clip that is on this disk, with its split."""
    splits = (dataset.split(name) for name in dataset.names)
    return [(split.name, clip) for split in splits for clip in split.clips if clip.id not in split.missing]


def verify(
    clips: list[tuple[str, Clip]],
    *,
    reader: str,
    workers: int,
    seconds: float,
    log: Path,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """Decode clips, in parallel and watched; what an earlier, interrupted verification found is taken up.

    Args:
        reader: name of the reader.
        workers: decode processes.
        seconds: what one clip may take.
        log: one line a clip, appended as they are decoded: the state that a resume goes on from.
        progress: called with (clips done, clips in all).
    """
    known = _known(log, reader)
    out: list[Verdict] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    pool = DecodePool(ReadPlan(reader, SIDE, SIDE, FRAMES), workers=workers, seconds=seconds)
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write("\n")  # ends the half line of a run that was killed
            for split, clip, content, pending in _submit(clips, known, pool):
                reason = known.get((split, clip.class_name, clip.id, content)) if pending is None else _reason(pending)
                if pending is not None:
                    line = [reader, split, clip.class_name, clip.id, content, reason]
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                out.append(Verdict(split, clip, reason))
                if progress:
                    progress(len(out), len(clips))
    finally:
        pool.close()
    return out


def _submit(clips, known, pool) -> Iterator[tuple[str, Clip, str, Future | None]]:
    """Clips with their content and, unless it is known what they give, the future of their decoding; some are read ahead."""
    waiting = []
    for split, clip in clips:
        try:
            content = clip.content
            is_known = (split, clip.class_name, clip.id, content) in known
            future = None if is_known else pool.submit(Request(clip))
        except DataError as error:  # empty, unreadable, or not what the annotation describes
            content, future = "", Future()
            future.set_exception(error)
        waiting.append((split, clip, content, future))
        if len(waiting) > AHEAD:
            yield waiting.pop(0)
    yield from waiting


def _reason(pending: Future) -> str:
    try:
        frames, _ = pending.result()
    except DataError as error:
        return str(error)
    return "" if frames.shape[0] == FRAMES and np.isfinite(frames).all() else f"it gave {frames.shape[0]} frames"


def _known(log: Path, reader: str) -> dict[tuple[str, str, str, str], str]:
    if not log.is_file():
        return {}
    out = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            by, split, name, clip, content, reason = json.loads(line)
        except ValueError:
            continue  # empty, or half a line of a run that was killed: decode again
        if by == reader and not reason:
            out[split, name, clip, content] = reason
    return out


def write_quarantine(path: Path, bad: list[Verdict], *, accept: bool) -> None:
    """List bad clips beside the annotation; `accept` lets runs leave them out as missing."""
    clips = [{"split": v.split, "class": v.clip.class_name, "id": v.clip.id, "reason": v.reason} for v in bad]
    write_atomically(path, to_json({"accepted": accept, "clips": clips}))


def sample(clips: list[tuple[str, Clip]], count: int) -> list[Clip]:
    """Up to `count` clips, spread evenly over all."""
    places = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int))
    return [clips[i][1] for i in places]


def parity(
    clips: list[Clip], readers: tuple[str, str], *, workers: int, seconds: float
) -> list[tuple[Clip, float, float]]:
    """Mean and largest difference (0 to 255) of what two readers give of each clip, at `FRAMES` segment midpoints.

    Raises:
        DataError: a clip that one of the readers cannot decode.
    """
    frames = []
    for reader in readers:
        pool = DecodePool(ReadPlan(reader, 64, 64, FRAMES), workers=workers, seconds=seconds)
        try:
            frames.append([future.result()[0].astype(np.int16) for future in pool.map(Request(clip) for clip in clips)])
        finally:
            pool.close()
    differences = [np.abs(a - b) for a, b in zip(*frames, strict=True)]
    return [(clip, float(d.mean()), float(d.max())) for clip, d in zip(clips, differences, strict=True)]


def seconds_of(clip: Clip) -> float | None:
    """Duration of a video as its container tells it; None for a folder of images or where it does not tell."""
    import av

    if clip.path.is_dir():
        return None
    try:
        with av.open(str(clip.path)) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, OSError):
        return None
