"""A few-shot dataset: which clips of which classes are in which split, where they lie, and what their classes are called."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsar_bench.errors import ConfigError, DataError, ProtocolError
from fsar_bench.io import annotation_file
from fsar_bench.plan import ClipList

BUILTIN = Path(__file__).with_name("builtin")
GONE = Path("missing")  # stands for the path of a clip that is not on this disk


@dataclass(frozen=True)
class Clip:
    """One clip: its id, class, file, the SHA-256 where the annotation records it, and whether the whole file identifies it."""

    id: str
    class_name: str
    path: Path
    sha256: str | None = None
    whole: bool = True

    @cached_property
    def content(self) -> str:
        """SHA-256 of the file; of a sample of it (see `_sample`) where the annotation records none, as for prepared datasets.

        Raises:
            DataError: the file is missing, empty, or not the one that the annotation describes.
        """
        try:
            self.path.stat()
            data = self.path.read_bytes() if self.whole and self.path.is_file() else _sample(self.path)
        except OSError as error:
            raise DataError(
                f"Clip {self.id!r} cannot be read: {self.path} ({error.strerror}). Restore the file."
            ) from error
        if not data:
            raise DataError(f"Clip {self.id!r} is empty, or no file at all: {self.path}. Restore the file.")
        digest = hashlib.sha256(data).hexdigest()
        if self.sha256 and digest != self.sha256:
            raise DataError(
                f"Clip {self.id!r} is damaged: {self.path} does not have the SHA-256 that its annotation records. "
                "Restore the file (for the built-in data: install fsar-bench again)."
            )
        return digest


def _sample(path: Path) -> bytes:
    """What tells a clip apart without reading all of it: size, first and last 64 KiB; of a folder its images' names and sizes."""
    if path.is_dir():
        inside = sorted((entry.name, entry.stat().st_size) for entry in os.scandir(path) if entry.is_file())
        return repr(inside).encode() if inside else b""
    if not path.is_file():  # a pipe or device would be waited for
        return b""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        return f"{size}|".encode() + first + file.read() if size else b""


@dataclass(frozen=True)
class Split:
    """The clips of one split, in the order of their `ClipList`; `missing` holds the ids of those that are not on this disk."""

    name: str
    list: ClipList
    clips: tuple[Clip, ...]
    texts: tuple[str, ...]
    reverse: tuple[int, ...]  # number of the time-reversed class, or -1
    missing: frozenset[str] = frozenset()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and contents of all clips that are here. Reads every file once (prepared datasets: a sample of it)."""
        sha = hashlib.sha256()
        for clip in self.clips:
            if clip.id in self.missing:
                continue
            sha.update(f"{clip.class_name}\t{clip.id}\t{clip.content}\n".encode())
        return sha.hexdigest()

    @property
    def coverage(self) -> float:
        """Share of the list that is on this disk."""
        return 1 - len(self.missing) / len(self.clips)

    @property
    def class_of(self) -> list[int]:
        """Class number of each clip."""
        return [number for number, clips in enumerate(self.list.clips) for _ in clips]


def _quarantined(path: Path) -> set[tuple[str, str]]:
    """(class, id) of bad clips that the user accepted to leave out (`fsar-bench data verify --accept`)."""
    if not path.is_file():
        return set()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {(row["class"], row["id"]) for row in data["clips"]} if data["accepted"] else set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The quarantine {path} is damaged ({error!r}). Run fsar-bench data verify again.") from error


class Dataset:
    """A dataset read from an annotation file.

    The annotation is JSON: `classes` (name, text, split, group, optionally reverse_of) and `clips` (id, class, path relative
    to the annotation or None for a missing clip, optionally sha256); `kind` is "frames" where clips are folders of images. A
    variant keeps some groups.

    Args:
        name: name of the dataset or variant.
        annotation: path of the annotation, "builtin:NAME", or "prepared:NAME" for what `fsar-bench data prepare` stored.
        groups: groups of classes to keep; None keeps all.

    Attributes:
        frames: clips are folders of images.

    Raises:
        DataError: the annotation is missing or damaged.
        ConfigError: a group that it does not have.
    """

    def __init__(self, name: str, annotation: str, groups: list[str] | None = None) -> None:
        self.name = name
        path = annotation_file(annotation)
        if annotation.startswith("prepared:") and not path.exists():
            known = annotation.removeprefix("prepared:")
            raise DataError(
                f"The dataset {known} is not prepared on this machine (looked for {path}). Run fsar-bench data prepare {known} "
                "--root DIR with the folder of your clips."
            )
        try:
            table = json.loads(path.read_text())
            self.frames = table.get("kind") == "frames"
            classes = {row["name"]: row for row in table["classes"]}
            rows = [
                (row["class"], row["id"], GONE if row["path"] is None else path.parent / row["path"], row.get("sha256"))
                for row in table["clips"]
            ]
            lacking = [n for n, row in classes.items() if not {"text", "split"} <= set(row)]
            strangers = sorted({row[0] for row in rows} - set(classes))
        except OSError as error:
            raise DataError(f"The annotation {path} of dataset {name!r} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"The annotation {path} of dataset {name!r} is damaged ({error!r}).") from error
        if lacking:
            raise DataError(f"In {path}, the class {lacking[0]!r} lacks its text or split.")
        if strangers:
            raise DataError(f"In {path}, clips are of the class {strangers[0]!r}, which is not among the classes.")
        if len({row[:2] for row in rows}) < len(rows):
            raise DataError(f"In {path}, a clip id stands twice in one class. Remove the duplicates.")
        if annotation.startswith("prepared:"):
            out = _quarantined(path.with_name("quarantine.json"))
            rows = [(c, i, GONE if (c, i) in out else p, sha) for c, i, p, sha in rows]
        known = {row.get("group") for row in classes.values()}
        if groups and not set(groups) <= known:
            raise ConfigError(f"Dataset {name!r} has no group {sorted(set(groups) - known)}; it has {sorted(known)}.")
        self._classes = {n: row for n, row in classes.items() if not groups or row.get("group") in groups}
        self._rows = [row for row in rows if row[0] in self._classes]
        self._whole = not annotation.startswith("prepared:")
        self._closed: str | None = None
        self._splits: dict[str, Split] = {}

    @property
    def names(self) -> list[str]:
        """Splits that have clips."""
        found = {self._classes[c]["split"] for c, *_ in self._rows}
        return [name for name in ("train", "val", "test") if name in found]

    @contextmanager
    def training(self):
        """While this context is open, the test split cannot be opened."""
        self._closed = "test"
        try:
            yield
        finally:
            self._closed = None

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            ProtocolError: the split is "test" and training is going on, or the dataset has no such split.
        """
        if name == self._closed:
            raise ProtocolError(
                f"Something tried to open the {name!r} split of {self.name!r} while training. It stays closed."
            )
        if name not in self._splits:
            self._splits[name] = self._make(name)
        return self._splits[name]

    def _make(self, name: str) -> Split:
        rows = {(c, i): (p, s) for c, i, p, s in self._rows if self._classes[c]["split"] == name}
        if not rows:
            raise ProtocolError(f"Dataset {self.name!r} has no clips in its {name!r} split.")
        clip_list = ClipList.of(list(rows))
        clips = tuple(
            Clip(clip, class_name, *rows[class_name, clip], whole=self._whole)
            for class_name, ids in zip(clip_list.classes, clip_list.clips, strict=True)
            for clip in ids
        )
        number = {class_name: i for i, class_name in enumerate(clip_list.classes)}
        meta = [self._classes[class_name] for class_name in clip_list.classes]
        reverse = tuple(number.get(row.get("reverse_of"), -1) for row in meta)
        missing = frozenset(clip.id for clip in clips if clip.path == GONE)
        return Split(name, clip_list, clips, tuple(row["text"] for row in meta), reverse, missing)
