"""From clips on a disk, in whatever layout, to an annotation: which clip of a list lies where, and which are missing.

Found are video files of any extension and folders of images (frames extracted beforehand), in class folders or flat by id. A clip
is known by the stem of its file or the name of its folder; where several have it, the one whose folder has the class's name.
"""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fsar_bench.data.importing.classes import SPLITS, ClassTable, key, table
from fsar_bench.data.importing.lists import VIDEO_SUFFIXES, PublishedList, Row, video_id
from fsar_bench.errors import ConfigError, DataError, suggest
from fsar_bench.io import IMAGE_SUFFIXES, data_folder, to_json, write_atomically

BY_CLASS = ("hmdb51", "ucf101")  # every clip of a class belongs to it: no list is needed


@dataclass(frozen=True)
class Found:
    """A clip on the disk: its path, whether it is a folder of images, and how many these are (0 for a video)."""

    path: Path
    frames: int


def index(root: Path, progress: Callable[[int], None] | None = None) -> dict[str, list[Found]]:
    """All clips below a folder by stem, each list sorted by path.

    Args:
        progress: called with the number of clips found so far.

    Raises:
        DataError: the folder is not there, or holds no clips.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Name the folder of your clips with --root.")
    out: dict[str, list[Found]] = defaultdict(list)
    count, waiting = 0, [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"The folder {folder} cannot be read ({error.strerror}). Mend its permissions.") from error
        images = 0
        for entry in inside:
            if entry.is_dir():
                waiting.append(Path(entry.path))
                continue
            if not entry.is_file():  # a pipe, a device, or a link to nothing
                continue
            stem, dot, suffix = entry.name.rpartition(".")
            suffix = f"{dot}{suffix.lower()}"
            if suffix in VIDEO_SUFFIXES:
                out[stem].append(Found(Path(entry.path), 0))
                count += 1
            images += suffix in IMAGE_SUFFIXES
        if images:
            out[folder.name].append(Found(folder, images))
            count += 1
        if progress:
            progress(count)
    if not out:
        raise DataError(f"{root} holds neither video files nor folders of images.")
    return {stem: sorted(found, key=lambda f: str(f.path)) for stem, found in out.items()}


@dataclass
class Prepared:
    """What is where.

    Attributes:
        name: of the dataset.
        title: of the dataset.
        classes: rows of the annotation.
        clips: rows of the annotation; `path` is None for a missing clip.
        ambiguous: clips that several files have, with the one taken.
        frames: whether the clips are folders of images.
    """

    name: str
    title: str
    classes: list[dict]
    clips: list[dict]
    ambiguous: dict[str, str] = field(default_factory=dict)
    frames: bool = False

    def coverage(self) -> dict[str, dict[str, tuple[int, int]]]:
        """(found, listed) of each class of each split."""
        split_of = {row["name"]: row["split"] for row in self.classes}
        out: dict[str, dict[str, tuple[int, int]]] = {}
        for row in self.clips:
            of_split = out.setdefault(split_of[row["class"]], {})
            found, listed = of_split.get(row["class"], (0, 0))
            of_split[row["class"]] = (found + (row["path"] is not None), listed + 1)
        return {split: out[split] for split in SPLITS if split in out}

    @property
    def missing(self) -> list[dict]:
        return [row for row in self.clips if row["path"] is None]


def stored_list(name: str) -> dict[str, set[Row]] | None:
    """The list that `data import` stored for a dataset, or None."""
    path = data_folder() / name / "list.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {split: {(name, video) for name, video in rows} for split, rows in data["rows"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The stored list {path} is damaged ({error!r}). Run fsar-bench data import again.") from error


def store_list(name: str, read: PublishedList, lineage: str) -> Path:
    """Keep an imported list for `prepare`."""
    path = data_folder() / name / "list.json"
    rows = {split: sorted(map(list, found)) for split, found in read.rows.items()}
    write_atomically(path, to_json({"lineage": lineage, "rows": rows}))
    return path


def prepare(name: str, root: Path, progress: Callable[[int], None] | None = None) -> Prepared:
    """Find the clips of a known dataset.

    Raises:
        ConfigError: unknown dataset.
        DataError: a list is needed and was not imported, or nothing of the dataset lies below the folder.
    """
    known = table(name)
    rows = stored_list(name)
    if rows is None and known.dataset not in BY_CLASS:
        which = f"{known.dataset} --lists DIR" + (f" (for the list of {name})" if "@" in name else "")
        raise DataError(
            f"{known.title} has a published list, which does not ship: import it first with fsar-bench data import {which}."
        )
    found = index(root, progress)
    if rows is None:
        rows = _by_class(known, found)
    by_id: dict[str, list[Found]] = defaultdict(list)
    for stem, clips in found.items():
        by_id[video_id(known.dataset, stem)] += clips
    twice = _in_several_classes(rows)
    listed = {class_name for of_split in rows.values() for class_name, _ in of_split}
    classes = [{"name": c.name, "text": c.text, "split": c.split} for c in known.classes if c.name in listed]
    out = Prepared(name, known.title, classes, [])
    kinds = set()
    for split in SPLITS:
        for class_name, video in sorted(rows.get(split, ())):
            place, others = _choose(by_id.get(video, []), class_name)
            row = {"id": f"{class_name}/{video}" if video in twice else video, "class": class_name, "path": None}
            if place:
                row["path"] = str(place.path.resolve())
                kinds.add(place.frames > 0)
                if place.frames:
                    row["frames"] = place.frames
            if others:
                out.ambiguous[row["id"]] = row["path"]
            out.clips.append(row)
    if not kinds:
        raise DataError(
            f"None of the {len(out.clips)} clips of {known.title} lies below {root}. Is it the right folder?"
        )
    if len(kinds) > 1:
        raise DataError(f"{root} has some clips as videos and some as folders of images. Name a folder with one kind.")
    out.frames = kinds.pop()
    return out


def _by_class(known: ClassTable, found: dict[str, list[Found]]) -> dict[str, set[Row]]:
    """Every clip whose folder has a class's name."""
    rows: dict[str, set[Row]] = defaultdict(set)
    for stem, clips in found.items():
        for clip in clips:
            own = known.find(clip.path.parent.name)
            if own:
                rows[own.split].add((own.name, video_id(known.dataset, stem)))
    if not rows:
        names = ", ".join(c.name for c in known.classes[:3])
        raise DataError(f"No folder below --root has the name of a class of {known.title} ({names}, …).")
    return rows


def _choose(candidates: list[Found], class_name: str) -> tuple[Found | None, bool]:
    """The clip of a class among those with its id, and whether others would do as well."""
    own = [c for c in candidates if key(c.path.parent.name) == key(class_name)] or candidates
    return (own[0] if own else None), len(own) > 1


def _in_several_classes(rows: dict[str, set[Row]]) -> set[str]:
    classes: dict[str, set[str]] = defaultdict(set)
    for of_split in rows.values():
        for name, video in of_split:
            classes[video].add(name)
    return {video for video, names in classes.items() if len(names) > 1}


def prepare_custom(name: str, root: Path, progress: Callable[[int], None] | None = None) -> Prepared:
    """A dataset of one's own: a folder `split/class/clip`, or a CSV with the columns path, class, split and perhaps text.

    Raises:
        DataError: the folder has none of the splits, a class lies in two splits, or the CSV lacks a column.
    """
    rows = _from_csv(root) if root.is_file() else _from_folders(root, progress)
    splits: dict[str, str] = {}
    texts: dict[str, str] = {}
    for split, class_name, _, text in rows:
        if splits.setdefault(class_name, split) != split:
            raise DataError(
                f"The class {class_name!r} stands in {splits[class_name]} and in {split}: splits share no class."
            )
        texts.setdefault(class_name, text or class_name.replace("_", " "))
    classes = [{"name": c, "text": texts[c], "split": splits[c]} for c in sorted(splits)]
    out = Prepared(name, name, classes, [])
    kinds = set()
    for _, class_name, clip, _ in sorted(rows, key=lambda row: (row[0], row[1], str(row[2].path))):
        stem = clip.path.name if clip.frames else clip.path.stem
        kinds.add(clip.frames > 0)
        extra = {"frames": clip.frames} if clip.frames else {}
        out.clips.append({"id": f"{class_name}/{stem}", "class": class_name, "path": str(clip.path.resolve()), **extra})
    if len(kinds) > 1:
        raise DataError(f"{root} has some clips as videos and some as folders of images. Keep to one kind.")
    out.frames = kinds.pop()
    return out


def _from_folders(root: Path, progress) -> Iterable[tuple[str, str, Found, str]]:
    rows = []
    for clips in index(root, progress).values():
        for clip in clips:
            parts = clip.path.relative_to(root).parts
            if len(parts) >= 3 and parts[0] in SPLITS:
                rows.append((parts[0], parts[1], clip, ""))
    if not rows:
        raise DataError(f"{root} needs folders train, val and test, with a folder for each class, with its clips.")
    return rows


def _from_csv(path: Path) -> Iterable[tuple[str, str, Found, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table_rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The CSV {path} cannot be read ({error}).") from error
    lacking = {"path", "class", "split"} - set(table_rows[0] if table_rows else ())
    if lacking:
        raise DataError(f"The CSV {path} lacks the column {sorted(lacking)[0]!r} (or has no rows).")
    rows = []
    for number, row in enumerate(table_rows, 2):
        if row["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {number}: unknown split {row['split']!r}.{suggest(row['split'] or '', SPLITS)}"
            )
        place = path.parent / row["path"]
        frames = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in place.iterdir()) if place.is_dir() else 0
        if not place.exists():
            raise DataError(f"{path}, line {number}: {place} does not exist.")
        rows.append((row["split"], row["class"], Found(place, frames), row.get("text") or ""))
    return rows


def store(prepared: Prepared) -> Path:
    """Write the annotation, the ids of missing clips, and lists in mmaction2's format; returns the annotation's path."""
    folder = data_folder() / prepared.name
    data = {
        "kind": "frames" if prepared.frames else "videos",
        "classes": prepared.classes,
        "clips": prepared.clips,
    }
    missing = "".join(f"{row['class']}\t{row['id']}\n" for row in prepared.missing)
    write_atomically(folder / "missing.txt", missing.encode())
    split_of = {row["name"]: row["split"] for row in prepared.classes}
    for split in SPLITS:
        names = sorted(name for name, own in split_of.items() if own == split)
        number = {name: i for i, name in enumerate(names)}
        lines = [
            f"{row['path']} {str(row['frames']) + ' ' if prepared.frames else ''}{number[row['class']]}\n"
            for row in prepared.clips
            if row["path"] and split_of[row["class"]] == split
        ]
        write_atomically(folder / f"mmaction2_{split}.txt", "".join(lines).encode())
    write_atomically(folder / "annotation.json", to_json(data))
    return folder / "annotation.json"


def known_names() -> list[str]:
    """Names that `data prepare` knows, lineages included."""
    from fsar_bench.config.resolve import names

    return [name for name in names("datasets") if not name.startswith("synthact")]


def check_name(name: str) -> None:
    """Raise `ConfigError` unless a dataset config of this name ships."""
    if name not in known_names():
        raise ConfigError(f"Unknown dataset {name!r}.{suggest(name, known_names())}")
