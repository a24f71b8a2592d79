"""Clips of the user's own, from folders or a CSV: names of classes, ids, and what must not be there twice."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fsar_bench.data.dataset import SPLITS
from fsar_bench.data.disk import clip_identity, is_hidden
from fsar_bench.data.faults import spelling
from fsar_bench.data.importing.layout import Division, looks_like_splits, wrong_layout
from fsar_bench.data.importing.walk import (
    COPIES,
    EMPTY_CLASSES,
    LINKED_TWICE,
    ClipOnDisk,
    Found,
    PassedOver,
    Progress,
    find_clips,
)
from fsar_bench.errors import ConfigError, DataError
from fsar_bench.texts.characters import JOINERS, name_fault, shortened

SHOWN = 10  # faults that an error lists


@dataclass(frozen=True)
class CustomClip:
    """A clip of a custom dataset.

    Attributes:
        split: train, val or test; empty where the classes are to be divided.
        class_name: of its class, without needless blanks.
        clip: where it is.
        where: what an error calls it, such as its path or the line of a CSV.
        place: its path below the class, or as the CSV has it, in parts and without extension.
        text: what text encoders read of its class; empty stands for the class name.
        recording: its source recording, where a CSV tells it.
    """

    split: str
    class_name: str
    clip: ClipOnDisk
    where: str
    place: tuple[str, ...]
    text: str = ""
    recording: str | None = None


@dataclass(frozen=True)
class CustomClips:
    """Clips of a custom dataset, and what is no part of it.

    Attributes:
        clips: of all classes.
        outside: clips that are in no folder of a class of a split.
        passed_over: what else lies there.
    """

    clips: list[CustomClip]
    outside: list[Path] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)


def plain_name(text: str) -> str:
    """A class name without needless blanks, and in the usual form of Unicode (NFC)."""
    return re.sub(r"[ \t\xa0]+", " ", unicodedata.normalize("NFC", text).strip())


def fault_of_name(name: str) -> str:
    """What is wrong with a class name that `plain_name` gave, or ""."""
    if not name:
        return "the class is empty"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") for letter in name):
        return f"the class {name!a} has a line break, a control character or a byte that is no UTF-8 in it"
    fault = name_fault(name)
    return f"the class {shortened(name)!a} {fault}" if fault else ""


def fault_of_text(what: str, text: str) -> str:
    """What is wrong with the text of a class or the name of a recording, or ""."""
    fault = name_fault(text, allowed=JOINERS)
    return f"the {what} {shortened(text)!a} {fault}" if fault else ""


def fault_of_path(path: str) -> str:
    """Why no list can hold the path of a clip, or ""."""
    kinds = {unicodedata.category(letter) for letter in path}
    if "Cs" in kinds:
        return f"The file name {path!a} is not UTF-8, so no list can hold it. Rename the file"
    if kinds & {"Cc", "Zl", "Zp"}:
        return f"The path {path!a} has a line break or control character in it, so no list can hold it. Rename the file or folder"
    return ""


def refuse(title: str, faults: list[str], fix: str = "") -> None:
    """Raise one `DataError` that lists the first of several faults and counts the others."""
    if not faults:
        return
    fix = f" {fix}" if fix else ""
    if len(faults) == 1:
        joint = ", " if faults[0].startswith("line ") else ": "
        raise DataError(f"{title}{joint}{faults[0].removesuffix('.')}.{fix}")
    shown = "\n".join(f"  {fault}" for fault in faults[:SHOWN])
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    raise DataError(f"{title}: {len(faults)} faults.{fix}\n{shown}{more}")


def from_folders(root: Path, division: Division | None, progress: Progress | None) -> CustomClips:
    """Clips in `split/class/clip`, or in `class/clip` where the classes are to be divided.

    Raises:
        ConfigError: the classes are divided already.
        DataError: the folder has none of the splits, or a class or clip cannot be read or is there twice.
    """
    depth = 2 if division else 3
    found = find_clips(root, depth=depth, progress=progress)
    places = [clip.place for clip in found.clips]
    if division and (splits := sorted({parts[0] for parts in places} & set(SPLITS))):
        raise ConfigError(f"{root} has folders {', '.join(splits)}: its classes are divided. Leave --classes out.")
    inside = [clip for clip in found.clips if len(clip.place) >= depth and (division or clip.place[0] in SPLITS)]
    if not inside or (not division and looks_like_splits({parts[0] for parts in places if len(parts) >= depth})):
        raise wrong_layout(root, places)
    clips = []
    for clip in inside:
        split = "" if division else clip.place[0]
        path = str(clip.path.relative_to(found.root))
        clips.append(CustomClip(split, plain_name(clip.place[depth - 2]), clip, path, clip.place[depth - 1 :]))
    faults = [f"{clip.where}: {fault}" for clip in _one_per_class(clips) if (fault := fault_of_name(clip.class_name))]
    refuse(str(root), faults, "Rename these folders.")
    _count_empty_classes(found, depth, {clip.clip.place[: depth - 1] for clip in clips})
    kept = _without_links(_without_copies(clips, found.passed_over), found.passed_over)
    refuse(str(root), [clip.clip.fault for clip in kept if clip.clip.fault])
    used = {clip.path for clip in inside}
    return CustomClips(kept, [clip.path for clip in found.clips if clip.path not in used], found.passed_over)


def check(title: str, clips: list[CustomClip]) -> None:
    """Refuse paths that no list can hold, classes that differ in their spelling alone, and clips that are there twice.

    Args:
        title: the folder or CSV.
        clips: of all classes.

    Raises:
        DataError: names all of them.
    """
    refuse(title, [fault for clip in clips if (fault := fault_of_path(str(clip.clip.path)))])
    refuse(title, _twins(clips), "Give each class one name.")
    refuse(title, _in_two_splits(clips))
    refuse(title, _twice(clips), "Keep one of each.")


def ids(clips: list[CustomClip]) -> list[str]:
    """The id of each clip: its class and name; where several of a class have the name, its place tells them apart."""
    count: dict[tuple[str, str], int] = defaultdict(int)
    for clip in clips:
        count[clip.class_name, clip.place[-1]] += 1
    return [
        f"{clip.class_name}/{clip.place[-1] if count[clip.class_name, clip.place[-1]] == 1 else '/'.join(clip.place)}"
        for clip in clips
    ]


def _one_per_class(clips: Iterable[CustomClip]) -> list[CustomClip]:
    return list({(clip.split, clip.class_name): clip for clip in clips}.values())


def _twins(clips: list[CustomClip]) -> list[str]:
    """Classes whose names differ in spelling alone."""
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for clip in clips:
        spellings[spelling(clip.class_name)].setdefault(clip.class_name, clip.where)
    return [
        "the classes " + " and ".join(f"{name!r} ({where})" for name, where in sorted(names.items()))
        + " differ in case, blanks or punctuation alone"
        for names in spellings.values()
        if len(names) > 1
    ]  # fmt: skip


def _in_two_splits(clips: list[CustomClip]) -> list[str]:
    """Classes that are in two splits."""
    first: dict[str, CustomClip] = {}
    faults: dict[str, str] = {}
    for clip in clips:
        other = first.setdefault(clip.class_name, clip)
        if other.split != clip.split:
            faults.setdefault(
                clip.class_name,
                f"the class {clip.class_name!r} is in {other.split} ({other.where}) and in {clip.split} ({clip.where}): splits "
                "share no class",
            )
    return list(faults.values())


def _identities(clips: list[CustomClip]) -> list[tuple[object, ...]]:
    """What tells the clips apart: as folders list them, where that suffices, or each file's own state."""
    cheap = [clip.clip.inode for clip in clips]
    if len(set(cheap)) == len(clips) and not any(clip.clip.is_link for clip in clips):
        return list(cheap)
    return [clip_identity(clip.clip.path) for clip in clips]


def _twice(clips: list[CustomClip]) -> list[str]:
    """Clips that are the same file, or the same clip in two formats."""
    files: dict[tuple[object, ...], CustomClip] = {}
    places: dict[tuple[str, tuple[str, ...]], CustomClip] = {}
    faults = []
    for clip, own in zip(clips, _identities(clips), strict=True):
        same_file = files.setdefault(own, clip)
        same_place = places.setdefault((clip.class_name, clip.place), clip)
        if same_file is not clip:
            classes = sorted({same_file.class_name, clip.class_name})
            which = (
                f"in the class {classes[0]!r}"
                if len(classes) == 1
                else f"in the classes {' and '.join(map(repr, classes))}"
            )
            faults.append(f"{clip.where}: the clip is the same file as {same_file.where}, {which}")
        elif same_place is not clip:
            faults.append(
                f"{clip.where}: the class {clip.class_name!r} has a clip of this name in another format, {same_place.where}"
            )
    return faults


def _count_empty_classes(found: Found, depth: int, classes: set[tuple[str, ...]]) -> None:
    """Count folders of classes in which there is no clip."""
    tops = [found.root] if depth == 2 else [found.root / split for split in SPLITS if (found.root / split).is_dir()]
    for folder in sorted(path for top in tops for path in top.iterdir()):
        if folder.is_dir() and not is_hidden(folder.name) and folder.relative_to(found.root).parts not in classes:
            found.passed_over.add(EMPTY_CLASSES, folder)


def _without_copies(clips: list[CustomClip], passed_over: PassedOver) -> list[CustomClip]:
    """Without extracted frames of clips that are there as well, such as rgb/take1/ next to take1.mp4."""
    best: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for clip in clips:
        key = clip.split, clip.class_name, clip.place
        best[key] = min(clip.clip.modality, best.get(key, clip.clip.modality))
    kept = []
    for clip in clips:
        if clip.clip.modality > best[clip.split, clip.class_name, clip.place]:
            passed_over.add(COPIES, clip.clip.path)
        else:
            kept.append(clip)
    return kept


def _without_links(clips: list[CustomClip], passed_over: PassedOver) -> list[CustomClip]:
    """Each file once per class: the real one rather than a link to it; files in two classes stay, to be refused."""
    by_file: dict[tuple[object, ...], list[CustomClip]] = defaultdict(list)
    for clip, own in zip(clips, _identities(clips), strict=True):
        by_file[clip.split, clip.class_name, own].append(clip)
    kept = []
    for same in by_file.values():
        first, *others = sorted(same, key=lambda clip: clip.clip.is_link)
        kept.append(first)
        for other in others:
            passed_over.add(LINKED_TWICE, other.clip.path)
    return kept


def divided(clips: list[CustomClip], division: Division) -> list[CustomClip]:
    """The same clips, each class in the split that the division gives it."""
    splits = division.divide({clip.class_name for clip in clips})
    return [replace(clip, split=splits[clip.class_name]) for clip in clips]
