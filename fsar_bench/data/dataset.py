"""Few-shot datasets: the clips of each class and split, where they are stored, and what text encoders read of their classes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fsar_bench.data.contents import contents_of
from fsar_bench.data.faults import annotation_faults, examples, twin_fault
from fsar_bench.errors import ConfigError, DataError, ProtocolError, shown, suggest
from fsar_bench.io import annotation_file, load_json, user_path
from fsar_bench.plan import ClipList
from fsar_bench.texts.characters import LONGEST, counted

BUILTIN = Path(__file__).with_name("builtin")
MISSING = Path("missing")  # path of a clip that is not on this disk
SPLITS = ("train", "val", "test")
ClassText = Annotated[str, Field(max_length=LONGEST)]
Longer = Annotated[str, Field(max_length=5000)]  # ids and paths
Number = Annotated[int, Field(ge=0, le=10**9)]


class Stored(BaseModel):
    """Base of what is read from a dataset's files: nothing is taken for what it is not; further keys are ignored."""

    model_config = ConfigDict(strict=True, populate_by_name=True)


class AnnotatedClass(Stored):
    """One class of an annotation.

    Attributes:
        name: of the class.
        text: what text encoders read.
        split: train, val or test.
        group: a variant of a dataset keeps some groups.
        reverse_of: name of the class that shows the same in the opposite order of time.
    """

    name: str
    text: str
    split: str
    group: ClassText | None = None
    reverse_of: ClassText | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_text_and_split(cls, row: Any) -> Any:
        if isinstance(row, dict) and "name" in row:
            if not {"text", "split"} <= set(row):
                raise ValueError(f"the class {shown(row['name'])} lacks its text or split.")
            split = row["split"]
            if isinstance(split, str) and split not in SPLITS:
                raise ValueError(
                    f"the class {shown(row['name'])} has the split {shown(split)}.{suggest(split, SPLITS)}"
                )
        return row


class AnnotatedClip(Stored):
    """One clip of an annotation.

    Attributes:
        id: unique within its class.
        class_name: name of its class (`class` in the file).
        path: of the file or folder, relative to the annotation; None for a clip that is not on this disk.
        sha256: of the file, where it is recorded.
        frames: number of images of a clip that is a folder of images, where it is recorded.
        recording: name of the source recording that the clip was cut from, where it is known: of all clips, or of none. Clips of
            several classes may share one.
    """

    id: Longer
    class_name: str = Field(validation_alias="class", serialization_alias="class")
    path: Longer | None
    sha256: Longer | None = None
    frames: Number | None = None
    recording: Longer | None = None


class Annotation(Stored):
    """Contents of an annotation file.

    Attributes:
        kind: "frames" where clips are folders of images, else "videos" or nothing.
        classes: of all splits.
        clips: of all classes.
        unlisted: number of clips of each split that the published list has and `clips` has not.
    """

    kind: Literal["videos", "frames"] | None = None
    classes: list[AnnotatedClass]
    clips: list[AnnotatedClip]
    unlisted: dict[Literal["train", "val", "test"], Number] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_sound(self) -> Annotation:
        fault = next(annotation_faults(self.classes, self.clips), None)
        if fault:
            raise ValueError(fault)
        return self


class _QuarantinedClip(Stored):
    """A clip that does not decode."""

    id: Longer
    class_name: str = Field(alias="class")


class _Quarantine(Stored):
    """Bad clips of a prepared dataset, and whether the user accepted to leave them out."""

    accepted: bool
    clips: list[_QuarantinedClip]


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        id: of the clip.
        class_name: name of its class.
        path: its file, or its folder of images.
        sha256: SHA-256 of the file where the annotation records it.
        recording: name of its source recording where the annotation records it; for a built-in clip, which is a rendering of its
            own, its id.
    """

    id: str
    class_name: str
    path: Path
    sha256: str | None = None
    recording: str | None = None

    @cached_property
    def content(self) -> str:
        """SHA-256 of all bytes of the file, or over those of all frames of the folder (see `fsar_bench.data.contents`).

        Raises:
            DataError: the file is missing, empty, or not the one that the annotation describes.
        """
        return contents_of([self])[0]


@dataclass(frozen=True)
class Split:
    """The clips of one split.

    Attributes:
        name: of the split.
        list: class names and clip ids.
        clips: in the order of `list`.
        texts: text of each class.
        reverse: number of the time-reversed class of each class, or -1.
        missing: ids of the clips that are not on this disk.
        unlisted: number of clips of the published list that are not in `list`, because only its counts are known.
    """

    name: str
    list: ClipList
    clips: tuple[Clip, ...]
    texts: tuple[str, ...]
    reverse: tuple[int, ...]
    missing: frozenset[str] = frozenset()
    unlisted: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and contents of all clips on this disk.

        Reads every file whose content is not known yet; `contents_of(split.present, progress)` does so with progress.

        Raises:
            DataError: a clip is missing, empty, or not the one that the annotation describes.
        """
        sha = hashlib.sha256()
        for clip, content in zip(self.present, contents_of(self.present), strict=True):
            sha.update(f"{clip.class_name}\t{clip.id}\t{content}\n".encode())
        return sha.hexdigest()

    @property
    def present(self) -> tuple[Clip, ...]:
        """The clips that are on this disk."""
        return tuple(clip for clip in self.clips if clip.id not in self.missing)

    @property
    def coverage(self) -> float:
        """Share of the listed clips that is on this disk; those of the published list that are not listed count as well."""
        return 1 - (self.size - len(self.present)) / self.size

    @property
    def size(self) -> int:
        """Number of clips of the full list."""
        return len(self.clips) + self.unlisted

    @property
    def class_of(self) -> Sequence[int]:
        """Class number of each clip."""
        return [number for number, clips in enumerate(self.list.clips) for _ in clips]


_lock = threading.RLock()  # guards the three tables below
_owners_of_closed: dict[str, weakref.WeakSet[Any]] = {}  # who keeps a split closed, by its name
_open_datasets: weakref.WeakValueDictionary[tuple[Any, ...], Dataset] = weakref.WeakValueDictionary()
_kept: dict[object, dict[tuple[Any, ...], Dataset]] = {}  # what is kept open, by who keeps it


def close_split(name: str, owner: object) -> None:
    """Refuse a split of every dataset in this process until `open_split`, or until the owner ceases to exist.

    Args:
        name: of the split.
        owner: a hashable object that can be weakly referenced, such as a hook of a runner.
    """
    with _lock:
        _owners_of_closed.setdefault(name, weakref.WeakSet()).add(owner)


def open_split(name: str, owner: object) -> None:
    """End this owner's `close_split`; the split stays closed as long as another owner keeps it closed."""
    with _lock:
        _owners_of_closed.setdefault(name, weakref.WeakSet()).discard(owner)


def is_split_closed(name: str) -> bool:
    """Whether somebody keeps a split closed."""
    with _lock:
        return len(_owners_of_closed.get(name, ())) > 0


class _Owner:
    """Keeps a split closed within a context."""


@contextlib.contextmanager
def split_closed(name: str = "test") -> Iterator[None]:
    """Refuse a split of every dataset in this process within this context."""
    owner = _Owner()
    close_split(name, owner)
    try:
        yield
    finally:
        open_split(name, owner)


class Dataset:
    """A dataset, read from an annotation file.

    The annotation is JSON: `classes` (name, text, split, optionally group and reverse_of) and `clips` (id, class, path
    relative to the annotation or null for a missing clip, optionally sha256 and recording); `kind` is "frames" where clips
    are folders of images. A variant keeps some groups. The clips in an accepted quarantine of a prepared dataset count as
    missing.

    Args:
        name: name of the dataset or variant.
        annotation: path of the annotation, "builtin:NAME", or "prepared:NAME" for a dataset that `fsar-bench data prepare`
            stored.
        groups: groups of classes to keep; None keeps all.
        with_quarantined: do not leave out the clips of an accepted quarantine.

    Attributes:
        name: name of the dataset or variant.
        annotation: path of the annotation.
        is_builtin: whether fsar-bench brings its clips along.
        is_prepared: whether `fsar-bench data prepare` stored it.
        frames: whether clips are folders of images.
        accepted: (class, id) of clips that do not decode, as `fsar-bench data verify` found, and that may be left out.
        undecided: (class, id) of those of which this was not said.

    Raises:
        DataError: the annotation or the quarantine is missing, damaged or contradicts itself (see `faults`).
        ConfigError: a group that it does not have.
    """

    def __init__(
        self, name: str, annotation: str, groups: list[str] | None = None, *, with_quarantined: bool = False
    ) -> None:
        self.name = name
        self.annotation = path = annotation_file(annotation)
        self.is_builtin = annotation.startswith("builtin:")
        self.is_prepared = annotation.startswith("prepared:")
        if self.is_prepared and not os.path.lexists(path):
            prepared_name = annotation.removeprefix("prepared:")
            raise DataError(
                f"The dataset {prepared_name} is not prepared on this machine (looked for {path}). Run fsar-bench data prepare "
                f"{prepared_name} --root DIR with the folder of your clips."
            )
        contents = _read_annotation(name, path)
        existing = {row.group for row in contents.classes}
        if groups and not set(groups) <= existing:
            unknown = sorted(set(groups) - existing)
            raise ConfigError(
                f"Dataset {name!r} has no group {shown(unknown)}; it has {sorted(filter(None, existing))}."
            )
        self.frames = contents.kind == "frames"
        quarantine = _read_quarantine(_quarantine_file(path)) if self.is_prepared else None
        bad = frozenset((clip.class_name, clip.id) for clip in quarantine.clips) if quarantine else frozenset()
        self.accepted = bad if quarantine and quarantine.accepted else frozenset()
        self.undecided = bad - self.accepted
        self._quarantined = frozenset() if with_quarantined else self.accepted
        self._classes = {row.name: row for row in contents.classes if not groups or row.group in groups}
        if fault := twin_fault(self._classes.values()):  # groups that are not kept may spell the same names
            raise DataError(f"In {path}, {fault}")
        self._clips = [clip for clip in contents.clips if clip.class_name in self._classes]
        self._unlisted = {str(split): count for split, count in contents.unlisted.items()}
        self._splits: dict[str, Split] = {}

    @property
    def names(self) -> list[str]:
        """Splits that have clips, in the order train, val, test."""
        existing = {self._classes[clip.class_name].split for clip in self._clips}
        return [name for name in SPLITS if name in existing]

    def empty_classes(self, split: str) -> list[str]:
        """Classes of a split that list no clip: no episode can have them."""
        with_clips = {clip.class_name for clip in self._clips}
        return [name for name, row in self._classes.items() if row.split == split and name not in with_clips]

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            ProtocolError: the split is closed (see `close_split`), or the dataset has no clips in it.
        """
        if is_split_closed(name):
            raise ProtocolError(
                f"Something tried to open the {name!r} split of {self.name!r} while training. It stays closed."
            )
        if name not in self._splits:
            self._splits[name] = self._make(name)
        return self._splits[name]

    def _make(self, name: str) -> Split:
        rows = {(row.class_name, row.id): row for row in self._clips if self._classes[row.class_name].split == name}
        if not rows:
            raise ProtocolError(
                f"Dataset {self.name!r} has no clips in its {name!r} split"
                + (": prepare it with one, or name a dataset that has one with train_on=." if name != "test" else ".")
            )
        clip_list = ClipList.of(list(rows))
        clips = tuple(
            self._clip(rows[class_name, clip_id])
            for class_name, ids in zip(clip_list.classes, clip_list.clips, strict=True)
            for clip_id in ids
        )
        number = {class_name: i for i, class_name in enumerate(clip_list.classes)}
        classes = [self._classes[class_name] for class_name in clip_list.classes]
        reverse = tuple(number.get(row.reverse_of, -1) if row.reverse_of is not None else -1 for row in classes)
        missing = frozenset(clip.id for clip in clips if clip.path == MISSING)
        self._check_missing(clips, missing)
        texts = tuple(row.text for row in classes)
        return Split(name, clip_list, clips, texts, reverse, missing, self._unlisted.get(name, 0))

    def _check_missing(self, clips: Sequence[Clip], missing: frozenset[str]) -> None:
        """Missing clips are known by their ids: none of these may be the id of a clip that is here, which would vanish too."""
        shared = [
            f"{clip.id!r} of {clip.class_name!r}" for clip in clips if clip.id in missing and clip.path != MISSING
        ]
        if shared:
            number = counted(len(shared), "clip has", "clips have")
            raise DataError(
                f"In {self.annotation}, {number} the id of a missing clip of another class: {examples(shared)}. "
                "Give clips ids that are unique among all classes, such as CLASS/NAME."
            )

    def _clip(self, row: AnnotatedClip) -> Clip:
        is_missing = row.path is None or (row.class_name, row.id) in self._quarantined
        if row.path is None or is_missing:
            path = MISSING
        else:
            path = user_path(row.path) if row.path.startswith("~/") else self.annotation.parent / row.path
        rendered = row.id if self.is_builtin else None  # each built-in clip is a rendering of its own
        return Clip(row.id, row.class_name, path, row.sha256, recording=row.recording or rendered)


def open_dataset(name: str, annotation: str, groups: list[str] | None = None) -> Dataset:
    """A dataset that is shared by all who open the same one, as long as one of them refers to it.

    It is read again if its annotation or its quarantine has changed (modification time or size).

    Args:
        name: name of the dataset or variant.
        annotation: see `Dataset`.
        groups: groups of classes to keep; None keeps all.

    Raises:
        DataError: the annotation or the quarantine is missing or damaged.
        ConfigError: a group that it does not have.
    """
    path = annotation_file(annotation).absolute()
    states = (_state(path), _state(_quarantine_file(path)))
    key = (name, annotation, None if groups is None else tuple(groups), path, *states)
    with _lock:
        dataset = _open_datasets.get(key)
        if dataset is None:
            dataset = _open_datasets[key] = Dataset(name, annotation, groups)
        for kept in _kept.values():
            kept[key] = dataset
        return dataset


@contextlib.contextmanager
def datasets_kept_open() -> Iterator[None]:
    """Keep what is opened meanwhile, so that work that looks at the same dataset for many cells reads it once."""
    owner = object()
    with _lock:
        _kept[owner] = {}
    try:
        yield
    finally:
        with _lock:
            del _kept[owner]


def _state(path: Path) -> tuple[int, int] | None:
    """Modification time and size of a file; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _quarantine_file(annotation: Path) -> Path:
    return annotation.with_name("quarantine.json")


def _read_annotation(name: str, path: Path) -> Annotation:
    what = f"The annotation {path} of dataset {name!r}"
    return load_json(path, Annotation, what, "Correct it, or prepare the dataset again.", DataError)


def _read_quarantine(path: Path) -> _Quarantine | None:
    """Clips that do not decode, as `fsar-bench data verify` found them; None where there is no such file."""
    if not os.path.lexists(path):
        return None
    return load_json(path, _Quarantine, f"The quarantine {path}", "Run fsar-bench data verify again.", DataError)
