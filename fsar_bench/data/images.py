"""Clips that are folders of images, one per frame: which of its files are the frames, and in which order.

Frames are a series: images whose names agree but for one number (`img_00001.jpg`, `img_00002.jpg`, …) or a time stamp. Single
images beside a series (`thumb.jpg`, a contact sheet) are no frames. Of several series, the name decides: optical flow, masks and
depth stand back behind others, and `img_`, `image_`, `frame` and plain numbers come before others. Where that decides nothing,
or most images are in no series, the folder is refused; so it is where the order is uncertain (see `frame_order`). Hidden files
(`._00001.png`) are never frames.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fsar_bench.data.disk import is_hidden
from fsar_bench.data.faults import examples
from fsar_bench.data.frame_order import Group, Key, Numbered, Series, series_in
from fsar_bench.errors import DataError
from fsar_bench.io import IMAGE_SUFFIXES

NOT_RGB = frozenset(  # words of names of folders and series of images that go with the frames, but are none
    ("flow", "flowx", "flowy", "opticalflow", "tvl", "tvlflow", "mask", "masks", "matte", "seg", "segmentation",
     "segmentations", "depth", "depths", "disparity", "disp", "normals", "alpha", "thumb", "thumbs", "thumbnail", "thumbnails",
     "preview", "previews", "sheet", "sheets", "poster", "posters", "heatmap", "heatmaps", "skeleton", "keypoints",
     "annotation", "annotations", "labels")
)  # fmt: skip
RGB = frozenset(  # the same of folders that hold the frames themselves
    ("rgb", "img", "imgs", "image", "images", "frame", "frames", "jpg", "jpgs", "jpeg", "jpegs", "png", "pngs", "color", "colour")
)  # fmt: skip
_FRAME_WORDS = frozenset(("img", "image", "frame", "frames", "rgb", "im", "f", ""))
_DIRECTIONS = frozenset(("x", "y", "u", "v"))
_NUMBER = re.compile(r"(\d+)")
_WORD = re.compile(r"[a-z]+")
NAMED, OTHER, NO_FRAMES = range(3)  # ranks of series: with a name of frames, another one, that of something else


@dataclass(frozen=True)
class FrameSeries:
    """The frames of a folder.

    Attributes:
        names: of the files, in the order of their frames.
        passed_over: names of the other images, sorted.
        missing: numbers that are lacking between the first and the last frame.
    """

    names: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()

    @property
    def note(self) -> str:
        """What is worth saying of the folder, such as "2 images beside the frames are passed over (a.jpg, b.jpg)"; or ""."""
        notes = []
        if self.names and _rank(self.names[0]) == NO_FRAMES:
            notes.append(
                f"its images are called {self.names[0]}, as images beside frames are (optical flow, masks, depth)"
            )
        if count := len(self.passed_over):
            images = "1 image beside the frames is" if count == 1 else f"{count} images beside the frames are"
            notes.append(f"{images} passed over ({examples(self.passed_over, ', ')})")
        if count := len(self.missing):
            frames = "1 frame is" if count == 1 else f"{count} frames are"
            notes.append(
                f"{frames} missing by their numbers ({examples([*map(str, self.missing)], ', ')}); the others are read in order"
            )
        return "; ".join(notes)


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder, in their order; empty where it holds no images.

    Raises:
        OSError: the folder cannot be read.
        DataError: its images are several series, or have no numbers that tell their order.
    """
    return [folder / name for name in frame_series(folder).names]


def frame_series(folder: Path) -> FrameSeries:
    """The frames of a folder, and what else is there.

    Raises:
        OSError: the folder cannot be read.
        DataError: its images are several series, or have no numbers that tell their order.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return series_of([name for name in names if is_image(name)], folder)


def is_image(name: str) -> bool:
    """Whether a file of this name can be a frame."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def series_of(names: list[str], folder: Path) -> FrameSeries:
    """The frames among the images of a folder.

    Args:
        names: of the images.
        folder: where they are, for errors.

    Raises:
        DataError: they are several series, or have no numbers that tell their order.
    """
    if len(names) < 2:
        return FrameSeries(tuple(names))
    several = [part for group in _by_pattern(names) for part in _several(group)]
    if not several:
        return _single(names, folder)
    found = several[0] if len(several) == 1 else _best(several, folder)
    if found.fault:
        raise DataError(f"The images of {folder} {found.fault}")
    _refuse_twins(found.rows, folder)
    frames = tuple(name for _, name in found.rows)
    rest = sorted(set(names) - set(frames))
    _refuse_strangers(frames, rest, folder)
    return FrameSeries(frames, tuple(rest), _missing([key for key, _ in found.rows]))


def _several(group: Group) -> list[Series]:
    """The series of a group; none if each holds one image."""
    parts = series_in(group)
    return parts if any(len(part.rows) > 1 for part in parts) else []


def _single(names: list[str], folder: Path) -> FrameSeries:
    """A single frame, with its mask or a thumbnail."""
    named = [name for name in names if _rank(name) == NAMED and _NUMBER.search(name)]
    if len(named) != 1:
        raise DataError(
            f"The {len(names)} images of {folder} have no numbers that tell their order ({examples(sorted(names), ', ')}). "
            "A clip is a folder of images that are numbered, such as img_00001.jpg, img_00002.jpg."
        )
    rest = sorted(set(names) - set(named))
    _refuse_strangers((named[0],), rest, folder)
    return FrameSeries((named[0],), tuple(rest))


def _missing(keys: list[Key]) -> tuple[int, ...]:
    """Numbers that are lacking in a series that is counted by one number."""
    numbers = [number for number, *more in keys if not more]
    if len(numbers) < len(keys) or not _is_gapped(numbers):
        return ()
    return tuple(sorted(set(range(numbers[0], numbers[-1])) - set(numbers)))


def modality(folder: str) -> int:
    """What a folder of this name holds: 1 frames (`rgb`), 2 what goes with frames (`flow_x`, `masks`), 0 anything else."""
    words = set(_WORD.findall(folder.lower()))
    if words & NOT_RGB and words <= NOT_RGB | RGB | _DIRECTIONS | {"optical"}:
        return 2
    return 1 if words and words <= RGB else 0


def _refuse_twins(frames: list[Numbered], folder: Path) -> None:
    """Refuse a series in which two images have one number."""
    for (key, first), (same, second) in pairwise(frames):
        if key == same:
            numbers = f"the number{'s' * (len(key) > 1)} {', '.join(map(str, key))}"
            raise DataError(f"Two images of {folder} have {numbers}: {first} and {second}. Keep one of them.")


def _is_gapped(numbers: list[int]) -> bool:
    """Whether a few numbers of a series are missing: a series in steps, or of time stamps, has no gaps."""
    span = numbers[-1] - numbers[0] + 1
    return len(numbers) < span < 2 * len(numbers)


def _by_pattern(names: list[str]) -> list[Group]:
    """Images whose names agree but for numbers; two formats of one frame are two groups."""
    groups: dict[tuple[str, ...], dict[str, list[tuple[tuple[str, ...], str]]]] = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        parts = _NUMBER.split(stem)
        formats = groups.setdefault(tuple(parts[::2]), {})
        formats.setdefault(suffix.lower(), []).append((tuple(parts[1::2]), name))
    found = []
    for texts, formats in groups.items():
        together = [row for rows in formats.values() for row in rows]
        one = len(formats) == 1 or len({tuple(map(int, digits)) for digits, _ in together}) == len(together)
        found += [
            Group(texts, [digits for digits, _ in rows], [name for _, name in rows])
            for rows in ([together] if one else formats.values())
        ]
    return found


def _best(several: list[Series], folder: Path) -> Series:
    """The series of frames among several, by their names."""
    ranked = sorted(several, key=lambda part: _rank(part.rows[0][1]))
    if _rank(ranked[0].rows[0][1]) == _rank(ranked[1].rows[0][1]):
        described = " and ".join(
            f"{part.rows[0][1]} to {part.rows[-1][1]} ({len(part.rows)} images)"
            if len(part.rows) > 1
            else part.rows[0][1]
            for part in ranked[:2]
        )
        more = f", and {len(ranked) - 2} more" if len(ranked) > 2 else ""
        raise DataError(
            f"The images of {folder} are several series: {described}{more}. Keep the frames alone there, or call them "
            "img_00001.jpg and so on."
        )
    return ranked[0]


def _refuse_strangers(frames: tuple[str, ...], rest: list[str], folder: Path) -> None:
    """Refuse frames that are fewer than the other images, unless these are of a kind that goes with frames."""
    strangers = [name for name in rest if _rank(name) != NO_FRAMES]
    if len(strangers) > len(frames):
        which = "1 image has" if len(frames) == 1 else f"{len(frames)} images have"
        raise DataError(
            f"Of the images of {folder}, only {which} numbers that tell an order ({examples(frames, ', ')}); "
            f"{len(strangers)} have not ({examples(strangers, ', ')}). Call the frames img_00001.jpg, img_00002.jpg and so on, "
            "and keep them alone there."
        )


def _rank(name: str) -> int:
    """Rank of the series that an image belongs to, by its name."""
    words = _WORD.findall(name.rpartition(".")[0].lower())
    if NOT_RGB & set(words) or (words and set(words) <= _DIRECTIONS):
        return NO_FRAMES
    return NAMED if set(words or [""]) <= _FRAME_WORDS else OTHER
