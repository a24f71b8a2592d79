"""Which frames of a clip are read. Frame indices count from 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fsar_bench.randomness import generator

Draw = Callable[[int, int, int, np.random.Generator], np.ndarray]  # (length, frames, stride, draw) -> indices


def midpoints(length: int, frames: int) -> np.ndarray:
    """Middle frame of each of `frames` equal segments: floor((i + 1/2) length / frames), int64 `[frames]`."""
    indices: np.ndarray = ((2 * np.arange(frames) + 1) * length) // (2 * frames)
    return indices


def random_frames(
    length: int, frames: int, seed: tuple[int, ...], *, sampling: str = "segments", stride: int = 1
) -> np.ndarray:
    """Frames of a training clip, int64 `[frames]`.

    Args:
        length: number of frames of the clip.
        frames: T, how many are drawn.
        seed: (seed, indices...) of the generator that draws them.
        sampling: how they are drawn, a key of `SAMPLING`.
        stride: frames between two drawn ones, for those of `SAMPLING` that have one.
    """
    return SAMPLING[sampling](length, frames, stride, generator(seed[0], "frames", *seed[1:]))


def _segments(length: int, frames: int, stride: int, draw: np.random.Generator) -> np.ndarray:
    """One random frame of each of `frames` equal segments: floor((i + u) length / frames), u uniform in [0, 1)."""
    u = draw.random(frames)
    return np.minimum(((np.arange(frames) + u) * length / frames).astype(np.int64), length - 1)


def _whole_segments(length: int, frames: int, stride: int, draw: np.random.Generator) -> np.ndarray:
    """One random frame of each segment of floor(length / frames) frames; what is left at the end is never read.

    Clips shorter than `frames` repeat frames, as `_segments` does; the official code fails on them.
    """
    if length < frames:
        return _segments(length, frames, stride, draw)
    size = length // frames
    return np.arange(frames) * size + draw.integers(0, size, frames)


def _stride(length: int, frames: int, stride: int, draw: np.random.Generator) -> np.ndarray:
    """Equidistant frames from a random start, as the Alibaba code bases read Kinetics (`DATA.SAMPLING_RATE` up to 40).

    A window of `frames * stride` frames begins anywhere; of a shorter clip it is as long as whole segments allow. The last
    frame is `stride` before its end. In the official code `stride` also scales with the frame rate, which changes
    nothing for clips that are shorter than the window, as those of Kinetics are.
    """
    span = frames * stride if frames * stride <= length else length // frames * frames
    start = draw.uniform(0, max(length - span + 1, 0))
    indices = np.linspace(start, max(start + span - stride, start), frames)
    return np.clip(indices, 0, length - 1).astype(np.int64)


def _jittered_ends(length: int, frames: int, stride: int, draw: np.random.Generator) -> np.ndarray:
    """Equidistant frames between two ends that move by up to five frames, as the TRX authors' code reads training clips."""
    pad = min(5, (length - frames) // 2)
    start, end = 0, length - 1
    if pad >= 1:
        start, end = int(draw.integers(0, pad + 1)), int(draw.integers(length - 1 - pad, length))
        if end - start < frames:
            start, end = 0, length - 1
    return np.linspace(start, end, frames).astype(np.int64)


def _ends(length: int, frames: int, stride: int, draw: np.random.Generator) -> np.ndarray:
    """Equidistant frames from the first to the last: nothing is drawn."""
    return np.linspace(0, length - 1, frames).astype(np.int64)


SAMPLING: dict[str, Draw] = {
    "segments": _segments,
    "whole_segments": _whole_segments,
    "stride": _stride,
    "jittered_ends": _jittered_ends,
    "ends": _ends,
}
