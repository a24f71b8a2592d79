"""What packets prove, what is done where they prove nothing or lie, and what `verify` and `parity` tell of videos."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from videos import COUNT, MPEG4, VP9, X264, X265, encode, ffmpeg, make, needs_ffmpeg, pictures, presented

from fsar_bench.cli.data import parity_command, verify_command
from fsar_bench.data import video as videos
from fsar_bench.data.decode import ReadPlan, read_clip
from fsar_bench.data.packets import Content, PacketState, Timeline, UnprovenError, content, timeline
from fsar_bench.data.readers import VideoReader, misplaced
from fsar_bench.data.sampling import midpoints, random_frames
from fsar_bench.data.video import Video


def packets(stamps: list[int | None], keys: set[int], **odd: object) -> list[PacketState]:
    """Packets with these time stamps, of which some are key frames."""
    plain = {"is_plain": True, "is_b_frame": False, "is_entry": True}
    hidden = odd.pop("hidden", -1)
    return [
        PacketState(pts, number in keys, number == hidden, Content(**{**plain, **odd}))
        for number, pts in enumerate(stamps)
    ]


def test_packets_tell_frames_and_where_decoding_can_begin():
    closed = packets([0, 30, 10, 20, 40, 70, 50, 60], {0, 4})  # I P B B | I P B B
    assert timeline("mov,mp4", closed) == Timeline([0, 2, 3, 1, 4, 6, 7, 5], [0, 10, 20, 30, 40, 50, 60, 70], [0, 4])
    open_gop = packets([0, 30, 10, 20, 60, 40, 50], {0, 4})  # the last two are shown before the second key frame
    assert timeline("matroska,webm", open_gop).starts == [0]
    refreshed = packets([0, 10, 20], {0, 2}, is_entry=False)
    assert timeline("mov,mp4", refreshed).starts == [0]
    headers = packets([0, 10, 20], {0, 2})
    headers[0] = headers[0]._replace(content=headers[0].content._replace(has_headers=True))
    assert timeline("mov,mp4", headers).starts == [0]  # a decoder that begins at the last one lacks them


@pytest.mark.parametrize(
    ("container", "states", "reason"),
    [
        ("mov,mp4", packets([-10, 0, 10], {0}, hidden=0), "1 of its packets are hidden by an edit list"),
        ("mov,mp4", [], "do not tell its frames"),
        ("mov,mp4", packets([0, 10], {1}), "do not tell its frames"),
        ("mov,mp4", packets([0, 10], {0}, is_plain=False), "do not tell its frames"),
        ("mov,mp4", packets([0, 10, 10], {0}), "one time stamp"),
        ("mov,mp4", packets([0, None], {0}), "one time stamp, or none"),
        ("mpegts", packets([0, 10], {0}), "(mpegts) does not tell in which order"),
        ("avi", packets([0, 10], {0}, is_b_frame=True), "(avi) does not tell in which order"),
    ],
)
def test_packets_that_prove_nothing(container, states, reason):
    with pytest.raises(UnprovenError, match=re.escape(reason)):
        timeline(container, states)


def unit(*data: int) -> bytes:
    return len(data).to_bytes(4, "big") + bytes(data)


@pytest.mark.parametrize(
    ("codec", "data", "expected"),
    [
        ("h264", unit(6, 5, 5) + unit(0x65, 0x88, 0), (True, True, True, False)),
        ("h264", unit(0x67, 1, 2) + unit(0x65, 0x88, 0), (True, True, True, True)),
        ("h264", unit(0x41, 0x9A, 0), (True, True, False, False)),
        ("h264", unit(0x65, 0x88, 0) + unit(0x65, 0x00, 0x80), (True, True, True, False)),  # a second slice
        ("h264", unit(0x65, 0x88, 0) + unit(0x61, 0x88, 0), (False, True, False, False)),  # a second picture
        ("h264", unit(0x65, 0x88, 0) + b"\0\0\0\x09abc", (False, True, False, False)),  # a unit behind its end
        ("h264", bytes(100), (False, True, False, False)),
        ("hevc", unit(0x26, 1, 0x80), (True, True, True, False)),
        ("hevc", unit(0x40, 1, 2) + unit(0x26, 1, 0x80), (True, True, True, True)),
        ("hevc", unit(0x02, 1, 0x80), (True, True, False, False)),
        ("hevc", unit(0x26, 1, 0x00), (False, True, False, False)),
        ("vp8", b"\x10", (True, False, True, False)),
        ("vp8", b"\x11", (True, False, False, False)),
        ("vp8", b"\x00", (False, False, True, False)),
        ("vp9", b"\x82\x49", (True, False, True, False)),
        ("vp9", b"\x86\x49", (True, False, False, False)),
        ("vp9", b"\x80\x49", (False, False, True, False)),  # not shown
        ("vp9", b"\x88", (True, False, False, False)),  # shows an existing frame
        ("vp9", b"\x80a\x86b\xc1\x02\x02\xc1", (True, False, True, False)),  # one hidden, one shown
        ("vp9", bytes(9), (False, False, True, False)),
        ("mpeg4", b"\0\0\1\xb6\x10" + bytes(20), (True, False, True, False)),
        ("mpeg4", b"\0\0\1\xb6\x50" + bytes(20), (True, False, False, False)),
        ("mpeg4", b"\0\0\1\xb6\x80" + bytes(20), (True, True, False, False)),
        ("mpeg4", b"\0\0\1\xb6\x10" + bytes(3), (False, False, True, False)),  # repeats the frame before
        ("mpeg4", 2 * (b"\0\0\1\xb6\x10" + bytes(20)), (False, False, True, False)),  # two in one packet
        ("mpeg2video", b"\0\0\1\0", (False, True, False, False)),
        ("h264", b"", (False, True, False, False)),
    ],
)
def test_what_a_packet_holds(codec, data, expected):
    assert content(codec, data) == expected


def test_a_packet_that_brings_other_parameters_proves_nothing():
    """As where a container holds two encodings one behind the other."""

    class Packet:
        pts, is_keyframe, is_discard, is_corrupt = 0, True, False, False
        side_data = ""

        def has_sidedata(self, kind: str) -> bool:
            return kind == self.side_data

        def __bytes__(self) -> bytes:
            return unit(0x65, 0x88, 0)

    packet = Packet()
    assert videos._state(packet, "h264").content.is_plain
    packet.side_data = "new_extradata"
    assert not videos._state(packet, "h264").content.is_plain


def numbers(path: Path, indices: np.ndarray) -> np.ndarray:
    """Which presented frames a reader takes for these; the frames differ from all others by more than codecs change them."""
    shown = presented(path)
    with Video(str(path)) as clip:
        assert clip.count == len(shown)
        chosen, places = np.unique(indices, return_inverse=True)
        frames = np.stack(list(clip.frames(chosen.tolist())))[places]
    distance = np.abs(shown[None, :, ::2, ::2].astype(np.int16) - frames[:, None, ::2, ::2])
    return distance.mean((2, 3, 4)).argmin(1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["h264.mp4", "edit_list.mp4", "vp9.webm", "mpeg4.avi"])
def test_random_and_all_frames(tmp_path, name):
    path = make(tmp_path / name)
    with Video(str(path)) as clip:
        count = clip.count
    for indices in (
        random_frames(count, 8, (0, 1)),
        np.arange(count),
        np.array([count - 1]),
        midpoints(count, 3 * count),
    ):
        assert (numbers(path, indices) == indices).all()


@needs_ffmpeg
def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    decoded = []
    decode = videos._Source.decode
    monkeypatch.setattr(
        videos._Source, "decode", lambda self, packets: decode(self, (decoded.append(p) or p for p in packets))
    )
    path = encode(tmp_path / "clip.mp4", pictures(COUNT), *X264, "-bf", "0")  # a key frame every 12 frames
    with Video(str(path)) as clip:
        assert len(list(clip.frames([13, 25, 26]))) == 3
    assert [len(decoded), clip.doubt] == [2 + 3, ""]
    decoded.clear()
    with Video(str(make(tmp_path / "mpeg1.mpg"))) as clip:
        assert len(list(clip.frames([13]))) == 1
    assert len(decoded) >= COUNT  # the packets of this one prove nothing; its frames are kept, and not decoded again


@needs_ffmpeg
@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_packets_and_frames_that_do_not_fit_into_memory_are_read_again(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(videos, "KEPT_BYTES", kept)
    for name in ("h264.mp4", "edit_list.mp4"):
        path = make(tmp_path / name)
        wanted = midpoints(len(presented(path)), 8)
        assert (numbers(path, wanted) == wanted).all()


@needs_ffmpeg
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_packets_that_lie_are_found_out_while_decoding(tmp_path, monkeypatch, extra):
    """Frames are then counted, and chosen again."""
    path = make(tmp_path / "h264.mp4")
    plan = ReadPlan("pyav", 64, 64, 8)
    honest = read_clip(VideoReader(), plan, str(path), None).frames

    def lie(container: str, states: list[PacketState]) -> Timeline:
        known = timeline(container, states)
        stamps = [pts + (number > 5) for number, pts in enumerate(known.pts)]
        order = [*known.packets, known.packets[-1]][: len(known.packets) + extra]
        return Timeline(order, [*stamps, stamps[-1] + 9][: len(order)], [0])

    monkeypatch.setattr(videos, "timeline", lie)
    assert (read_clip(VideoReader(), plan, str(path), None).frames == honest).all()


@needs_ffmpeg
def test_a_playlist_opens_no_other_file(tmp_path):
    clip = encode(tmp_path / "other.ts", pictures(4), *X264)
    for number, text in enumerate(
        [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {clip.name}\n",
        ]
    ):
        path = tmp_path / f"{number}.mp4"
        path.write_text(text)
        assert len(ffmpeg("-allowed_extensions", "ALL", "-i", path, "-f", "rawvideo", "-") if not number else b"x")
        with pytest.raises(ValueError, match="it is a playlist"):
            Video(str(path))


@needs_ffmpeg
def test_key_flags_that_are_missing_begin_nothing(tmp_path):
    """An mp4 without its table of key frames calls every packet one."""
    for number, codec in enumerate((MPEG4, X264, X265)):
        path = encode(tmp_path / f"{number}.mp4", pictures(COUNT), *codec)
        path.write_bytes(path.read_bytes().replace(b"stss", b"free", 1))
        for index in (5, 20, 40):
            assert numbers(path, np.array([index])).tolist() == [index]


@needs_ffmpeg
def test_parameters_that_change_on_the_way(tmp_path):
    """Two streams of other parameters in one file: whatever is skipped, each frame has the right ones."""
    parts = []
    for number, offset in enumerate((0, 12)):
        part = tmp_path / f"{number}.ts"
        encode(part, pictures(24, seed=number), *X264, "-bf", "0", "-x264-params", f"chroma-qp-offset={offset}")
        parts.append(part.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    path = tmp_path / "both.mkv"
    ffmpeg("-i", tmp_path / "both.ts", "-c", "copy", path)
    shown = presented(path)
    for index in (30, 40, 47):
        with Video(str(path)) as clip:
            (frame,) = clip.frames([index])
        assert np.abs(frame.astype(int) - shown[index]).max() < 3


@needs_ffmpeg
@pytest.mark.parametrize(
    "shape", [(0, 0, 0, 0), (1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 1, 0), (0, 2, -1, 0), (1.07, 0, 0, 1)]
)
def test_display_matrices(tmp_path, shape):
    """Reflections, scales and none at all, as FFmpeg shows them."""
    path = encode(tmp_path / "clip.mp4", pictures(8), *X264)
    data, (a, b, c, d) = bytearray(path.read_bytes()), (round(value * 65536) for value in shape)
    place = data.find(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = presented(path)
    with Video(str(path)) as clip:
        frames = np.stack(list(clip.frames([0, 5])))
    assert frames.shape[1:] == shown.shape[1:]
    assert np.abs(frames.astype(int) - shown[[0, 5]]).mean() < 2


@needs_ffmpeg
def test_a_slow_movement_hides_no_other_frame(tmp_path):
    """A small square that moves by a pixel a frame: neighbouring frames differ by little."""
    images = np.full((COUNT, 64, 96, 3), 100, np.uint8)
    for number in range(COUNT):
        images[number, 28:36, 20 + number : 28 + number] = 230
    path = encode(tmp_path / "slow.mp4", images, *X264)
    plan = ReadPlan("pyav", 64, 64, 8)
    frames = read_clip(VideoReader(), plan, str(path), None).frames
    with Video(str(path)) as clip:
        wanted = midpoints(clip.count, 8)
        assert misplaced(frames, wanted, clip, 64, 64) is None
        for shift in (-4, -1, 1, 4):
            others = np.stack(list(clip.frames((wanted + shift).clip(0, COUNT - 1).tolist())))[:, :, 16:80]
            assert misplaced(others, wanted, clip, 64, 64) == wanted[0]


@needs_ffmpeg
def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path)
    with pytest.raises(ValueError, match="it has no video stream"):
        Video(str(path))


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Path:
    """Two classes of odd videos, as a dataset; returns its config."""
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    names = ["h264.mp4", "edit_list.mp4", "turned_90.mp4", "claims_96.avi", "two_streams.mp4", "half.mp4"]
    rows = [{"id": name, "class": f"class {k % 2}", "path": str(make(tmp_path / name))} for k, name in enumerate(names)]
    classes = [{"name": f"class {k}", "text": f"class {k}", "split": "test"} for k in range(2)]
    (tmp_path / "odd.json").write_text(json.dumps({"classes": classes, "clips": rows}))
    config = tmp_path / "odd.py"
    config.write_text(
        f"dataset = dict(name='odd', annotation={str(tmp_path / 'odd.json')!r}, groups=None)\nbackbone = 'tiny_clip'\n"
    )
    return config


@needs_ffmpeg
def test_verify_tells_what_is_odd(odd, capsys):
    for _ in range(2):  # decoded, then known
        assert verify_command(str(odd), reader="pyav", workers=1, seconds=60, accept=False) == 1
        text = " ".join(capsys.readouterr().out.split())
        assert "5 of 6 clips decode" in text
        assert re.search(r"Clip 'half.mp4' cannot be decoded .*\(ValueError: it is cut off: \d+ of 48 frames", text)
        assert re.search(
            r"note: 1 clip, 'edit_list.mp4' of 'class 1': other readers .*: 6 of its packets are hidden", text
        )
        assert "'turned_90.mp4' of 'class 0': its frames are turned 90°" in text
        assert "'claims_96.avi' of 'class 1': its container tells of 96 frames, FFmpeg presents 48" in text
        assert "'two_streams.mp4' of 'class 0': it has 2 video streams" in text


@needs_ffmpeg
def test_verify_names_clips_of_which_a_reader_takes_other_frames(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    path = encode(tmp_path / "clip.webm", pictures(COUNT), *VP9)
    plan = ReadPlan("pyav", 64, 64, 8, is_inspected=True)

    class Early(VideoReader):
        def read(self, clip, indices, *, resize, crop):
            return super().read(clip, np.maximum(indices - 1, 0), resize=resize, crop=crop)

    class Short(VideoReader):
        def open(self, path):
            return {**super().open(path), "total_frames": COUNT - 1}

    assert read_clip(VideoReader(), plan, str(path), None).remarks == ()
    with pytest.raises(ValueError, match=r"it takes another frame for frame \d+ that FFmpeg presents"):
        read_clip(Early(), plan, str(path), None)
    with pytest.raises(ValueError, match="it counts 47 frames, FFmpeg presents 48"):
        read_clip(Short(), plan, str(path), None)


@needs_ffmpeg
def test_parity_counts_refusals(odd, capsys):
    assert parity_command(str(odd), readers="decord,pyav", count=6, workers=1, seconds=60) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "refused by a reader: 2 of 6 clips" in text
    assert "take reader=pyav" in text.lower()
    assert "decord and pyav, 4 clips: mean difference 0.000 of 255" in text
