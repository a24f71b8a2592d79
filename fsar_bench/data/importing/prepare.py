"""From clips on a disk, in any layout, to an annotation: where each clip of a list is stored, and which are missing.

A clip is a video file of any extension or a folder of images (frames extracted beforehand), in class folders or flat by id. It
is identified by the stem of its file or the name of its folder; where several have the same, the one whose folder has the
class's name is taken.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fsar_bench.data.dataset import SPLITS, AnnotatedClass, AnnotatedClip
from fsar_bench.data.importing.classes import ClassTable, key, table
from fsar_bench.data.importing.layout import SEED, Division, wrong_layout
from fsar_bench.data.importing.lists import VIDEO_SUFFIXES, ListedVideo, known_names, stored_list, video_id
from fsar_bench.errors import ConfigError, DataError, suggest
from fsar_bench.io import IMAGE_SUFFIXES, user_path

BY_CLASS = ("hmdb51", "ucf101")  # every clip of a class belongs to it: no list is needed

Progress = Callable[[int], None]  # called with the number of clips found so far


@dataclass(frozen=True)
class ClipOnDisk:
    """A clip on the disk.

    Attributes:
        path: the video file or the folder of images.
        images: number of images; 0 for a video.
    """

    path: Path
    images: int


def index(root: Path, progress: Progress | None = None) -> dict[str, list[ClipOnDisk]]:
    """All clips below a folder, by stem, sorted by path.

    Args:
        root: the folder.
        progress: called with the number of clips found so far.

    Raises:
        DataError: the folder does not exist, cannot be read, or holds no clips.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Name the folder of your clips with --root.")
    clips: dict[str, list[ClipOnDisk]] = defaultdict(list)
    count, folders = 0, [root]
    while folders:
        folder = folders.pop()
        images = 0
        for entry in _entries(folder):
            if entry.is_dir():
                folders.append(Path(entry.path))
                continue
            if not entry.is_file():  # a pipe, a device, or a broken link
                continue
            stem, dot, suffix = entry.name.rpartition(".")
            suffix = f"{dot}{suffix.lower()}"
            if suffix in VIDEO_SUFFIXES:
                clips[stem].append(ClipOnDisk(Path(entry.path), 0))
                count += 1
            images += suffix in IMAGE_SUFFIXES
        if images:
            clips[folder.name].append(ClipOnDisk(folder, images))
            count += 1
        if progress:
            progress(count)
    if not clips:
        raise DataError(f"{root} holds neither video files nor folders of images.")
    return {stem: sorted(same_stem, key=lambda clip: str(clip.path)) for stem, same_stem in clips.items()}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}). Fix its permissions.") from error


@dataclass(frozen=True)
class ClassCoverage:
    """How many clips of a class are on this disk.

    Attributes:
        split: of the class.
        class_name: name of the class.
        available: clips on this disk.
        listed: clips of the list.
    """

    split: str
    class_name: str
    available: int
    listed: int

    @property
    def share(self) -> float:
        """Share of the listed clips that is on this disk."""
        return self.available / self.listed


@dataclass
class Prepared:
    """A dataset and where its clips are.

    Attributes:
        name: of the dataset.
        title: of the dataset.
        classes: of the annotation.
        clips: of the annotation; `path` is None for a missing clip.
        ambiguous: path that was taken for each clip of which there are several files.
        frames: whether the clips are folders of images.
        is_published: whether its list is that of a published dataset.
        division: how its classes were divided into splits at random; empty where they were not.
        passed_over: clips that are in no folder of a class of a split.
    """

    name: str
    title: str
    classes: list[AnnotatedClass]
    clips: list[AnnotatedClip] = field(default_factory=list)
    ambiguous: dict[str, str] = field(default_factory=dict)
    frames: bool = False
    is_published: bool = False
    division: dict[str, str | int] = field(default_factory=dict)
    passed_over: list[Path] = field(default_factory=list)

    def coverage(self) -> list[ClassCoverage]:
        """Available and listed clips of each class, in the order train, val, test."""
        split_of = {row.name: row.split for row in self.classes}
        available: dict[str, int] = {}
        listed: dict[str, int] = {}
        for clip in self.clips:
            available[clip.class_name] = available.get(clip.class_name, 0) + (clip.path is not None)
            listed[clip.class_name] = listed.get(clip.class_name, 0) + 1
        return [
            ClassCoverage(split, name, available[name], listed[name])
            for split in SPLITS
            for name in listed
            if split_of[name] == split
        ]

    @property
    def missing(self) -> list[AnnotatedClip]:
        """Clips that are not on this disk."""
        return [clip for clip in self.clips if clip.path is None]


def prepare(name: str, root: Path, progress: Progress | None = None) -> Prepared:
    """Find the clips of a known dataset.

    Args:
        name: of the dataset, with the lineage where there are several.
        root: folder of the clips.
        progress: called with the number of clips found so far.

    Raises:
        ConfigError: unknown dataset.
        DataError: a list is needed and was not imported, or the folder has no clips of the dataset.
    """
    known = table(name)
    rows = stored_list(name)
    if rows is None and known.dataset not in BY_CLASS:
        which = f"{known.dataset} --lists DIR" + (f" (for the list of {name})" if "@" in name else "")
        raise DataError(
            f"{known.title} has a published list, which does not ship: import it first with fsar-bench data import {which}."
        )
    clips_by_stem = index(root, progress)
    if rows is None:
        rows = _list_by_class(known, clips_by_stem)
    prepared = _match(name, known, rows, clips_by_stem)
    if len(prepared.missing) == len(prepared.clips):
        raise DataError(f"{root} has none of the {len(prepared.clips)} clips of {known.title}. Is it the right folder?")
    prepared.frames = _are_frames(
        prepared.clips, f"{root} has some clips as videos and some as folders of images. Name a folder with one kind."
    )
    return prepared


def _match(
    name: str, known: ClassTable, rows: dict[str, set[ListedVideo]], clips_by_stem: dict[str, list[ClipOnDisk]]
) -> Prepared:
    """Choose the clip on the disk for each listed video."""
    candidates: dict[str, list[ClipOnDisk]] = defaultdict(list)
    for stem, clips in clips_by_stem.items():
        candidates[video_id(known.dataset, stem)] += clips
    shared_ids = _ids_of_several_classes(rows)
    listed = {row.class_name for of_split in rows.values() for row in of_split}
    classes = [AnnotatedClass(name=c.name, text=c.text, split=c.split) for c in known.classes if c.name in listed]
    prepared = Prepared(name, known.title, classes, is_published=True)
    for split in SPLITS:
        for class_name, video in sorted(rows.get(split, ())):
            clip_id = f"{class_name}/{video}" if video in shared_ids else video
            choices = _choices(candidates.get(video, []), class_name)
            row = _annotated(clip_id, class_name, choices[0] if choices else None)
            if len(choices) > 1:
                prepared.ambiguous[clip_id] = str(row.path)
            prepared.clips.append(row)
    return prepared


def _annotated(clip_id: str, class_name: str, clip: ClipOnDisk | None) -> AnnotatedClip:
    """Row of an annotation; only the fields that are set are written."""
    if clip is None:
        return AnnotatedClip(id=clip_id, class_name=class_name, path=None)
    path = str(clip.path.resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f"The file name {path!a} is not UTF-8, so no list can hold it. Rename the file.") from None
    if not clip.images:
        return AnnotatedClip(id=clip_id, class_name=class_name, path=path)
    return AnnotatedClip(id=clip_id, class_name=class_name, path=path, frames=clip.images)


def _are_frames(clips: list[AnnotatedClip], message: str) -> bool:
    """Whether the clips on this disk are folders of images; `DataError` with this message if only some are."""
    kinds = {clip.frames is not None for clip in clips if clip.path is not None}
    if len(kinds) > 1:
        raise DataError(message)
    return kinds == {True}


def _list_by_class(known: ClassTable, clips_by_stem: dict[str, list[ClipOnDisk]]) -> dict[str, set[ListedVideo]]:
    """Every clip whose folder has the name of a class."""
    rows: dict[str, set[ListedVideo]] = defaultdict(set)
    for stem, clips in clips_by_stem.items():
        for clip in clips:
            class_name = known.find(clip.path.parent.name)
            if class_name:
                rows[class_name.split].add(ListedVideo(class_name.name, video_id(known.dataset, stem)))
    if not rows:
        names = ", ".join(c.name for c in known.classes[:3])
        raise DataError(f"No folder below --root has the name of a class of {known.title} ({names}, …).")
    return rows


def _choices(candidates: list[ClipOnDisk], class_name: str) -> list[ClipOnDisk]:
    """Clips in a folder with the name of the class; all candidates if there are none."""
    return [clip for clip in candidates if key(clip.path.parent.name) == key(class_name)] or candidates


def _ids_of_several_classes(rows: dict[str, set[ListedVideo]]) -> set[str]:
    classes: dict[str, set[str]] = defaultdict(set)
    for of_split in rows.values():
        for class_name, video in of_split:
            classes[video].add(class_name)
    return {video for video, names in classes.items() if len(names) > 1}


@dataclass(frozen=True)
class _CustomClip:
    """A clip of a custom dataset; an empty text stands for the class name."""

    split: str
    class_name: str
    clip: ClipOnDisk
    text: str = ""


@dataclass(frozen=True)
class _Found:
    """Clips of a custom dataset, and those that are in no folder of a class of a split."""

    clips: list[_CustomClip]
    passed_over: list[Path] = field(default_factory=list)


def prepare_custom(
    name: str, root: Path, progress: Progress | None = None, division: Division | None = None
) -> Prepared:
    """Find the clips of a custom dataset.

    Args:
        name: of the dataset.
        root: a folder with `split/class/clip`, or a CSV with the columns path, class, split and optionally text; where the
            classes are to be divided, a folder with `class/clip`, or a CSV without split.
        progress: called with the number of clips found so far.
        division: how many classes each split gets, at random.

    Raises:
        ConfigError: the classes are divided already, or the division is of another number of classes.
        DataError: the folder has none of the splits, a class is in two splits, or the CSV lacks a column.
    """
    found = _from_csv(root, division) if root.is_file() else _from_folders(root, division, progress)
    if division:
        found = _divided(found, division)
    clips = found.clips
    splits: dict[str, str] = {}
    texts: dict[str, str] = {}
    for clip in clips:
        if splits.setdefault(clip.class_name, clip.split) != clip.split:
            raise DataError(
                f"The class {clip.class_name!r} is in {splits[clip.class_name]} and in {clip.split}: splits share no class."
            )
        texts.setdefault(clip.class_name, clip.text or clip.class_name.replace("_", " "))
    classes = [AnnotatedClass(name=name, text=texts[name], split=splits[name]) for name in sorted(splits)]
    prepared = Prepared(name, name, classes, passed_over=found.passed_over)
    if division:
        prepared.division = {"classes": str(division), "seed": SEED}
    for clip in sorted(clips, key=lambda clip: (clip.split, clip.class_name, str(clip.clip.path))):
        path = clip.clip.path
        stem = path.name if clip.clip.images else path.stem
        prepared.clips.append(_annotated(f"{clip.class_name}/{stem}", clip.class_name, clip.clip))
    prepared.frames = _are_frames(
        prepared.clips, f"{root} has some clips as videos and some as folders of images. Keep to one kind."
    )
    return prepared


def _from_folders(root: Path, division: Division | None, progress: Progress | None) -> _Found:
    """Clips in `split/class/clip`, or in `class/clip` where the classes are to be divided."""
    clips = [clip for same_stem in index(root, progress).values() for clip in same_stem]
    places = [(clip, clip.path.relative_to(root).parts) for clip in clips]
    if division:
        if splits := sorted({parts[0] for _, parts in places} & set(SPLITS)):
            raise ConfigError(f"{root} has folders {', '.join(splits)}: its classes are divided. Leave --classes out.")
        sorted_in = [_CustomClip("", parts[0], clip) for clip, parts in places if len(parts) >= 2]
    else:
        sorted_in = [
            _CustomClip(parts[0], parts[1], clip) for clip, parts in places if len(parts) >= 3 and parts[0] in SPLITS
        ]
    if not sorted_in:
        raise wrong_layout(root, [parts for _, parts in places])
    used = {clip.clip.path for clip in sorted_in}
    return _Found(sorted_in, [clip.path for clip in clips if clip.path not in used])


def _from_csv(path: Path, division: Division | None) -> _Found:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The CSV {path} cannot be read ({error}). It must be UTF-8 text.") from error
    columns = set(rows[0] if rows else ())
    if division and "split" in columns:
        raise ConfigError(f"The CSV {path} has the column split: its classes are divided. Leave --classes out.")
    lacking = {"path", "class"} | (set() if division else {"split"})
    if lacking := lacking - columns:
        advice = " Or let the classes be divided with --classes TRAIN/VAL/TEST." if lacking == {"split"} else ""
        raise DataError(f"The CSV {path} lacks the column {sorted(lacking)[0]!r} (or has no rows).{advice}")
    return _Found([_from_row(path, number, row, is_divided=not division) for number, row in enumerate(rows, 2)])


def _from_row(path: Path, number: int, row: dict[str, str | None], *, is_divided: bool) -> _CustomClip:
    """The clip of one row of a CSV, whose paths are relative to the CSV."""
    split = row.get("split") or ""
    if is_divided and split not in SPLITS:
        raise DataError(f"{path}, line {number}: unknown split {split!r}.{suggest(split, SPLITS)}")
    place = path.parent / user_path(row["path"] or "")
    if not place.exists():
        raise DataError(f"{path}, line {number}: {place} does not exist.")
    images = sum(entry.suffix.lower() in IMAGE_SUFFIXES for entry in place.iterdir()) if place.is_dir() else 0
    return _CustomClip(split, row["class"] or "", ClipOnDisk(place, images), row.get("text") or "")


def _divided(found: _Found, division: Division) -> _Found:
    """The same clips, each class in the split that the division gives it."""
    splits = division.divide({clip.class_name for clip in found.clips})
    return dataclasses.replace(
        found, clips=[dataclasses.replace(clip, split=splits[clip.class_name]) for clip in found.clips]
    )


def check_name(name: str) -> None:
    """Raise `ConfigError` unless the name is one of `known_names`."""
    if name not in known_names():
        raise ConfigError(
            f"Unknown dataset {name!r}.{suggest(name, known_names())} For your own clips, say fsar-bench data prepare --name "
            f"{name} --root DIR."
        )
