"""The frames of a video file, exactly as FFmpeg presents them.

The frames of a video are those that FFmpeg presents of its default video stream: in the order of display, with edit lists and
discarded packets honoured and the rotation applied. Their number n is what can be decoded, whatever the container claims;
frame i is the i-th of them, from 0. `ffmpeg -i FILE -fps_mode passthrough` writes the same ones.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.buffer import Buffer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from fsar_bench.data.decode import RecountedError
from fsar_bench.data.packets import PacketState, Timeline, UnprovenError, content, timeline
from fsar_bench.io import open_file

VERSION = f"pyav (FFmpeg {av.ffmpeg_version_info})"
KEPT_BYTES = 1 << 26  # of packets, and of frames in the decoder's format, that stay in memory until they are used
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0\r", b"v=0\n", b"<?xml", b"<MPD")  # HLS, FFmpeg, sessions, DASH and IMF
_DEFAULT_STREAM = 5_000_000  # pixels that the flag "default" is worth when FFmpeg chooses among video streams


class Video:
    """An open video file.

    Of its frames only the one that is asked for is kept, beside up to `KEPT_BYTES` of packets and as much of frames.

    Args:
        path: of the file.

    Attributes:
        count: number n of frames.
        told: number of frames that the container claims; 0 where it claims none.
        streams: number of video streams.
        doubt: why the packets do not prove what the frames are, or that they did wrongly; empty where they do.

    Raises:
        ValueError: it has no video stream that can be decoded, or it is cut off.
        av.FFmpegError: it is no media file, or its header is damaged.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = _Source(path)
        self.told = self._source.stream.frames
        self.streams = self._source.streams
        self.doubt = ""
        self._packets: list[Packet] | None = []
        self._frames: list[VideoFrame] | None = None
        self._reformatter = VideoReformatter()
        self._timeline = self._proven()
        self.count = 0
        if self._timeline is None:
            self.decode_all()
        else:
            self.count = len(self._timeline.packets)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and forget its packets and frames."""
        self._packets = self._frames = None
        self._source.close()

    @property
    def errors(self) -> int:
        """Number of packets that were found damaged so far."""
        return self._source.errors

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Decode frames.

        Args:
            indices: ascending, each once, below `count`.

        Yields:
            uint8 RGB `[H, W, 3]` of each, upright.

        Raises:
            RecountedError: `count` was wrong, and is corrected now; frames that were yielded may be others than asked for.
            ValueError: it is to be turned by something else than quarter turns.
        """
        if self._timeline is not None:
            try:
                yield from self._chosen(self._timeline, indices)
            except UnprovenError as error:
                promised, self.doubt = self.count, str(error)
                self.decode_all()
                raise RecountedError(f"it has {self.count} frames, not {promised}") from error
            return
        wanted = set(indices)
        size = None
        for index, frame in enumerate(self._frames if self._frames is not None else self._reopened().decode_all()):
            size = size or _size(frame)
            if index in wanted:
                yield self._upright(frame, size)
                wanted.remove(index)
                if not wanted:
                    return

    def decode_all(self) -> None:
        """Decode the whole video, and trust its packets no more: sets `count` and `errors`.

        Frames stay in memory for `frames` as long as they fit.
        """
        self._timeline, self._packets, self._frames = None, None, []
        kept = self.count = 0
        for frame in self._reopened().decode_all():
            self.count += 1
            kept += sum(plane.buffer_size for plane in frame.planes)
            if kept > KEPT_BYTES:
                self._frames = None
            if self._frames is not None:
                self._frames.append(frame)

    def turn(self) -> str:
        """How frames are turned to be shown upright, in words; empty where they are not."""
        source = _Source(self._path)
        try:
            first = next(source.decode_all(), None)
        finally:
            source.close()
        return "" if first is None else _words(_turn(first))

    def _upright(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """A frame as RGB: turned as it says, and with the size of the first one, to which FFmpeg scales the others."""
        image = self._reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.BICUBIC).to_ndarray()
        a, b, c, d = _turn(frame)
        if a == d == 0:
            return np.ascontiguousarray(image.transpose(1, 0, 2)[::b, ::c])
        return np.ascontiguousarray(image[::d, ::a])

    def _reopened(self) -> _Source:
        self._source.close()
        self._source = _Source(self._path)
        return self._source

    def _proven(self) -> Timeline | None:
        """The frames as the packets prove them; None where they do not."""
        states, size = [], 0
        for packet in self._source.packets():
            states.append(_state(packet, self._source.context.name))
            size += packet.size
            if size > KEPT_BYTES:
                self._packets = None
            if self._packets is not None:
                self._packets.append(packet)
        try:
            if self.errors:
                raise UnprovenError("it is damaged")
            return timeline(self._source.container.format.name, states)
        except UnprovenError as error:
            self.doubt = str(error)
            return None

    def _chosen(self, known: Timeline, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames of a known timeline, each decoded from the last start before it.

        Raises:
            UnprovenError: decoding gives other frames.
        """
        source = self._source if self._packets is not None else self._reopened()
        packets = iter(self._packets) if self._packets is not None else source.packets()
        place, size = 0, (source.context.width, source.context.height)
        for number, group in groupby(indices, key=lambda index: bisect_right(known.starts, index) - 1):
            wanted, start = list(group), known.starts[number]
            end = max(known.packets[start : wanted[-1] + 1]) + 1
            decoded = source.decode(islice(packets, start - place, end - place))
            place = end
            for index in range(start, wanted[-1] + 1):
                frame = next(decoded, None)
                if frame is None or frame.pts != known.pts[index] or frame.is_corrupt or source.errors:
                    raise UnprovenError("it is damaged, or its packets are not what they seem")
                if _size(frame) != size:
                    raise UnprovenError("its frames differ in size")
                if index in wanted:
                    yield self._upright(frame, size)
            for _ in decoded:  # the others that were decoded on the way
                pass


class _Source:
    """A video file that is read once: the packets of its default video stream, and their decoder.

    Attributes:
        container: the open file.
        stream: its default video stream.
        context: the decoder.
        streams: number of video streams.
        errors: number of packets that could not be read or decoded.
    """

    def __init__(self, path: str) -> None:
        _refuse_playlist(path)
        options = {"protocol_whitelist": "file"}  # whatever a file refers to, no network is used
        self.container = av.open(os.path.abspath(path), options=options, metadata_errors="ignore")
        try:
            videos = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
            if not videos:
                raise ValueError("it has no video stream")
            self.streams = len(videos)
            self.stream = max(videos, key=_preference)
            if self.stream.codec_context is None:
                raise ValueError("its video stream is of an unknown codec")
            if self.container.format.name.startswith("mov"):
                _check_whole(self.stream, os.path.getsize(path))
        except BaseException:
            self.container.close()
            raise
        self.context = self.stream.codec_context
        self.context.thread_count = 1  # decode processes run side by side
        self.errors = 0

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def packets(self) -> Iterator[Packet]:
        """All packets with content, in the order of decoding."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:  # FFmpeg reads no further either
                self.errors += 1
                return
            if packet.size:
                yield packet

    def decode(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """Frames of successive packets in the order of display; what cannot be decoded is passed over, as FFmpeg does."""
        if self.context.is_open:
            self.context.flush_buffers()
        for packet in chain(packets, (None,)):  # None: the frames that the decoder still holds
            try:
                yield from self.context.decode(packet)
            except av.FFmpegError:
                self.errors += 1

    def decode_all(self) -> Iterator[VideoFrame]:
        """All frames of a source of which nothing was read before."""
        return self.decode(self.packets())


def _refuse_playlist(path: str) -> None:
    """Raise `ValueError` for a file that would make FFmpeg open others: its content does not tell its frames."""
    with open_file(path) as file:
        if file.read(16).startswith(_PLAYLISTS):
            raise ValueError("it is a playlist or another text, not a video")


def _check_whole(stream: VideoStream, size: int) -> None:
    """Raise `ValueError` if a file of so many bytes has an index, which is at its beginning, that leads beyond its end."""
    entries = stream.index_entries
    missing = sum(entry.pos + entry.size > size for entry in entries)
    if missing:
        raise ValueError(f"it is cut off: {missing} of {len(entries)} frames that it lists lie behind its end")


def _preference(stream: VideoStream) -> tuple[int, int]:
    """What FFmpeg prefers: large frames, unless others are the default; the first of equals."""
    pixels = stream.codec_context.width * stream.codec_context.height if stream.codec_context else 0
    return pixels + _DEFAULT_STREAM * bool(stream.disposition & Disposition.default), -stream.index


def _state(packet: Packet, codec: str) -> PacketState:
    is_odd = packet.is_corrupt or packet.has_sidedata("new_extradata")
    held = content(codec, b"" if is_odd else bytes(packet))
    return PacketState(packet.pts, packet.is_keyframe, packet.is_discard, held)


def _size(frame: VideoFrame) -> tuple[int, int]:
    return frame.width, frame.height


def _turn(frame: VideoFrame) -> tuple[int, int, int, int]:
    """How a frame is turned: it is shown with (x, y) at (a x + c y, b x + d y), where each of a, b, c, d is -1, 0 or 1.

    Raises:
        ValueError: by something else than quarter turns and reflections.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(cast("Buffer", data)), np.int32)[[0, 1, 3, 4]].astype(float).reshape(2, 2)
    scale = np.hypot(*matrix)
    if not scale.all():  # no matrix at all; FFmpeg does not turn such frames
        return 1, 0, 0, 1
    scaled = (matrix / scale).ravel()
    a, b, c, d = (int(value) for value in np.rint(scaled))
    if np.abs(scaled - (a, b, c, d)).max() > 0.005 or abs(a * d - b * c) != 1:
        raise ValueError("it is to be turned by something else than quarter turns")
    return a, b, c, d


def _words(turn: tuple[int, int, int, int]) -> str:
    known = {
        (1, 0, 0, 1): "",
        (0, 1, -1, 0): "90° clockwise",
        (-1, 0, 0, -1): "180°",
        (0, -1, 1, 0): "90° counterclockwise",
    }
    return known.get(turn, "and mirrored")
