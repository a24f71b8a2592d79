"""A dataset whose classes are played forwards and backwards: `python -m tools.two_directions ANNOTATION FOLDER`.

For the direction test of docs/evidence.md: one half of the clips of each class stays as it is, the other half makes a class of
its own, "NAME, backwards", with the frames in the opposite order. No clip is in both, so a query never meets its own mirror
image. The halves are drawn at random: neighbours in a list often share people and places, and taking every other clip would
part them, which favours the rival. Kept are the frames that an evaluation reads (segment midpoints), as images: both directions
show the same moments. Writes FOLDER/annotation.json, FOLDER/clips/ and a config FOLDER/NAME.py, NAME being the folder's own name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fsar_bench.data.dataset import Annotation, Dataset
from fsar_bench.data.readers import ImageReader, VideoReader
from fsar_bench.data.sampling import midpoints
from fsar_bench.errors import ConfigError, FsarBenchError
from fsar_bench.randomness import generator

FRAMES = 8  # of the standard protocol
SIDE = 256  # short side in pixels, which encoders of 224 pixels read
QUALITY = 95  # of JPEG


def main(arguments: list[str] | None = None) -> int:
    """Write the dataset; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.two_directions", description=__doc__.split("\n")[0])
    parser.add_argument("annotation", type=Path, help="annotation of the clips, see docs/data.md")
    parser.add_argument(
        "folder", type=Path, help="folder to write, which must not exist; its name is that of the dataset"
    )
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of a clip, as frames= of the runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the halves")
    given = parser.parse_args(arguments)
    try:
        print(write(given.annotation, given.folder, given.frames, given.seed))
    except FsarBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write(annotation: Path, folder: Path, frames: int = FRAMES, seed: int = 0) -> Path:
    """Write the dataset.

    Args:
        annotation: of the clips.
        folder: to write.
        frames: of a clip.
        seed: of the halves.

    Returns:
        The config.

    Raises:
        ConfigError: the folder exists, or the annotation has classes with a reverse, or of such a name, already.
        DataError: the annotation is damaged.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already. Name another folder, or delete it.")
    Dataset(folder.name, str(annotation))  # finds what is wrong with it
    listed = Annotation.model_validate_json(annotation.read_text(encoding="utf-8"))
    clips, classes, of_class = [], [], defaultdict(int)
    for row in listed.classes:
        if row.reverse_of is not None:
            raise ConfigError(f"{annotation}: {row.name!r} has a reverse already. Name clips that have one direction.")
        if backwards(row.name) in {other.name for other in listed.classes}:
            raise ConfigError(f"{annotation}: there is a class {backwards(row.name)!r} already. Rename it.")
        shared: dict[str, Any] = {"split": row.split, "group": row.group}
        classes.append({"name": row.name, "text": row.text, "reverse_of": backwards(row.name), **shared})
        classes.append({"name": backwards(row.name), "text": backwards(row.text), "reverse_of": row.name, **shared})
    number = {row["name"]: place for place, row in enumerate(classes)}
    kept = [row for row in listed.clips if row.path is not None]
    reversed_ids = _second_halves({row.id: row.class_name for row in kept}, seed)
    for row in kept:
        is_backwards = row.id in reversed_ids
        of_class[row.class_name] += 1
        name = backwards(row.class_name) if is_backwards else row.class_name
        place = Path("clips", str(number[name]), str(of_class[row.class_name]))
        _save(_frames(annotation.parent / row.path, frames), folder / place, is_backwards=is_backwards)
        clip = {"id": row.id, "class": name, "path": str(place), "recording": row.recording}
        clips.append({key: value for key, value in clip.items() if value is not None})
    table = {"kind": "frames", "classes": classes, "clips": clips}
    (folder / "annotation.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    config = folder / f"{folder.name}.py"
    lines = [
        f'"""Clips of {annotation.name} forwards and backwards; written by tools/two_directions.py."""',
        "",
        f'title = "{folder.name}"',
        f'dataset = dict(name="{folder.name}", annotation="annotation.json")',
        'backbone = "vit_b_16"',
        "controls = []",
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def backwards(name: str) -> str:
    """Name or text of the class that is played backwards."""
    return f"{name}, backwards"


def _second_halves(class_of: dict[str, str], seed: int) -> set[str]:
    """Ids of the clips that play backwards: half of each class, rounded down, whatever the order of the list."""
    dice = generator(seed, "halves of the direction test")
    ids_of = defaultdict(list)
    for clip in dice.permutation(sorted(class_of)):
        ids_of[class_of[clip]].append(str(clip))
    return {clip for ids in ids_of.values() for clip in ids[: len(ids) // 2]}


def _frames(clip: Path, count: int) -> np.ndarray:
    """Frames at segment midpoints of a video or of a folder of images, RGB uint8 `[T, H, W, 3]`."""
    reader = ImageReader() if clip.is_dir() else VideoReader()
    opened = reader.open(str(clip))
    return reader.read(opened, midpoints(opened["total_frames"], count), resize=SIDE, crop=None)


def _save(frames: np.ndarray, folder: Path, *, is_backwards: bool) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames[::-1] if is_backwards else frames, 1):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    sys.exit(main())
