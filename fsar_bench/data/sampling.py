"""Which frames of a clip are read. Frame indices count from 0."""

from __future__ import annotations

import numpy as np

from fsar_bench.randomness import generator


def midpoints(length: int, frames: int) -> np.ndarray:
    """Middle frame of each of `frames` equal segments: floor((i + 1/2) length / frames), int64 `[frames]`."""
    indices: np.ndarray = ((2 * np.arange(frames) + 1) * length) // (2 * frames)
    return indices


def random_frames(length: int, frames: int, seed: tuple[int, ...]) -> np.ndarray:
    """One random frame of each of `frames` equal segments: floor((i + u) length / frames), int64 `[frames]`.

    Args:
        length: number of frames of the clip.
        frames: number of segments.
        seed: (seed, indices...) of the generator that draws u, uniform in [0, 1) for each segment.
    """
    u = generator(seed[0], "frames", *seed[1:]).random(frames)
    return np.minimum(((np.arange(frames) + u) * length / frames).astype(np.int64), length - 1)
