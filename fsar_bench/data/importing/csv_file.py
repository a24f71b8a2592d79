"""Custom clips from a CSV: columns path, class, split, and optionally text and recording. Every fault is told with its line."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fsar_bench.data.dataset import SPLITS
from fsar_bench.data.disk import SIDECAR_SUFFIXES, identity, is_video, stem_of, suffix_of
from fsar_bench.data.images import frame_series, is_image
from fsar_bench.data.importing.custom import (
    CustomClip,
    CustomClips,
    fault_of_name,
    fault_of_path,
    fault_of_text,
    plain_name,
    refuse,
)
from fsar_bench.data.importing.layout import Division
from fsar_bench.data.importing.walk import BESIDE_FRAMES, ClipOnDisk, PassedOver
from fsar_bench.errors import ConfigError, DataError, shown, suggest
from fsar_bench.io import read_text, reason_of, user_path

COLUMNS = ("path", "class", "split", "text", "recording")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


class _FaultyRowError(Exception):
    """What is wrong with a row."""


@dataclass(frozen=True)
class _Row:
    """A row: its first line in the file, and its cells by column, without blanks around them."""

    line: int
    cells: dict[str, str]


def from_csv(path: Path, division: Division | None) -> CustomClips:
    """Clips that a CSV lists, whose paths are relative to it.

    Args:
        path: the CSV; its columns are separated by commas, semicolons or tabs.
        division: where the classes are to be divided; the CSV has no column split then.

    Raises:
        ConfigError: the classes are divided already.
        DataError: it cannot be read or lacks a column, or rows have faults; all of them are told, with their lines.
    """
    text = _text(path)
    separator, columns = _header(path, text)
    if division and "split" in columns:
        raise ConfigError(f"The CSV {path} has the column split: its classes are divided. Leave --classes out.")
    lacking = {"path", "class"} | (set() if division else {"split"})
    if lacking := lacking - set(columns):
        advice = " Or let the classes be divided with --classes TRAIN/VAL/TEST." if lacking == {"split"} else ""
        have = ", ".join(column or "(no name)" for column in columns)
        raise DataError(f"The CSV {path} lacks the column {sorted(lacking)[0]!r}; it has {have[:200]}.{advice}")
    clips: list[CustomClip] = []
    faults: list[str] = []
    passed_over = PassedOver()
    for row in _rows(path, text, separator, columns, faults):
        try:
            clips.append(_clip(path, row, passed_over, is_divided=not division))
        except _FaultyRowError as fault:
            faults.append(f"line {row.line}: {fault}")
    refuse(str(path), faults)
    if not clips:
        raise DataError(f"The CSV {path} has no rows below its header.")
    refuse(str(path), _texts_that_differ(clips))
    return CustomClips(clips, passed_over=passed_over)


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The CSV {path} cannot be read ({reason_of(error)}). It must be UTF-8 text.") from error


def _header(path: Path, text: str) -> tuple[str, list[str]]:
    """The separator, and the names of the columns in lower case."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    best: list[str] = []
    chosen = ","
    for separator in _SEPARATORS:
        columns = _columns(path, first, separator)
        if len({*columns} & {*COLUMNS}) > len({*best} & {*COLUMNS}) or not best:
            best, chosen = columns, separator
    for column in COLUMNS:
        if best.count(column) > 1:
            raise DataError(f"The CSV {path} has the column {column!r} {best.count(column)} times.")
    for column in set(best) - set(COLUMNS):
        close = difflib.get_close_matches(column, set(COLUMNS) - set(best), n=1, cutoff=0.8)
        if close:
            raise DataError(f"The CSV {path} has a column {shown(column)}. Did you mean {close[0]!r}?")
    return chosen, best


def _columns(path: Path, line: str, separator: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise DataError(f"The header of the CSV {path} cannot be read ({error}).") from error


def _rows(path: Path, text: str, separator: str, columns: list[str], faults: list[str]) -> Iterator[_Row]:
    """The rows below the header; blank ones are skipped, ragged ones become faults."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    is_header, line = True, 1
    try:
        for cells in reader:
            first, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if is_header:
                is_header = False
            elif len(cells) < len(columns):
                faults.append(f"line {first}: {len(cells)} cells, but the header has {len(columns)}")
            elif any(cell.strip() for cell in cells[len(columns) :]):
                faults.append(
                    f"line {first}: {len(cells)} cells, but the header has {len(columns)}; quote a cell that holds the "
                    f"{_SEPARATORS[separator]}"
                )
            else:
                yield _Row(first, {name: cell.strip() for name, cell in zip(columns, cells, strict=False)})
    except csv.Error as error:
        raise DataError(f"The CSV {path} cannot be read from line {line} on ({error}).") from error


def _clip(path: Path, row: _Row, passed_over: PassedOver, *, is_divided: bool) -> CustomClip:
    """The clip of one row."""
    cells = row.cells
    name = plain_name(cells["class"])
    if not cells["path"]:
        raise _FaultyRowError("the path is empty")
    if fault := fault_of_name(name):
        raise _FaultyRowError(fault)
    split = cells.get("split", "").lower()
    if is_divided and split not in SPLITS:
        raise _FaultyRowError(f"unknown split {shown(cells['split'])}.{suggest(split, SPLITS)}".removesuffix("."))
    recording = cells.get("recording")
    if recording == "":
        raise _FaultyRowError("the recording is empty. A column recording needs a cell in every row")
    if fault := fault_of_text("text", cells.get("text", "")) or fault_of_text("recording", recording or ""):
        raise _FaultyRowError(fault)
    try:
        clip = _on_disk(path, _place(path, cells["path"]), passed_over)
    except (OSError, ValueError) as error:  # too long a name, no permission, a null byte
        raise _FaultyRowError(f"{cells['path'][:200]!r} cannot be read ({reason_of(error)})") from error
    if fault := fault_of_path(str(clip.path)):
        raise _FaultyRowError(fault)
    where = f"line {row.line} ({cells['path']})"
    return CustomClip(split, name, clip, where, clip.place, cells.get("text", ""), recording)


def _place(path: Path, written: str) -> Path:
    """The file or folder that a cell names; Windows' separators are understood."""
    try:
        place, other = (path.parent / user_path(text) for text in (written, written.replace("\\", "/")))
    except ConfigError as error:
        raise _FaultyRowError(str(error).removesuffix(".")) from error
    if not place.exists() and other.exists():
        return other
    if not place.exists():
        broken = ", a broken link" if place.is_symlink() else ""
        raise _FaultyRowError(f"{place} does not exist{broken}")
    return place


def _on_disk(path: Path, place: Path, passed_over: PassedOver) -> ClipOnDisk:
    """The clip at a place; the path of a link stays, because what it points to may have no extension."""
    whole = _resolved(place.parent) / place.name if place.name not in ("", "..") else place.resolve()
    if place.is_dir():
        return _folder(path, place, whole, passed_over)
    if not place.is_file():
        raise _FaultyRowError(f"{place} is no file")
    if is_image(place.name):
        raise _FaultyRowError(f"{place} is an image: a clip is a video or a folder of images")
    if suffix_of(place.name) in SIDECAR_SUFFIXES and not is_video(place):
        raise _FaultyRowError(f"{place} is no video")
    parts = _parts(path, whole.with_name(stem_of(whole.name)))
    return ClipOnDisk(whole, 0, parts, inode=identity(place), is_link=place.is_symlink())


def _folder(path: Path, place: Path, whole: Path, passed_over: PassedOver) -> ClipOnDisk:
    """A clip that is a folder of images."""
    own = identity(place)
    if own in {identity(parent) for parent in (path.resolve().parent, *path.resolve().parents)}:
        raise _FaultyRowError(f"{place} is the folder of the CSV itself, or above it")
    try:
        series = frame_series(place)
    except DataError as error:
        raise _FaultyRowError(str(error).removesuffix(".")) from error
    if not series.names:
        raise _FaultyRowError(f"{place} is a folder without images")
    if series.passed_over:
        passed_over.add(BESIDE_FRAMES, place / series.passed_over[0], len(series.passed_over))
    gaps = bool(series.missing)
    return ClipOnDisk(whole, len(series.names), _parts(path, whole), inode=own, is_link=place.is_symlink(), gaps=gaps)


def _parts(path: Path, whole: Path) -> tuple[str, ...]:
    """A place in parts, relative to the folder of the CSV where it is below it."""
    folder = _resolved(path.parent)
    parts = whole.relative_to(folder).parts if whole.is_relative_to(folder) else whole.parts[1:]
    return tuple(parts)


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    """A folder, links resolved: rows of a CSV share few."""
    return folder.resolve()


def _texts_that_differ(clips: list[CustomClip]) -> list[str]:
    """Classes that have two texts."""
    first: dict[str, CustomClip] = {}
    faults: dict[str, str] = {}
    for clip in clips:
        if clip.text and first.setdefault(clip.class_name, clip).text != clip.text:
            other = first[clip.class_name]
            faults.setdefault(
                clip.class_name,
                f"{clip.where}: the class {clip.class_name!r} has the text {clip.text!r}, but {other.text!r} on {other.where}",
            )
    return list(faults.values())
