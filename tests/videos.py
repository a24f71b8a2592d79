"""Videos of many kinds, whose frames can be told apart, and what FFmpeg presents of them: the reference of the readers."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg (Debian: ffmpeg) is not on this machine")

COUNT = 48  # frames of a video, unless it is of those that have few
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12", "-crf", "10")
X265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-crf", "10", "-x265-params", "log-level=none:keyint=12")
VP9 = ("-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0", "-g", "12", "-deadline", "realtime", "-cpu-used", "8")
VP8 = ("-c:v", "libvpx", "-crf", "5", "-b:v", "2M", "-g", "12", "-deadline", "realtime", "-cpu-used", "8")
VP9_ALT = (
    "-c:v",
    "libvpx-vp9",
    "-crf",
    "10",
    "-b:v",
    "0",
    "-auto-alt-ref",
    "1",
    "-lag-in-frames",
    "16",
    "-cpu-used",
    "8",
)
VP8_ALT = ("-c:v", "libvpx", "-crf", "5", "-b:v", "2M", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-cpu-used", "8")
AV1 = ("-c:v", "libaom-av1", "-crf", "10", "-b:v", "0", "-g", "12", "-cpu-used", "8", "-usage", "realtime")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "2", "-g", "12")
XVID = ("-c:v", "libxvid", "-q:v", "2", "-g", "12", "-vtag", "XVID")
B_FRAMES = ("-bf", "2")
VARIABLE_RATE = ("-vf", "setpts='(N+mod(N*N,5)/2)/12/TB'", "-vsync", "passthrough")
LATER = ("-output_ts_offset", "5.3")


def ffmpeg(*arguments: object, data: bytes = b"") -> bytes:
    """Run FFmpeg; returns what it writes."""
    command = [str(FFMPEG), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def pictures(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Pictures `[count, height, width, 3]`, uint8: a texture that moves, and each one's number as six bars below it."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(40, 216, (8, 12, 3)), np.ones((height // 8 + 1, width // 12 + 1, 1)))[
        :height, :width
    ]
    side, images = min(height, width), []
    for number in range(count):
        image = np.roll(texture, 2 * number, axis=1)
        bars = (number + 1 >> (np.arange(side) * 6 // side)) & 1
        image[height // 2 :, (width - side) // 2 :][:, :side] = np.where(bars, 230, 20)[:, None]
        images.append(image)
    return np.stack(images).astype(np.uint8)


def encode(path: Path, images: np.ndarray, *arguments: object, rate: int = 12) -> Path:
    """Encode pictures `[T, H, W, 3]` with FFmpeg's arguments."""
    size = f"{images.shape[2]}x{images.shape[1]}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-")
    ffmpeg(*raw, *arguments, path, data=images.tobytes())
    return path


def presented(path: Path) -> np.ndarray:
    """All frames that FFmpeg presents, upright, uint8 `[n, H, W, 3]`."""
    arguments = ("-i", path, "-vsync", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-")
    data, frames = ffmpeg(*arguments), []
    while data:
        _, size, _, rest = data.split(b"\n", 3)
        width, height = map(int, size.split())
        frames.append(np.frombuffer(rest, np.uint8, height * width * 3).reshape(height, width, 3))
        data = rest[height * width * 3 :]
    return np.stack(frames)


# Video by file name: FFmpeg's arguments
_ENCODED: dict[str, tuple[str, ...]] = {
    "h264.mp4": X264,
    "h264_no_b.mp4": (*X264, "-bf", "0"),
    "h264_open_gop.mp4": (*X264, "-x264-params", "open-gop=1:bframes=3"),
    "h264_intra_refresh.mp4": (*X264, "-x264-params", "intra-refresh=1"),
    "h264_interlaced.mp4": (*X264, "-x264-params", "interlaced=1"),
    "h264_slices.mp4": (*X264, "-x264-params", "slices=4"),
    "h264_long_gop.mov": (*X264, "-g", "250"),
    "h264_fragmented.mp4": (*X264, "-movflags", "frag_keyframe+empty_moov"),
    "h264_10_bit.mp4": (*X264, "-pix_fmt", "yuv420p10le"),
    "h264_444.mkv": (*X264, "-pix_fmt", "yuv444p"),
    "h264_variable_rate.mp4": (*X264, *VARIABLE_RATE),
    "h264_variable_rate.mkv": (*X264, *VARIABLE_RATE),
    "h264_later.mp4": (*X264, *LATER),
    "h264_later.mkv": (*X264, *LATER),
    "h264.mkv": X264,
    "h264.flv": X264,
    "h264.ts": X264,
    "h264.mts": (*X264, "-f", "mpegts", "-mpegts_m2ts_mode", "1"),
    "h264.3gp": X264,
    "hevc.mp4": X265,
    "hevc.mkv": X265,
    "hevc_10_bit.mp4": (*X265, "-pix_fmt", "yuv420p10le"),
    "hevc_variable_rate.mkv": (*X265, *VARIABLE_RATE),
    "vp9.webm": VP9,
    "vp9_hidden_frames.webm": VP9_ALT,
    "vp9_10_bit.webm": (*VP9, "-pix_fmt", "yuv420p10le"),
    "vp9_variable_rate.webm": (*VP9, *VARIABLE_RATE),
    "vp9_later.webm": (*VP9, *LATER),
    "vp9.mkv": VP9,
    "vp9.mp4": VP9,
    "vp8.webm": VP8,
    "vp8_hidden_frames.webm": VP8_ALT,
    "av1.webm": AV1,
    "av1.mp4": AV1,
    "mpeg4.mp4": MPEG4,
    "mpeg4.avi": MPEG4,
    "mpeg4_b_frames.mp4": (*MPEG4, *B_FRAMES),
    "mpeg4_b_frames.mkv": (*MPEG4, *B_FRAMES),
    "mpeg4_b_frames.avi": (*MPEG4, *B_FRAMES),
    "mpeg4_later.avi": (*MPEG4, *LATER),
    "xvid.avi": XVID,
    "xvid_b_frames.avi": (*XVID, *B_FRAMES),
    "xvid_b_frames.mkv": (*XVID, *B_FRAMES),
    "xvid_quarter_pixel.avi": (*XVID, "-flags", "+qpel"),
    "divx3.avi": ("-c:v", "msmpeg4", "-q:v", "2"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "mjpeg.mov": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "huffyuv.avi": ("-c:v", "huffyuv"),
    "raw.avi": ("-c:v", "rawvideo", "-pix_fmt", "bgr24"),
    "prores.mov": ("-c:v", "prores_ks"),
    "png.mov": ("-c:v", "png"),
    "sorenson.flv": ("-c:v", "flv", "-q:v", "2"),
    "wmv2.wmv": ("-c:v", "wmv2", "-q:v", "2"),
    "msmpeg4.wmv": ("-c:v", "msmpeg4", "-q:v", "2"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-q:v", "2", "-r", "25"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", "2", *B_FRAMES, "-r", "25"),
    "mpeg2.vob": ("-c:v", "mpeg2video", "-q:v", "2", *B_FRAMES, "-r", "25"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-q:v", "2", *B_FRAMES, "-r", "25"),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "9"),
    "colours.gif": (),
    "mpeg4.m4v": MPEG4,
    "raw_stream.mjpeg": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
}  # fmt: skip
_FEW = {
    "h264": (X264, "mp4"),
    "hevc": (X265, "mp4"),
    "vp9": (VP9, "webm"),
    "xvid": ((*XVID, *B_FRAMES), "avi"),
    "mpeg1": (("-c:v", "mpeg1video", "-r", "25"), "mpg"),
}
_ODD = {
    "h264": ((*X264, "-pix_fmt", "yuv444p"), "mp4"),
    "vp9": (VP9, "webm"),
    "mpeg4": (MPEG4, "avi"),
    "mjpeg": (("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"), "avi"),
}


def _copied(path: Path, source: tuple[str, ...], before: tuple = (), after: tuple = (), suffix: str = ".mp4") -> None:
    """A video that is copied packet by packet from another."""
    whole = encode(path.with_name(f"source_{path.stem}{suffix}"), pictures(COUNT), *source)
    ffmpeg(*before, "-i", whole, "-c", "copy", *after, path)


def _turned(path: Path, degrees: int, source: tuple[str, ...] = X264) -> None:
    try:
        _copied(path, source, ("-display_rotation", -degrees))
    except subprocess.CalledProcessError:  # before FFmpeg 6
        _copied(path, source, (), ("-metadata:s:v:0", f"rotate={degrees}"))


def _claims_too_many(path: Path) -> None:
    data = bytearray(encode(path, pictures(COUNT), *MPEG4).read_bytes())
    for place in (data.find(b"avih") + 24, data.find(b"strh") + 40):
        struct.pack_into("<I", data, place, 2 * COUNT)
    path.write_bytes(data)


def _half(path: Path, *arguments: str) -> None:
    """The first part of a file, which tells of all of it at its beginning."""
    data = encode(path, pictures(COUNT), *arguments).read_bytes()
    path.write_bytes(data[: 3 * len(data) // 5])


def _damaged(path: Path, arguments: tuple[str, ...], *, fill: bytes | None = None) -> None:
    """A video with 600 bytes in its middle overwritten."""
    data = bytearray(encode(path, pictures(COUNT), *arguments).read_bytes())
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(600) if fill is None else 600 * fill
    data[middle : middle + 600] = noise
    path.write_bytes(data)


def _two_streams(path: Path, *dispositions: str) -> None:
    small = encode(path.with_name("small.mp4"), pictures(10, 32, 48, seed=1), *X264)
    large = encode(path.with_name("large.mp4"), pictures(COUNT), *X264)
    ffmpeg("-i", small, "-i", large, "-map", "0:v", "-map", "1:v", "-c", "copy", *dispositions, path)


def _sizes(path: Path) -> None:
    """A stream whose frames change their size in the middle."""
    parts = [encode(path.with_name(f"part{k}.ts"), pictures(24, 64, (96, 128)[k], seed=k), *X264) for k in range(2)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


def _with_cover(path: Path) -> None:
    video = encode(path.with_name("video.mp4"), pictures(COUNT), *X264)
    cover = encode(path.with_name("cover.png"), pictures(1, 256, 384, seed=2))
    ffmpeg("-i", video, "-i", cover, "-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic", path)


_MADE: dict[str, Callable[[Path], object]] = {
    "edit_list.mp4": lambda path: _copied(path, X264, ("-ss", "1.5")),
    "edit_list_hevc.mp4": lambda path: _copied(path, X265, ("-ss", "1.5")),
    "edit_list_mpeg4.mp4": lambda path: _copied(path, (*MPEG4, *B_FRAMES), ("-ss", "1.5")),
    "edit_list_and_end.mov": lambda path: _copied(path, X264, ("-ss", "0.7", "-t", "2")),
    "cut.mkv": lambda path: _copied(path, X264, ("-ss", "1.5")),
    "cut.webm": lambda path: _copied(path, VP9, ("-ss", "1.5"), suffix=".webm"),
    "cut_between_keys.ts": lambda path: _copied(path, X264, ("-ss", "1.5"), ("-copyinkf",)),
    "copied.avi": lambda path: _copied(path, X264),
    "copied_hevc.ts": lambda path: _copied(path, X265),
    "transport_stream.mp4": lambda path: _copied(path, X264, (), ("-f", "mpegts")),
    "packed.avi": lambda path: _copied(path, (*MPEG4, *B_FRAMES), suffix=".mp4"),
    "turned_90.mp4": lambda path: _turned(path, 90),
    "turned_180.mp4": lambda path: _turned(path, 180),
    "turned_270.mov": lambda path: _turned(path, 270),
    "turned_mpeg4.mp4": lambda path: _turned(path, 90, MPEG4),
    "claims_96.avi": _claims_too_many,
    "half.mp4": lambda path: _half(path, *X264, "-movflags", "faststart"),
    "half.mkv": lambda path: _half(path, *X264),
    "half.webm": lambda path: _half(path, *VP9),
    "half.avi": lambda path: _half(path, *XVID),
    "half_with_b_frames.avi": lambda path: _half(path, *XVID, *B_FRAMES),
    "half.mpg": lambda path: _half(path, "-c:v", "mpeg1video", "-q:v", "2", "-r", "25"),
    "damaged.mp4": lambda path: _damaged(path, (*X264, "-movflags", "faststart")),
    "zeroed.mp4": lambda path: _damaged(path, (*X264, "-movflags", "faststart"), fill=b"\0"),
    "damaged.webm": lambda path: _damaged(path, VP9),
    "zeroed.webm": lambda path: _damaged(path, VP9, fill=b"\0"),
    "damaged.avi": lambda path: _damaged(path, XVID),
    "zeroed.avi": lambda path: _damaged(path, XVID, fill=b"\0"),
    "damaged_mjpeg.avi": lambda path: _damaged(path, ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")),
    "two_streams.mp4": _two_streams,
    "two_streams_default.mkv": lambda path: _two_streams(path, "-disposition:v:0", "0", "-disposition:v:1", "default"),
    "sizes.ts": _sizes,
    "cover.mp4": _with_cover,
}


def kinds() -> Iterator[str]:
    """File names of all videos that `make` knows."""
    yield from (*_ENCODED, *_MADE)
    for name, (_, suffix) in _FEW.items():
        yield from (f"{name}_{count}_frames.{suffix}" for count in (1, 2, 3))
    for name, (_, suffix) in _ODD.items():
        yield f"{name}_odd_size.{suffix}"


def make(path: Path) -> Path:
    """Make a video of `kinds`; returns its path.

    Raises:
        subprocess.CalledProcessError: this FFmpeg lacks an encoder.
    """
    if path.name in _MADE:
        _MADE[path.name](path)
        return path
    if path.name in _ENCODED:
        return encode(path, pictures(COUNT), *_ENCODED[path.name])
    name, *which = path.stem.split("_")
    if which == ["odd", "size"]:
        return encode(path, pictures(COUNT, 65, 97), *_ODD[name][0])
    return encode(path, pictures(int(which[0])), *_FEW[name][0])
