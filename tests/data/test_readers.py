"""Readers take the frames that FFmpeg presents: containers, codecs and oddities beside FFmpeg's own output."""

from __future__ import annotations

import logging
import subprocess

import numpy as np
import pytest
from videos import kinds, make, needs_ffmpeg, presented

from fsar_bench.data.decode import ReadPlan, read_clip
from fsar_bench.data.readers import DecordReader, MMActionPyAVReader, VideoReader
from fsar_bench.data.sampling import midpoints

READERS = {"pyav": VideoReader, "decord": DecordReader, "mmaction2_pyav": MMActionPyAVReader}
TAKEN = {  # plain videos, which the readers of mmaction2 must not refuse
    "decord": {"h264.mp4", "h264.mkv", "h264_no_b.mp4", "vp8.webm", "vp9.webm"},
    "mmaction2_pyav": {"h264.mp4", "h264_no_b.mp4"},
}
UNSEEN = {("decord", "damaged.avi"), ("decord", "zeroed.avi")}  # what packets cannot tell, and `data verify` tells


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos by file name with what FFmpeg presents of them, each made once."""
    logging.disable(logging.WARNING)
    folder, known = tmp_path_factory.mktemp("videos"), {}

    def video(name: str):
        if name not in known:
            try:
                path = make(folder / name)
            except subprocess.CalledProcessError as error:
                known[name] = error.stderr.decode()[-200:]
            else:
                known[name] = path, presented(path)
        if isinstance(known[name], str):
            pytest.skip(f"this FFmpeg cannot make it: {known[name]}")
        return known[name]

    return video


def nearest(frames: np.ndarray, shown: np.ndarray) -> list[int]:
    """The presented frame that each frame is most like, of those that are equally like it the first."""
    small = [images[:, 2::4, 2::4].astype(np.int16) for images in (frames, shown)]
    return [int(np.abs(small[1] - frame).mean((1, 2, 3)).argmin()) for frame in small[0]]


@needs_ffmpeg
@pytest.mark.parametrize(("reader", "name"), [(r, n) for r in READERS for n in kinds() if (r, n) not in UNSEEN])
def test_frames_are_those_that_ffmpeg_presents_or_the_clip_is_refused(made, name, reader):
    path, shown = made(name)
    side = min(shown.shape[1:3])
    wanted = midpoints(len(shown), 8)
    try:
        frames = read_clip(READERS[reader](), ReadPlan(reader, side, side, 8), str(path), None).frames
    except Exception as error:
        if reader == "pyav" and (name, "cut off" in str(error)) != ("half.mp4", True):
            raise
        if name in TAKEN.get(reader, ()):
            raise
        return
    top, left = (shown.shape[1] - side) // 2, (shown.shape[2] - side) // 2
    cropped = shown[:, top : top + side, left : left + side]
    assert nearest(frames, cropped) == nearest(cropped[wanted], cropped)
    assert np.abs(frames.astype(int) - cropped[wanted]).mean() < 4
