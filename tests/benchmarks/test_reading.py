"""Reading 8 frames of clips of three formats beside plain decord and plain PyAV, and the memory that 20 s of 720p need.

`python -m pytest tests/benchmarks/test_reading.py --benchmark-only -n 0`; `extra_info` has what it adds to a process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from videos import X264, ffmpeg, needs_ffmpeg

from fsar_bench.data.dataset import Clip
from fsar_bench.data.decode import DecodePool, ReadPlan, Request
from fsar_bench.data.sampling import midpoints

SCENE = "testsrc2=size={size}:rate={rate}:duration={seconds},noise=alls=12:allf=t,format=yuv420p"
FORMATS = {
    "H.264, mp4": ("h264.mp4", X264[:2], "340x256", 30, 10),
    "H.264, mp4, a key frame every 12": ("h264_12.mp4", (*X264[:2], "-g", "12"), "340x256", 30, 10),
    "VP9, WebM": ("vp9.webm", ("-c:v", "libvpx-vp9", "-b:v", "600k", "-cpu-used", "4"), "427x240", 12, 4),
    "XviD, AVI": ("xvid.avi", ("-c:v", "libxvid", "-q:v", "4", "-vtag", "XVID"), "320x240", 25, 7),
}


def clip_of(folder: Path, name: str, codec: tuple[str, ...], size: str, rate: int, seconds: int) -> Path:
    path = folder / name
    if not path.exists():
        scene = SCENE.format(size=size, rate=rate, seconds=seconds)
        ffmpeg("-f", "lavfi", "-i", scene, *codec, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("formats")


def plain_decord(path: Path) -> np.ndarray:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    frames: np.ndarray = video.get_batch(midpoints(len(video), 8).tolist()).asnumpy()
    return frames


def plain_pyav(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
    return np.stack([frames[i].to_ndarray(format="rgb24") for i in midpoints(len(frames), 8)])


def the_reader(path: Path) -> np.ndarray:
    from fsar_bench.data.video import Video

    with Video(str(path)) as video:
        return np.stack(list(video.frames(midpoints(video.count, 8).tolist())))


@needs_ffmpeg
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("how", [the_reader, plain_decord, plain_pyav], ids=lambda how: how.__name__)
def test_reading(benchmark, folder, kind, how):
    benchmark.group = f"8 frames of one clip, {kind}"
    path = clip_of(folder, *FORMATS[kind])
    assert benchmark.pedantic(how, (path,), rounds=5, warmup_rounds=1).shape[0] == 8


@needs_ffmpeg
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_two_workers(benchmark, folder, kind, reader):
    benchmark.group = f"24 clips, 2 decode processes, {kind}"
    path = clip_of(folder, *FORMATS[kind])
    pool = DecodePool(ReadPlan(reader, 224, 224, 8), workers=2, seconds=60)

    def read() -> int:
        return len([future.result() for future in pool.map(Request(Clip(str(i), "c", path)) for i in range(24))])

    try:
        read()  # the processes start
        assert benchmark.pedantic(read, rounds=2) == 24
    finally:
        pool.close()


MEMORY = {
    "pyav": "read_clip(R.VideoReader(), ReadPlan('pyav', 224, 224, 8), path, None)",
    "plain decord": "v = decord.VideoReader(path, num_threads=1); v.get_batch(midpoints(len(v), 8).tolist()).asnumpy()",
    "plain PyAV, all frames": "[f.to_ndarray(format='rgb24') for f in av.open(path).decode(video=0)]",
}
PEAK = """
import sys
from pathlib import Path
import av, decord
import fsar_bench.data.readers as R
from fsar_bench.data.decode import ReadPlan, read_clip
from fsar_bench.data.sampling import midpoints
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
path, before = sys.argv[1], peak()
CODE
print(peak() - before, before)
"""


@needs_ffmpeg
@pytest.mark.benchmark(group="20 s of 720p (extra_info: MB that it adds to the process, and those of the libraries)")
@pytest.mark.parametrize("how", MEMORY)
def test_memory(benchmark, folder, how):
    path = clip_of(folder, "720p.mp4", (*X264[:2], "-preset", "ultrafast"), "1280x720", 30, 20)
    code = PEAK.replace("CODE", MEMORY[how])

    def read() -> list[float]:
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        return [float(part) for part in done.stdout.split()[-2:]]

    benchmark.extra_info["added_mb"], benchmark.extra_info["libraries_mb"] = benchmark.pedantic(read, rounds=1)
    assert benchmark.extra_info["added_mb"] > 0
