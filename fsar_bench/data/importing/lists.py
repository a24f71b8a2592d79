"""Published split lists: every line syntax of the field's repositories, the canonical list, and which lineage it is.

Syntaxes, told apart by line:

- `test0//videos/fencing/clip.avi`, `val3/88644`: split and split-local class number, then a path or id (CLIP-FSAR, HyRSM, MoLo,
  TS-FSAR; SSv2 `NNlist07`);
- `126/195025` where the dataset has official labels: label and id (SSv2 `NNlist03`);
- `fencing/clip`, `blasting sand/-kYzxMKp514_000086_000096`: class and video, split at the last slash (TRX, STRM, CMN, AMeFu-Net);
- CSV with the columns `label,youtube_id`.

Canonical: class as in the shipped class table, video without folder and extension, Kinetics without times (the YouTube id). A
fingerprint is the SHA-256 over the sorted lines `class<TAB>video` of a split: order, folders, extensions and line ends do not
change it, one video does.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from fsar_bench.data.importing.classes import KNOWN, SPLITS, ClassName, ClassTable, table
from fsar_bench.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
SUFFIXES = (".txt", ".list", ".csv")
_NUMBERED = re.compile(r"(train|val|test)(\d+)/+(.+)")
_NUMBERED_AFTER = re.compile(r"\.\w+, ?\d+$")  # CDFSL-V
_TIMES = re.compile(r"_\d{6}_\d{6}$")
Row = tuple[str, str]  # class name, video


@dataclass
class PublishedList:
    """What list files say, in canonical form.

    Attributes:
        dataset: name without lineage.
        rows: (class name, video) pairs of each split.
        files: files read, of each split.
        duplicates: lines that stand twice: (split, class name, video).
        in_two_splits: videos of one class or another that stand in several splits, with these.
        spellings: other spellings of class names that were met, by class name.
        misplaced: classes that the table has in another split, as text.
    """

    dataset: str
    rows: dict[str, set[Row]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    duplicates: list[tuple[str, str, str]] = field(default_factory=list)
    in_two_splits: dict[str, list[str]] = field(default_factory=dict)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    misplaced: list[str] = field(default_factory=list)

    def fingerprint(self, split: str) -> str:
        return fingerprint(self.rows[split])


def fingerprint(rows: set[Row]) -> str:
    """SHA-256 over the sorted lines `class<TAB>video`."""
    return hashlib.sha256("".join(f"{name}\t{video}\n" for name, video in sorted(rows)).encode()).hexdigest()


def video_id(dataset: str, path: str) -> str:
    """Canonical id of a video from a path, file name or id."""
    name = PurePosixPath(path.replace("\\", "/")).name
    stem = name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in VIDEO_SUFFIXES else name
    return _TIMES.sub("", stem) if dataset.startswith("kinetics") else stem


def read_lists(dataset: str, folder: Path) -> PublishedList:
    """Read all list files below a folder, or one file.

    Raises:
        DataError: no list files, a line in no known syntax, or a class that the dataset does not have.
    """
    known = table(dataset)
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES)
    by_split = {path: split for path in files if (split := _split_of(path))}
    if not by_split:
        raise DataError(
            f"{folder} holds no list files: names with train, val or test that end in {', '.join(SUFFIXES)} are looked for."
        )
    out = PublishedList(known.dataset)
    seen: Counter[tuple[str, str, str]] = Counter()
    spellings: dict[str, set[str]] = defaultdict(set)
    for path, split_of_file in by_split.items():
        for found, spelled, video, split in _parse(path, split_of_file, known):
            seen[split, found.name, video] += 1
            out.rows.setdefault(split, set()).add((found.name, video))
            if spelled:
                spellings[found.name].add(spelled)
            if found.split != split:
                out.misplaced.append(f"{found.name} ({split}; {known.title} has it in {found.split})")
        out.files.setdefault(split_of_file, []).append(path)
    out.misplaced = sorted(set(out.misplaced))
    out.duplicates = sorted(row for row, count in seen.items() if count > 1)
    where: dict[str, set[str]] = defaultdict(set)
    for split, _, video in seen:
        where[video].add(split)
    out.in_two_splits = {video: sorted(splits) for video, splits in sorted(where.items()) if len(splits) > 1}
    out.spellings = {name: sorted(found) for name, found in sorted(spellings.items()) if len(found) > 1}
    return out


def _split_of(path: Path) -> str | None:
    found = [split for split in SPLITS if split in path.stem.lower()]
    return found[0] if len(found) == 1 else None


def _parse(path: Path, split: str, known: ClassTable):
    """Yield (class, spelling of its name or None, video, split) of every line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({error}).") from error
    lines = text.splitlines()
    if lines and "youtube_id" in lines[0].split(","):
        for number, row in enumerate(csv.DictReader(lines), 2):
            yield (
                _named(known, row["label"], path, number),
                row["label"],
                video_id(known.dataset, row["youtube_id"]),
                split,
            )
        return
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line:
            continue
        if found := _NUMBERED.fullmatch(line):
            own = known.number(found[1], int(found[2]))
            if own is None:
                raise DataError(f"{path}, line {number}: {known.title} has no class {found[1]}{found[2]}.")
            folder = PurePosixPath(found[3]).parent.name
            said = known.find(folder) if folder else None
            if said and said.name != own.name:
                raise DataError(
                    f"{path}, line {number}: class {found[1]}{found[2]} is {own.name!r}, but the folder says {folder!r}."
                )
            yield own, folder if said else None, video_id(known.dataset, found[3]), found[1]
            continue
        if _NUMBERED_AFTER.search(line):
            raise DataError(
                f"{path}, line {number} ends in a class number of its own ({line[-40:]!r}), which names no class of "
                f"{known.title}: such a list cannot be read. Import the lists of another repository."
            )
        name, slash, video = line.rpartition("/")
        if not slash and known.find(line):
            raise DataError(
                f"{path} lists classes, not videos ({line!r}). The classes of {known.title} ship with fsar-bench: where every "
                f"clip of a class belongs to it, no list is needed. Next: fsar-bench data prepare {known.dataset} --root DIR."
            )
        if not slash or not name or not video:
            raise DataError(f"{path}, line {number} is in none of the known syntaxes: {line[:80]!r}.")
        if name.isdigit():
            labelled = known.label(int(name))
            if labelled is None:
                raise DataError(f"{path}, line {number}: {known.title} has no class with the label {name}.")
            yield labelled, None, video_id(known.dataset, video), split
            continue
        last = name.rpartition("/")[2]
        yield _named(known, last, path, number), last, video_id(known.dataset, video), split


def _named(known: ClassTable, name: str, path: Path, number: int) -> ClassName:
    found = known.find(name)
    if found is None:
        raise DataError(f"{path}, line {number}: {known.title} has no class {name!r}.")
    return found


@dataclass(frozen=True)
class Lineage:
    """A known list of a dataset.

    Attributes:
        name: such as "cmn"; empty where a dataset has one list only.
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
    """The known lists of a dataset."""
    data = json.loads((KNOWN / "lineages.json").read_text(encoding="utf-8")).get(dataset, {})
    return tuple(
        Lineage(name, row["title"], row["fingerprints"], {s: tuple(c) for s, c in row["counts"].items()})
        for name, row in data.items()
    )


def short_hashes(rows: set[Row]) -> np.ndarray:
    """Sorted 32-bit hashes of the rows: enough to say how two lists differ, too little to rebuild one."""
    digests = (hashlib.sha256(f"{name}\t{video}".encode()).digest()[:4] for name, video in rows)
    return np.sort(np.array([int.from_bytes(d, "big") for d in digests], np.uint32))


def recognise(read: PublishedList) -> tuple[Lineage | None, list[str]]:
    """The lineage whose splits these are, or None with one line on each known one of how the lists differ from it."""
    known = lineages(read.dataset)
    for lineage in known:
        if all(lineage.fingerprints.get(split) == read.fingerprint(split) for split in read.rows):
            return lineage, []
    with np.load(KNOWN / "lineages.npz", allow_pickle=False) as store:
        hashes = {name: store[name] for name in store.files}
    return None, [f"differs from {lineage.title}: {_difference(read, lineage, hashes)}" for lineage in known]


def _difference(read: PublishedList, lineage: Lineage, hashes: dict[str, np.ndarray]) -> str:
    said = []
    for split, rows in read.rows.items():
        theirs = hashes.get(f"{read.dataset}|{lineage.name}|{split}", np.array([], np.uint32))
        extra = _extra(rows, theirs)
        lacking = len(theirs) - (len(rows) - len(extra))
        if extra:
            said.append(f"{len(extra)} extra {split} clips in {len({name for name, _ in extra})} classes")
        if lacking > 0:
            said.append(f"{lacking} {split} clips lacking")
    absent = [split for split in lineage.fingerprints if split not in read.rows]
    return ", ".join([*said, *(f"no {split} list" for split in absent)]) or "nothing but hashes"


def _extra(rows: set[Row], theirs: np.ndarray) -> set[Row]:
    ordered = sorted(rows)
    own = np.array([short_hashes({row})[0] for row in ordered], np.uint32)
    return {row for row, is_known in zip(ordered, np.isin(own, theirs), strict=True) if not is_known}
