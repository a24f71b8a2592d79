"""What the packets of a video prove about its frames, without decoding any: how many there are, and where decoding can begin.

A frame of a video is one that FFmpeg presents (see `video`). Where every packet is one shown frame with a time stamp of its
own, the time stamps tell number and order of the frames; and decoding can begin at a key frame before and after which nothing
is shown out of order. Packets that could be anything else prove nothing: such a video is decoded from its beginning to its
end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

_WITH_TIMES = {"mov", "matroska", "flv"}  # containers whose time stamps are those of presentation
_WITHOUT_TIMES = "avi"  # frames are shown in the order of their packets, if no B-frame is among them
_NAL_LENGTH = 4  # bytes before a NAL unit that hold its length; containers may use fewer, which proves nothing here
_UNCODED_VOP = 16  # bytes: one that repeats the frame before is shorter


class UnprovenError(Exception):
    """Packets do not prove what the frames are, or decoding has disproved it; the message is a reason to be shown in brackets."""


class Content(NamedTuple):
    """What a packet holds.

    Attributes:
        is_plain: whether it is exactly one shown frame, and changes nothing for those behind it.
        is_b_frame: whether it may be shown before a packet that precedes it.
        is_entry: whether a decoder can begin here if the container calls it a key frame.
        has_headers: whether it holds parameters of the stream, which decoding the packets behind it may need.
    """

    is_plain: bool
    is_b_frame: bool
    is_entry: bool
    has_headers: bool = False


class PacketState(NamedTuple):
    """What is known of one packet of a video stream.

    Attributes:
        pts: time stamp of presentation, in units of the stream; None where it has none.
        is_key: whether the container calls it a key frame.
        is_hidden: whether the container says that it is decoded and not shown, as edit lists do.
        content: what it holds.
    """

    pts: int | None
    is_key: bool
    is_hidden: bool
    content: Content


class Timeline(NamedTuple):
    """Frames of a video by their packets.

    Attributes:
        packets: number of the packet of each frame, in the order of presentation.
        pts: time stamp of each frame, ascending.
        starts: frames at which decoding can begin, ascending from 0. The packets from one to the next are as many as the frames
            from one to the next, and these are what they hold.
    """

    packets: list[int]
    pts: list[int]
    starts: list[int]


def timeline(container: str, packets: Sequence[PacketState]) -> Timeline:
    """The frames of a video, if its packets prove them.

    Args:
        container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        packets: of its video stream, in the order of decoding.

    Raises:
        UnprovenError: they prove nothing.
    """
    if hidden := sum(packet.is_hidden for packet in packets):
        raise UnprovenError(f"{hidden} of its packets are hidden by an edit list")
    names = set(container.split(","))
    if not names & _WITH_TIMES and (
        _WITHOUT_TIMES not in names or any(packet.content.is_b_frame for packet in packets)
    ):
        raise UnprovenError(f"its container ({container}) does not tell in which order its frames are shown")
    if not packets or not packets[0].is_key or not all(packet.content.is_plain for packet in packets):
        raise UnprovenError("its packets do not tell its frames")
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if len(set(stamps)) < len(packets):
        raise UnprovenError("several of its frames have one time stamp, or none")
    order = sorted(range(len(stamps)), key=stamps.__getitem__)
    need_headers = any(packet.content.has_headers for packet in packets)
    starts = _starts(stamps, [_is_entry(packet, need_headers) for packet in packets])
    return Timeline(order, [stamps[number] for number in order], [0, *starts[starts[:1] == [0] :]])


def _is_entry(packet: PacketState, need_headers: bool) -> bool:
    """Whether a decoder that has seen nothing before can begin at a packet."""
    held = packet.content
    return packet.is_key and held.is_entry and held.has_headers >= need_headers


def _starts(stamps: list[int], is_entry: list[bool]) -> list[int]:
    """Entries that divide a video: what is decoded before is shown before, what is decoded after is shown after."""
    earliest_after, earliest = [0] * len(stamps), max(stamps) + 1
    for number in range(len(stamps) - 1, -1, -1):
        earliest_after[number] = earliest
        earliest = min(earliest, stamps[number])
    starts, latest = [], min(stamps) - 1
    for number, stamp in enumerate(stamps):
        if is_entry[number] and latest < stamp < earliest_after[number]:
            starts.append(number)  # there are as many frames before it as packets
        latest = max(latest, stamp)
    return starts


def content(codec: str, data: bytes) -> Content:
    """Look into a packet.

    Args:
        codec: FFmpeg's name of the decoder.
        data: of the packet.
    """
    look = _LOOKS.get(codec)
    return look(data) if look and data else Content(is_plain=False, is_b_frame=True, is_entry=False)


def _h264(data: bytes) -> Content:
    # A slice (type 1 or, of an entry, 5) begins a picture if its first macroblock is 0, written as a single bit 1.
    units = _units(data)
    begun = [unit[0] & 31 for unit in units if unit[0] & 31 in (1, 5) and unit[1] >= 128]
    has_headers = any(unit[0] & 31 in (7, 8) for unit in units)
    return Content(len(begun) == 1, is_b_frame=True, is_entry=begun == [5], has_headers=has_headers)


def _hevc(data: bytes) -> Content:
    # A slice segment (types below 32, of an entry 16 to 23) says in the first bit behind the header of two bytes whether it
    # begins a picture.
    units = _units(data)
    begun = [unit[0] >> 1 & 63 for unit in units if unit[0] >> 1 & 63 < 32 and unit[2] >= 128]
    has_headers = any(unit[0] >> 1 & 63 in (32, 33, 34) for unit in units)
    is_entry = len(begun) == 1 and 16 <= begun[0] <= 23
    return Content(len(begun) == 1, is_b_frame=True, is_entry=is_entry, has_headers=has_headers)


def _units(data: bytes) -> list[bytes]:
    """First three bytes of the NAL units of a packet, each behind its length; none where the lengths do not fill it."""
    place, units = 0, []
    while place < len(data):
        size = int.from_bytes(data[place : place + _NAL_LENGTH], "big")
        begin, place = place + _NAL_LENGTH, place + _NAL_LENGTH + size
        if size < 3 or place > len(data):
            return []
        units.append(data[begin : begin + 3])
    return units


def _vp8(data: bytes) -> Content:
    return Content(bool(data[0] >> 4 & 1), is_b_frame=False, is_entry=not data[0] & 1)


def _vp9(data: bytes) -> Content:
    frames = [data[begin] for begin in _vp9_frames(data)]
    shown = [_is_shown_vp9(first) for first in frames]
    is_entry = not frames[0] & 0b1100  # shows no existing frame, and is a key frame
    return Content(shown.count(True) == 1 and None not in shown, is_b_frame=False, is_entry=is_entry)


def _vp9_frames(data: bytes) -> list[int]:
    """Where the frames of a packet begin: those of a superframe stand in an index at its end."""
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if marker >> 5 != 0b110 or len(index) != 2 + count * width or index[0] != marker:
        return [0]
    sizes = [int.from_bytes(index[1 + i * width : 1 + (i + 1) * width], "little") for i in range(count)]
    begins = [sum(sizes[:number]) for number in range(count)]
    return begins if begins[-1] < len(data) and all(sizes) else [len(data) - 1]  # the marker: begins no frame


def _is_shown_vp9(first: int) -> bool | None:
    """Whether a frame is shown, by its first byte; None if it begins no frame."""
    if first >> 6 != 0b10 or first >> 4 & 3 == 3:  # profile 3 has another layout
        return None
    return bool(first >> 3 & 1 or first >> 1 & 1)  # an existing frame, or itself


def _mpeg4(data: bytes) -> Content:
    place = data.find(_VOP)
    is_one = place >= 0 and data.find(_VOP, place + 1) < 0 and len(data) - place > _UNCODED_VOP
    kind = data[place + 4] >> 6 if is_one else 0
    return Content(is_one, is_b_frame=kind == 2, is_entry=kind == 0)


_VOP = b"\0\0\1\xb6"
_LOOKS: dict[str, Callable[[bytes], Content]] = {
    "h264": _h264,
    "hevc": _hevc,
    "vp8": _vp8,
    "libvpx": _vp8,
    "vp9": _vp9,
    "libvpx-vp9": _vp9,
    "mpeg4": _mpeg4,
}
