"""Published split lists: every line syntax of the field's repositories, the canonical list, and the lineage it belongs to.

Syntaxes, distinguished line by line:

- `test0//videos/fencing/clip.avi`, `val3/88644`: split and split-local class number, then a path or id (CLIP-FSAR, HyRSM, MoLo,
  TS-FSAR; SSv2 `NNlist07`);
- `126/195025` where the dataset has official labels: label and id (SSv2 `NNlist03`);
- `fencing/clip`, `blasting sand/-kYzxMKp514_000086_000096`: class and video, split at the last slash (TRX, STRM, CMN, AMeFu-Net);
- CSV with the columns `label,youtube_id`.

Canonical form: class as in the shipped class table, video without folder and extension, Kinetics without times (the YouTube id).
A fingerprint is the SHA-256 over the sorted lines `class<TAB>video` of a split: it ignores order, folders, extensions and line
endings; a single different video changes it.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from fsar_bench.data.dataset import SPLITS, ClassText, Longer, Stored
from fsar_bench.data.disk import VIDEO_SUFFIXES, is_hidden
from fsar_bench.data.importing.classes import KNOWN, ClassName, ClassTable, known_datasets, table
from fsar_bench.errors import ConfigError, DataError, shown
from fsar_bench.io import data_folder, load_json, read_text, reason_of, to_json, write_atomically

SUFFIXES = (".txt", ".list", ".csv")
CUSTOM = "custom"  # name of a dataset that is no published one
_NUMBERED = re.compile(r"(train|val|test)(\d{1,9})/+(.+)")
_LABEL = re.compile(r"\d{1,9}")
_NUMBERED_AFTER = re.compile(r"\.\w+, ?\d+$")  # CDFSL-V
_TIMES = re.compile(r"_\d{6}_\d{6}$")


class ListedVideo(NamedTuple):
    """One entry of a list.

    Attributes:
        class_name: as in the class table.
        video: canonical id.
    """

    class_name: str
    video: str


class Duplicate(NamedTuple):
    """A line that occurs more than once.

    Attributes:
        split: of the line.
        class_name: as in the class table.
        video: canonical id.
    """

    split: str
    class_name: str
    video: str


@dataclass
class PublishedList:
    """Contents of list files in canonical form, and their faults.

    Attributes:
        dataset: name without lineage.
        rows: videos of each split.
        files: files that were read, of each split.
        duplicates: lines that occur more than once.
        in_two_splits: videos (of whichever class) that are in several splits, with these splits.
        spellings: different spellings of class names that were met, by class name.
        misplaced: classes that the table has in another split, as text.
    """

    dataset: str
    rows: dict[str, set[ListedVideo]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    duplicates: list[Duplicate] = field(default_factory=list)
    in_two_splits: dict[str, list[str]] = field(default_factory=dict)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    misplaced: list[str] = field(default_factory=list)

    def fingerprint(self, split: str) -> str:
        """SHA-256 of the canonical list of a split."""
        return fingerprint(self.rows[split])

    def faults(self) -> dict[str, list[str]]:
        """Faults as text, by kind; kinds without faults have empty lists."""
        return {
            "occurs twice": [f"{row.split}: {row.class_name}/{row.video}" for row in self.duplicates],
            "is in several splits": [f"{video} ({', '.join(splits)})" for video, splits in self.in_two_splits.items()],
            "has several spellings": [f"{name} ({', '.join(met)})" for name, met in self.spellings.items()],
            "is in another split": self.misplaced,
        }


def fingerprint(rows: set[ListedVideo]) -> str:
    """SHA-256 over the sorted lines `class<TAB>video`."""
    return hashlib.sha256("".join(f"{name}\t{video}\n" for name, video in sorted(rows)).encode()).hexdigest()


def video_id(dataset: str, path: str) -> str:
    """Canonical id of a video from a path, file name or id."""
    name = PurePosixPath(path.replace("\\", "/")).name
    suffix = PurePosixPath(name).suffix
    stem = name[: -len(suffix)] if suffix.lower() in VIDEO_SUFFIXES else name
    return _TIMES.sub("", stem) if dataset.startswith("kinetics") else stem


def read_lists(dataset: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> PublishedList:
    """Read all list files below a folder, or one file.

    Args:
        dataset: name of the dataset; a lineage after "@" is ignored.
        folder: the folder or file.
        progress: called with (files read, files in all).

    Raises:
        ConfigError: the classes of this dataset are not known.
        DataError: no list files, a line in no known syntax, or a class that the dataset does not have.
    """
    known = table(dataset)
    files = [folder] if os.path.isfile(folder) else _list_files(folder)
    split_of_file = {path: split for path in files if (split := _split_of(path))}
    if not split_of_file:
        raise DataError(
            f"{folder} holds no list files: names with train, val or test that end in {', '.join(SUFFIXES)} are looked for."
        )
    lines: list[_Line] = []
    for number, (path, split) in enumerate(split_of_file.items(), 1):
        lines += _parse(path, split, known)
        if progress:
            progress(number, len(split_of_file))
    published = _collect(lines, known)
    for path, split in split_of_file.items():
        published.files.setdefault(split, []).append(path)
    return published


def _list_files(folder: Path) -> list[Path]:
    """Files below a folder that end like lists; hidden ones, such as copies that Jupyter keeps, are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(map(is_hidden, path.relative_to(folder).parts))
        and path.is_file()
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a list: its class, the spelling of the class name if it has one, the canonical id and the split."""

    class_name: ClassName
    spelling: str | None
    video: str
    split: str


def _collect(lines: list[_Line], known: ClassTable) -> PublishedList:
    """The canonical list of all lines, and their faults."""
    published = PublishedList(known.dataset)
    counts: Counter[Duplicate] = Counter()
    spellings: dict[str, set[str]] = defaultdict(set)
    splits_of_video: dict[str, set[str]] = defaultdict(set)
    misplaced: set[str] = set()
    for line in lines:
        name = line.class_name.name
        counts[Duplicate(line.split, name, line.video)] += 1
        splits_of_video[line.video].add(line.split)
        published.rows.setdefault(line.split, set()).add(ListedVideo(name, line.video))
        if line.spelling:
            spellings[name].add(line.spelling)
        if line.class_name.split != line.split:
            misplaced.add(f"{name} ({line.split}; {known.title} has it in {line.class_name.split})")
    published.misplaced = sorted(misplaced)
    published.duplicates = sorted(row for row, count in counts.items() if count > 1)
    published.in_two_splits = {
        video: sorted(splits) for video, splits in sorted(splits_of_video.items()) if len(splits) > 1
    }
    published.spellings = {name: sorted(met) for name, met in sorted(spellings.items()) if len(met) > 1}
    return published


def _split_of(path: Path) -> str | None:
    """The split that a file name mentions; None if it mentions none or several."""
    mentioned = [split for split in SPLITS if split in path.stem.lower()]
    return mentioned[0] if len(mentioned) == 1 else None


def _parse(path: Path, split: str, known: ClassTable) -> Iterator[_Line]:
    """Parse every line of a file.

    Args:
        path: the file.
        split: of lines that name none.
        known: classes of the dataset.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({reason_of(error)}). It must be UTF-8 text.") from error
    if lines and "youtube_id" in lines[0].split(","):
        yield from _parse_table(lines, split, known, path)
        return
    for number, text in enumerate(lines, 1):
        line = text.strip()
        if not line:
            continue
        where = f"{path}, line {number}"
        if numbered := _NUMBERED.fullmatch(line):
            yield _parse_numbered(numbered, known, where)
        else:
            yield _parse_named(line, split, known, path, where)


def _parse_table(lines: list[str], split: str, known: ClassTable, path: Path) -> Iterator[_Line]:
    """A CSV with the columns `label,youtube_id`."""
    reader = csv.DictReader(lines)
    try:
        for number, row in enumerate(reader, 2):
            label = row.get("label") or ""
            class_name = _named(known, label, f"{path}, line {number}")
            if not row["youtube_id"]:
                raise DataError(f"{path}, line {number}: the youtube_id is empty.")
            yield _Line(class_name, label, video_id(known.dataset, row["youtube_id"]), split)
    except csv.Error as error:
        raise DataError(f"The list {path} cannot be read from line {reader.line_num + 1} on ({error}).") from error


def _parse_numbered(numbered: re.Match[str], known: ClassTable, where: str) -> _Line:
    """`test0//videos/fencing/clip.avi` or `val3/88644`."""
    split, number, path = numbered.groups()
    class_name = known.number(split, int(number))
    if class_name is None:
        raise DataError(f"{where}: {known.title} has no class {split}{number}.")
    folder = PurePosixPath(path).parent.name
    class_of_folder = known.find(folder) if folder else None
    if class_of_folder and class_of_folder.name != class_name.name:
        raise DataError(f"{where}: class {split}{number} is {class_name.name!r}, but the folder says {shown(folder)}.")
    return _Line(class_name, folder if class_of_folder else None, video_id(known.dataset, path), split)


def _parse_named(line: str, split: str, known: ClassTable, path: Path, where: str) -> _Line:
    """`fencing/clip` or `126/195025`."""
    if _NUMBERED_AFTER.search(line):
        raise DataError(
            f"{where} ends in a class number of its own ({line[-40:]!r}), which names no class of {known.title}: such a list "
            "cannot be read. Import the lists of another repository."
        )
    name, slash, video = line.rpartition("/")
    if not slash and known.find(line):
        raise DataError(
            f"{path} lists classes, not videos ({line!r}). The classes of {known.title} ship with fsar-bench: where every "
            f"clip of a class belongs to it, no list is needed. Next: fsar-bench data prepare {known.dataset} --root DIR."
        )
    if not slash or not name or not video:
        raise DataError(f"{where} is in none of the known syntaxes: {line[:80]!r}.")
    if _LABEL.fullmatch(name):
        labelled = known.label(int(name))
        if labelled is None:
            raise DataError(f"{where}: {known.title} has no class with the label {name}.")
        return _Line(labelled, None, video_id(known.dataset, video), split)
    spelling = name.rpartition("/")[2]
    return _Line(_named(known, spelling, where), spelling, video_id(known.dataset, video), split)


def _named(known: ClassTable, name: str, where: str) -> ClassName:
    class_name = known.find(name)
    if class_name is None:
        raise DataError(f"{where}: {known.title} has no class {shown(name)}.")
    return class_name


@dataclass(frozen=True)
class Lineage:
    """A known list of a dataset.

    Attributes:
        name: such as "cmn".
        title: for people.
        fingerprints: by split.
        counts: (classes, videos) by split.
    """

    name: str
    title: str
    fingerprints: dict[str, str]
    counts: dict[str, tuple[int, int]]


@cache
def lineages(dataset: str) -> tuple[Lineage, ...]:
    """The known lists of a dataset (name without lineage)."""
    data = json.loads((KNOWN / "lineages.json").read_text(encoding="utf-8")).get(dataset, {})
    return tuple(
        Lineage(
            name,
            row["title"],
            row["fingerprints"],
            {split: (classes, videos) for split, (classes, videos) in row["counts"].items()},
        )
        for name, row in data.items()
    )


def known_names() -> list[str]:
    """Names of the datasets that `data prepare` knows; a dataset with several lists has one name per lineage."""
    names = [CUSTOM]
    for dataset in known_datasets():
        known = lineages(dataset)
        names += [f"{dataset}@{lineage.name}" for lineage in known] if len(known) > 1 else [dataset]
    return sorted(names)


def short_hashes(rows: set[ListedVideo]) -> np.ndarray:
    """Sorted 32-bit hashes of the rows, uint32 `[rows]`: enough to count how two lists differ, too little to rebuild one."""
    digests = (hashlib.sha256(f"{name}\t{video}".encode()).digest()[:4] for name, video in rows)
    return np.sort(np.array([int.from_bytes(d, "big") for d in digests], np.uint32))


@dataclass(frozen=True)
class Recognition:
    """Which known list a published list is.

    Attributes:
        lineage: the known list whose splits these are, or None.
        differences: without a lineage, one line per known list that says how this list differs from it.
    """

    lineage: Lineage | None
    differences: tuple[str, ...] = ()


def recognise(published: PublishedList) -> Recognition:
    """Compare the fingerprints of a list with those of the known lists of its dataset."""
    known = lineages(published.dataset)
    for lineage in known:
        if all(lineage.fingerprints.get(split) == published.fingerprint(split) for split in published.rows):
            return Recognition(lineage)
    differences = (f"differs from {lineage.title}: {_difference(published, lineage, _hashes())}" for lineage in known)
    return Recognition(None, tuple(differences))


@cache
def _hashes() -> dict[str, np.ndarray]:
    """Hashes of the rows of all known lists, by "dataset|lineage|split"."""
    with np.load(KNOWN / "lineages.npz", allow_pickle=False) as store:
        return {name: store[name] for name in store.files}


def published_hashes(dataset: str, split: str) -> np.ndarray:
    """Sorted 32-bit hashes of the rows of a split that the known lists of a dataset have, uint32 `[rows]`."""
    names = [f"{dataset}|{lineage.name}|{split}" for lineage in lineages(dataset)]
    known = [_hashes()[name] for name in names if name in _hashes()]
    return np.unique(np.concatenate(known)) if known else np.array([], np.uint32)


def _difference(published: PublishedList, lineage: Lineage, hashes: dict[str, np.ndarray]) -> str:
    """How a list differs from a known one, in numbers."""
    parts = []
    for split, rows in published.rows.items():
        known_hashes = hashes.get(f"{published.dataset}|{lineage.name}|{split}", np.array([], np.uint32))
        extra = _extra(rows, known_hashes)
        lacking = len(known_hashes) - (len(rows) - len(extra))
        if extra:
            parts.append(f"{len(extra)} extra {split} clips in {len({row.class_name for row in extra})} classes")
        if lacking > 0:
            parts.append(f"{lacking} {split} clips lacking")
    parts += [f"no {split} list" for split in lineage.fingerprints if split not in published.rows]
    return ", ".join(parts) or "nothing but hashes"


def _extra(rows: set[ListedVideo], known_hashes: np.ndarray) -> set[ListedVideo]:
    """Rows that a known list does not have."""
    ordered = sorted(rows)
    row_hashes = np.array([short_hashes({row})[0] for row in ordered], np.uint32)
    return {row for row, is_known in zip(ordered, np.isin(row_hashes, known_hashes), strict=True) if not is_known}


@dataclass(frozen=True)
class StoredList:
    """A list that was kept for `data prepare`.

    Attributes:
        name: dataset, with the lineage where there are several.
        path: of the file.
    """

    name: str
    path: Path


def store_recognised(
    dataset: str, published: PublishedList, recognition: Recognition, *, accept: bool = False
) -> StoredList:
    """Keep a list under the name of its lineage.

    Args:
        dataset: name that the user gave; a lineage after "@" must be that of the list.
        published: the list.
        recognition: which known list it is.
        accept: keep it even if it is no known list.

    Raises:
        DataError: it is no known list and not accepted, or that of another lineage.
        ConfigError: it is no known list, and the name leaves open which of several it replaces.
    """
    lineage, known = recognition.lineage, known_names()
    base, _, wanted = dataset.partition("@")
    if lineage is None and not accept:
        raise DataError(
            f"These are not the lists of {table(dataset).title} that others use. Results on them are not comparable with "
            "published ones. Pass --accept to use them anyway."
        )
    if lineage and wanted and lineage.name != wanted:
        raise DataError(f"These are the lists of {base}@{lineage.name}, not of {dataset}.")
    candidate = f"{base}@{lineage.name}" if lineage else dataset
    name = candidate if candidate in known else dataset
    if name not in known:
        raise ConfigError(f"{base} has several lists: name one of {', '.join(n for n in known if n.startswith(base))}.")
    return StoredList(name, store_list(name, published, lineage.name if lineage else ""))


def store_list(name: str, published: PublishedList, lineage: str) -> Path:
    """Keep a list for `data prepare`.

    Args:
        name: dataset, with the lineage where there are several.
        published: the list.
        lineage: its lineage, or "" for a list that is no known one.

    Returns:
        Path of the stored list.

    Raises:
        ResultError: the folder cannot be written.
    """
    path = data_folder() / name / "list.json"
    rows = {split: sorted(map(list, of_split)) for split, of_split in published.rows.items()}
    write_atomically(path, to_json({"lineage": lineage, "rows": rows}), hint="$FSAR_BENCH_DATA")
    return path


class _StoredRows(Stored):
    """Contents of a stored list: (class, video) of each split."""

    lineage: ClassText
    rows: dict[Literal["train", "val", "test"], list[tuple[ClassText, Longer]]]


def stored_list(name: str) -> dict[str, set[ListedVideo]] | None:
    """The list that `data import` stored for a dataset, by split, or None.

    Raises:
        DataError: the stored list is damaged.
    """
    path = data_folder() / name / "list.json"
    if not os.path.lexists(path):
        return None
    fix = f"Run fsar-bench data import {name.partition('@')[0]} again."
    stored = load_json(path, _StoredRows, f"The stored list {path}", fix, DataError)
    return {split: set(itertools.starmap(ListedVideo, rows)) for split, rows in stored.rows.items()}
