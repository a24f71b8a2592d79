"""The folder of a prepared dataset: its annotation, never replaced in silence, and lists for other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fsar_bench.data.dataset import SPLITS, Annotation
from fsar_bench.data.importing.lists import CUSTOM, known_names
from fsar_bench.data.importing.prepare import Prepared
from fsar_bench.errors import ConfigError, DataError
from fsar_bench.io import DATASET_FILE, data_folder, load_json, read_bytes, replacing_all, to_json, write_atomically

HINT = "$FSAR_BENCH_DATA"  # names another folder for prepared datasets
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")

State = Literal["new", "unchanged", "described", "updated", "replaced"]


def check_own_name(name: str, taken: Iterable[str]) -> None:
    """Raise `ConfigError` unless a user may call a dataset so.

    Args:
        name: the name.
        taken: names that mean something else, such as those of built-in datasets; "custom" is free.
    """
    if not _NAME.fullmatch(name) or name.endswith(".py") or len(name) > 100:
        raise ConfigError(
            f"--name={name!r} cannot name a dataset: letters, digits and _ . @ - are allowed, up to 100 of them, the first a "
            "letter or digit, and not the ending .py."
        )
    if name != CUSTOM and name in {*taken, *known_names()}:
        raise ConfigError(f"--name={name} is the name of a dataset that fsar-bench knows. Choose another name.")


@dataclass(frozen=True)
class Storage:
    """Where a dataset is stored.

    Attributes:
        path: of the annotation.
        state: whether it was stored before, and what became of that.
    """

    path: Path
    state: State


def store(prepared: Prepared, *, replace: bool = False) -> Storage:
    """Write the annotation, the ids of missing clips, and lists in mmaction2's format.

    Args:
        prepared: the dataset.
        replace: replace other clips that are stored under this name.

    Raises:
        ConfigError: other clips are stored under this name, and are not to be replaced.
        ResultError: the folder cannot be written.
    """
    path = data_folder() / prepared.name / "annotation.json"
    data = to_json(_annotation(prepared))
    state: State = "new"
    if os.path.lexists(path):
        state = "unchanged" if _has(path, data) else _state(path, prepared, replace=replace)
    missing = "".join(f"{clip.class_name}\t{clip.id}\n" for clip in prepared.missing)
    with replacing_all(hint=HINT) as batch:
        if state == "replaced":
            batch.delete(path.with_name("quarantine.json"))  # it names clips of the former dataset
        batch.write(path.with_name("missing.txt"), missing.encode())
        for split in SPLITS:
            lines = "".join(_mmaction2_lines(prepared, split))
            batch.write(path.with_name(f"mmaction2_{split}.txt"), lines.encode())
        if state != "unchanged":
            batch.write(path, data)
    return Storage(path, state)


def _has(path: Path, data: bytes) -> bool:
    """Whether a file has this content."""
    try:
        return read_bytes(path) == data
    except OSError:
        return False


def _annotation(prepared: Prepared) -> dict:
    data = {
        "kind": "frames" if prepared.frames else "videos",
        "classes": [row.model_dump(exclude_unset=True) for row in prepared.classes],
        "clips": [clip.model_dump(by_alias=True, exclude_unset=True) for clip in prepared.clips],
    }
    more = {"division": prepared.division, "unlisted": prepared.unlisted}
    return data | {key: value for key, value in more.items() if value}


def _state(path: Path, prepared: Prepared, *, replace: bool) -> State:
    """What becomes of another annotation under the same name; raises `ConfigError` where it must not be lost."""
    try:
        annotation = load_json(path, Annotation, f"The annotation {path}", "", DataError)
    except DataError:
        return "replaced"  # a damaged file is of no use
    stored = annotation.clips
    if _same_clips(annotation, prepared):
        return "described"
    if prepared.is_published:
        places = {(clip.class_name, clip.id): clip.path for clip in prepared.clips}
        kept = [clip for clip in stored if clip.path is not None and os.path.exists(clip.path)]
        if all(places.get((clip.class_name, clip.id)) == clip.path for clip in kept):
            return "updated"  # the same list: some clips came, or went
    if replace:
        return "replaced"
    paths = [clip.path for clip in stored if clip.path is not None]
    gone = sum(not os.path.exists(clip) for clip in paths)
    raise ConfigError(
        f"The dataset {prepared.name} is stored already, with other clips: {len(paths)} clips of "
        f"{len({clip.class_name for clip in stored})} classes below {_common_folder(paths)}"
        + (f", {gone} of which are no longer there" if gone else "")
        + f" ({path}). Replace it with --replace, or choose another --name."
    )


def _same_clips(annotation: Annotation, prepared: Prepared) -> bool:
    """Whether an annotation has the same classes and clips in the same places, and differs in what else it says of them."""
    places = [(clip.class_name, clip.id, clip.path) for clip in annotation.clips]
    return annotation.classes == prepared.classes and places == [
        (clip.class_name, clip.id, clip.path) for clip in prepared.clips
    ]


def _common_folder(paths: list[str]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # none, or on several drives
        return "(several places)"


def write_config(name: str, defaults: dict[str, object]) -> Path:
    """Write the config of a dataset of the user's name, unless there is one, which may be edited.

    Args:
        name: of the dataset.
        defaults: values beside those that follow from the name, such as its backbone.

    Raises:
        ResultError: the folder cannot be written.
    """
    path = data_folder() / name / DATASET_FILE
    values = {"title": name, "dataset": {"name": name, "annotation": f"prepared:{name}"}, **defaults}
    lines = [f"{key} = {value!r}\n" for key, value in values.items()]
    note = "Written by fsar-bench data prepare. Edit it as you like: it is not written again."
    text = f'"""{name}: a dataset of your own.\n\n{note}\n"""\n\n' + "".join(lines)
    if not os.path.lexists(path):
        write_atomically(path, text.encode(), hint=HINT)
    return path


def _mmaction2_lines(prepared: Prepared, split: str) -> Iterable[str]:
    """One line per clip on this disk: path, number of frames for folders of images, split-local class number."""
    names = sorted(row.name for row in prepared.classes if row.split == split)
    number = {name: i for i, name in enumerate(names)}
    for clip in prepared.clips:
        if clip.path and clip.class_name in number:
            frames = f"{clip.frames} " if prepared.frames else ""
            yield f"{clip.path} {frames}{number[clip.class_name]}\n"
