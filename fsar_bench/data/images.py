"""Clips that are folders of images, one per frame: which of its files are the frames, and in which order."""

from __future__ import annotations

import re
from pathlib import Path

from fsar_bench.io import IMAGE_SUFFIXES


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder, in the order of the numbers in their names.

    Raises:
        OSError: the folder cannot be read.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(files, key=lambda file: ([int(number) for number in re.findall(r"\d+", file.stem)], file.name))
