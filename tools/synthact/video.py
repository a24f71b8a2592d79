"""Encoding and decoding of SynthAct clips (H.264 through PyAV), repeatable to the byte on one version of PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

# One thread and no macroblock tree: the two things that make x264's output vary between runs.
_X264 = "mbtree=0:threads=1:lookahead-threads=1:sliced-threads=0"


def encode(frames: np.ndarray, path: Path, *, fps: int, crf: int = 29) -> None:
    """Write uint8 RGB frames `[T, H, W, 3]` as H.264 in MP4, index first."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow", "g": "12", "x264-params": _X264}
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def decode(path: Path) -> np.ndarray:
    """Read all frames of a clip as uint8 RGB `[T, H, W, 3]`."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
