"""Readers take the frames that FFmpeg presents: containers, codecs and oddities beside FFmpeg's own output."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from decord._ffi.base import DECORDError
from videos import kinds, make, needs_ffmpeg, presented

from fsar_bench.data.decode import ReadPlan, read_clip
from fsar_bench.data.readers import DecordReader, MMActionPyAVReader, VideoReader
from fsar_bench.data.sampling import midpoints

READERS = {"pyav": VideoReader, "decord": DecordReader, "mmaction2_pyav": MMActionPyAVReader}
TAKEN = {  # plain videos, which the readers of mmaction2 must not refuse
    "decord": {"h264.mp4", "h264.mkv", "h264_no_b.mp4", "vp8.webm", "vp9.webm"},
    "mmaction2_pyav": {"h264.mp4", "h264_no_b.mp4"},
}


def nearest(frames: np.ndarray, shown: np.ndarray) -> list[int]:
    """The presented frame that each frame is most like, of those that are equally like it the first."""
    small = [images[:, 2::4, 2::4].astype(np.int16) for images in (frames, shown)]
    return [int(np.abs(small[1] - frame).mean((1, 2, 3)).argmin()) for frame in small[0]]


@needs_ffmpeg
@pytest.mark.parametrize("name", kinds())
def test_frames_are_those_that_ffmpeg_presents_or_the_clip_is_refused(tmp_path, name):
    try:
        path = make(tmp_path / name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this FFmpeg cannot make it: {error.stderr.decode()[-200:]}")
    shown = presented(path)
    side = min(shown.shape[1:3])
    top, left = (shown.shape[1] - side) // 2, (shown.shape[2] - side) // 2
    cropped = shown[:, top : top + side, left : left + side]
    wanted = midpoints(len(shown), 8)
    for reader, of_class in READERS.items():
        try:
            frames = read_clip(of_class(), ReadPlan(reader, side, side, 8), str(path), None).frames
        except (ValueError, DECORDError) as error:
            if reader == "pyav" and (name, "cut off" in str(error)) != ("half.mp4", True):
                raise
            if name in TAKEN.get(reader, ()):
                raise
            continue
        assert nearest(frames, cropped) == nearest(cropped[wanted], cropped), reader
        assert np.abs(frames.astype(int) - cropped[wanted]).mean() < 4, reader
