"""What is odd about a video file, and whether a reader takes the frames of it that FFmpeg presents."""

from __future__ import annotations

import numpy as np

from fsar_bench.data.decode import ReadPlan, Remark
from fsar_bench.data.readers import misplaced
from fsar_bench.data.sampling import midpoints
from fsar_bench.data.video import Video


def inspect(path: str, plan: ReadPlan, frames: np.ndarray, count: int) -> tuple[Remark, ...]:
    """Decode a video from its beginning to its end, and compare what a reader took of it.

    Args:
        path: of the file.
        plan: how it was read.
        frames: at segment midpoints, uint8 `[T, crop, crop, 3]`, as the reader took them.
        count: number of frames, as the reader told it.

    Raises:
        ValueError: FFmpeg presents another number of frames, or others; it says why that can be.
    """
    with Video(path) as clip:
        remarks = list(_remarks(clip))
        clip.decode_all()
        remarks += _found(clip)
        why = f" ({'; '.join(remark.text for remark in remarks)})" if remarks else ""
        if count != clip.count:
            raise ValueError(f"it counts {count} frames, FFmpeg presents {clip.count}{why}")
        number = misplaced(frames, midpoints(clip.count, plan.frames), clip, plan.resize, plan.crop)
        if number is not None:
            raise ValueError(f"it takes another frame for frame {number} that FFmpeg presents{why}")
    return tuple(remarks)


def _remarks(clip: Video) -> list[Remark]:
    """What the container and its packets tell."""
    remarks = []
    if clip.streams > 1:
        remarks.append(Remark("streams", f"it has {clip.streams} video streams, of which FFmpeg takes one"))
    if clip.doubt:
        remarks.append(Remark("packets", f"other readers than pyav may take other frames: {clip.doubt}"))
    if turn := clip.turn():
        remarks.append(Remark("turned", f"its frames are turned {turn}"))
    return remarks


def _found(clip: Video) -> list[Remark]:
    """What decoding all of it tells."""
    remarks = []
    if clip.told and clip.told != clip.count:
        remarks.append(Remark("count", f"its container tells of {clip.told} frames, FFmpeg presents {clip.count}"))
    if clip.errors:
        remarks.append(Remark("damaged", f"{clip.errors} of its packets are damaged"))
    return remarks
