"""From clips on a disk, in any layout, to an annotation: where each clip of a list is stored, and which are missing.

A clip is a video file of any extension or a folder of images (frames extracted beforehand), in class folders or flat by id. It
is identified by the stem of its file or the name of its folder; where several have the same, the one whose folder has the
class's name is taken.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsar_bench.data.dataset import SPLITS, AnnotatedClass, AnnotatedClip
from fsar_bench.data.disk import clip_identity
from fsar_bench.data.faults import spelling
from fsar_bench.data.importing.audit import recording_of
from fsar_bench.data.importing.classes import ClassTable, table
from fsar_bench.data.importing.csv_file import from_csv
from fsar_bench.data.importing.custom import check, divided, fault_of_path, from_folders, ids, refuse
from fsar_bench.data.importing.layout import SEED, Division
from fsar_bench.data.importing.lists import (
    ListedVideo,
    known_names,
    published_hashes,
    short_hashes,
    stored_list,
    video_id,
)
from fsar_bench.data.importing.walk import ClipOnDisk, PassedOver, Progress, find_clips
from fsar_bench.errors import ConfigError, DataError, shown, suggest

BY_CLASS = ("hmdb51", "ucf101")  # every clip of a class belongs to it: no list is needed


@dataclass(frozen=True)
class ClassCoverage:
    """How many clips of a class are on this disk.

    Attributes:
        split: of the class.
        class_name: name of the class.
        available: clips on this disk.
        listed: clips of the list; where it is not at hand, of the published one.
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
        outside: clips that are in no folder of a class of a split.
        passed_over: what else lies there and is no clip.
        published: coverage of the published list by class, where that is not at hand but its counts are known.
        surplus: class and name of clips that the published list does not have.
        gapped: number of clips whose frames have gaps in their numbers.
    """

    name: str
    title: str
    classes: list[AnnotatedClass]
    clips: list[AnnotatedClip] = field(default_factory=list)
    ambiguous: dict[str, str] = field(default_factory=dict)
    frames: bool = False
    is_published: bool = False
    division: dict[str, str | int] = field(default_factory=dict)
    outside: list[Path] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    published: list[ClassCoverage] = field(default_factory=list)
    surplus: list[ListedVideo] = field(default_factory=list)
    gapped: int = 0

    def coverage(self) -> list[ClassCoverage]:
        """Available and listed clips of each class, in the order train, val, test."""
        if self.published:
            return self.published
        split_of = {row.name: row.split for row in self.classes}
        available = Counter(clip.class_name for clip in self.clips if clip.path is not None)
        listed = Counter(clip.class_name for clip in self.clips)
        return [
            ClassCoverage(split, name, available[name], listed[name])
            for split in SPLITS
            for name in listed
            if split_of[name] == split
        ]

    @property
    def unlisted(self) -> dict[str, int]:
        """Number of clips of each split that the published list has and `clips` has not; only splits with such."""
        lacking: Counter[str] = Counter()
        for row in self.published:
            lacking[row.split] += row.listed - row.available
        return {split: count for split, count in lacking.items() if count}

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
    if unknown := {row.class_name for of_split in (rows or {}).values() for row in of_split} - {
        c.name for c in known.classes
    }:
        raise DataError(
            f"The stored list of {name} is damaged (it has the class {shown(min(unknown))}, which is none of {known.title}). Run "
            f"fsar-bench data import {known.dataset} again."
        )
    found = find_clips(root, progress=progress)
    has_list = rows is not None
    if rows is None:
        rows, outside = _list_by_class(known, found.clips)
    else:
        outside = []
    prepared = _match(name, known, rows, found.clips)
    prepared.outside, prepared.passed_over = outside, found.passed_over
    if len(prepared.missing) == len(prepared.clips):
        raise DataError(f"{root} has none of the {len(prepared.clips)} clips of {known.title}. Is it the right folder?")
    if not has_list:
        _compare_with_published(prepared, known, rows)
    prepared.frames = _are_frames(
        prepared.clips, f"{root} has some clips as videos and some as folders of images. Name a folder with one kind."
    )
    return prepared


def _match(name: str, known: ClassTable, rows: dict[str, set[ListedVideo]], clips: list[ClipOnDisk]) -> Prepared:
    """Choose the clip on the disk for each listed video."""
    candidates: dict[str, list[ClipOnDisk]] = defaultdict(list)
    for clip in clips:
        candidates[video_id(known.dataset, clip.name)].append(clip)
    shared_ids = _ids_of_several_classes(rows)
    listed = {row.class_name for of_split in rows.values() for row in of_split}
    classes = [AnnotatedClass(name=c.name, text=c.text, split=c.split) for c in known.classes if c.name in listed]
    prepared = Prepared(name, known.title, classes, is_published=True)
    recordings = _recordings(known.dataset, rows)
    faults: list[str] = []
    for split in SPLITS:
        for class_name, video in sorted(rows.get(split, ())):
            clip_id = f"{class_name}/{video}" if video in shared_ids else video
            choices = _choices(candidates.get(video, []), class_name)
            recording = recordings.get(ListedVideo(class_name, video))
            if choices and (fault := fault_of_path(str(choices[0].path))):
                faults.append(fault)
                continue
            row = _annotated(clip_id, class_name, choices[0] if choices else None, recording)
            if choices:
                faults += filter(None, [choices[0].fault])
                prepared.gapped += choices[0].gaps
            if len(choices) > 1 and len({clip_identity(clip.path) for clip in choices}) > 1:
                prepared.ambiguous[clip_id] = str(row.path)
            prepared.clips.append(row)
    refuse(known.title, faults)
    return prepared


def _recordings(dataset: str, rows: dict[str, set[ListedVideo]]) -> dict[ListedVideo, str]:
    """The source recording of every clip of a published dataset, as the names tell it; empty unless they tell it of all."""
    told = {row: recording_of(dataset, row.class_name, row.video) for of_split in rows.values() for row in of_split}
    known = {row: recording for row, recording in told.items() if recording is not None}
    return known if len(known) == len(told) else {}


def _annotated(clip_id: str, class_name: str, clip: ClipOnDisk | None, recording: str | None = None) -> AnnotatedClip:
    """Row of an annotation; only the fields that are set are written."""
    known: dict[str, Any] = {} if recording is None else {"recording": recording}
    if clip is None:
        return AnnotatedClip(id=clip_id, class_name=class_name, path=None, **known)
    path = str(clip.path)
    if not clip.images:
        return AnnotatedClip(id=clip_id, class_name=class_name, path=path, **known)
    return AnnotatedClip(id=clip_id, class_name=class_name, path=path, frames=clip.images, **known)


def _are_frames(clips: list[AnnotatedClip], message: str) -> bool:
    """Whether the clips on this disk are folders of images; `DataError` with this message if only some are."""
    kinds = {clip.frames is not None for clip in clips if clip.path is not None}
    if len(kinds) > 1:
        first = [
            next(c.path for c in clips if c.path is not None and (c.frames is not None) == kind)
            for kind in (False, True)
        ]
        raise DataError(f"{message} A video is {first[0]}, a folder of images {first[1]}.")
    return kinds == {True}


def _list_by_class(known: ClassTable, clips: list[ClipOnDisk]) -> tuple[dict[str, set[ListedVideo]], list[Path]]:
    """Every clip whose folder has the name of a class, and the paths of the others."""
    rows: dict[str, set[ListedVideo]] = defaultdict(set)
    outside = []
    for clip in clips:
        class_name = known.find(clip.place[-2]) if len(clip.place) > 1 else None
        if class_name:
            rows[class_name.split].add(ListedVideo(class_name.name, video_id(known.dataset, clip.name)))
        else:
            outside.append(clip.path)
    if not rows:
        names = ", ".join(c.name for c in known.classes[:3])
        raise DataError(f"No folder below --root has the name of a class of {known.title} ({names}, …).")
    return rows, outside


def _compare_with_published(prepared: Prepared, known: ClassTable, rows: dict[str, set[ListedVideo]]) -> None:
    """Count the clips of each class against the published list, which ships as counts and hashes alone.

    A class none of whose clips has a name of the list was renamed: its clips are counted, whatever they are called.
    """
    by_class: dict[str, list[ListedVideo]] = defaultdict(list)
    for row in sorted(row for of_split in rows.values() for row in of_split):
        by_class[row.class_name].append(row)
    for published in known.classes:
        if published.clips is None:
            continue
        clips = by_class.get(published.name, [])
        is_listed = np.isin([short_hashes({row})[0] for row in clips], published_hashes(known.dataset, published.split))
        listed = int(is_listed.sum()) or min(len(clips), published.clips)
        prepared.published.append(ClassCoverage(published.split, published.name, listed, published.clips))
        prepared.surplus += [row for row, known_row in zip(clips, is_listed, strict=True) if not known_row]


def _choices(candidates: list[ClipOnDisk], class_name: str) -> list[ClipOnDisk]:
    """Clips in a folder with the name of the class; all candidates if there are none. Frames in folders such as rgb come last."""
    inside = [clip for clip in candidates if len(clip.place) > 1 and spelling(clip.place[-2]) == spelling(class_name)]
    return sorted(inside or candidates, key=lambda clip: clip.modality)


def _ids_of_several_classes(rows: dict[str, set[ListedVideo]]) -> set[str]:
    classes: dict[str, set[str]] = defaultdict(set)
    for of_split in rows.values():
        for class_name, video in of_split:
            classes[video].add(class_name)
    return {video for video, names in classes.items() if len(names) > 1}


def prepare_custom(
    name: str, root: Path, progress: Progress | None = None, division: Division | None = None
) -> Prepared:
    """Find the clips of a custom dataset.

    Args:
        name: of the dataset.
        root: a folder with `split/class/clip`, or a CSV with the columns path, class, split and optionally text and recording;
            where the classes are to be divided, a folder with `class/clip`, or a CSV without split.
        progress: called with the number of clips found so far.
        division: how many classes each split gets, at random.

    Raises:
        ConfigError: the classes are divided already, or the division is of another number of classes.
        DataError: the folder has none of the splits, the CSV lacks a column, or a class or clip cannot be used (see `custom`).
    """
    found = from_csv(root, division) if os.path.isfile(root) else from_folders(root, division, progress)
    check(str(root), found.clips)
    clips = divided(found.clips, division) if division else found.clips
    splits = {clip.class_name: clip.split for clip in clips}
    texts = {clip.class_name: clip.text for clip in clips if clip.text}
    classes = [
        AnnotatedClass(name=name, text=texts.get(name, name.replace("_", " ")), split=splits[name])
        for name in sorted(splits)
    ]
    prepared = Prepared(name, name, classes, outside=found.outside, passed_over=found.passed_over)
    prepared.gapped = sum(clip.clip.gaps for clip in clips)
    if division:
        prepared.division = {"classes": str(division), "seed": SEED}
    clips = sorted(clips, key=lambda clip: (clip.split, clip.class_name, str(clip.clip.path)))
    for clip_id, clip in zip(ids(clips), clips, strict=True):
        prepared.clips.append(_annotated(clip_id, clip.class_name, clip.clip, clip.recording))
    prepared.frames = _are_frames(
        prepared.clips, f"{root} has some clips as videos and some as folders of images. Keep to one kind."
    )
    return prepared


def check_name(name: str) -> None:
    """Raise `ConfigError` unless the name is one of `known_names`."""
    if name not in known_names():
        raise ConfigError(
            f"Unknown dataset {name!r}.{suggest(name, known_names())} For your own clips, say fsar-bench data prepare --name "
            f"{name} --root DIR."
        )
