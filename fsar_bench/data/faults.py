"""Faults of an annotation that would let clips vanish or leak without a word: each is said in one sentence."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from fsar_bench.errors import shown
from fsar_bench.io import fault_of_path
from fsar_bench.texts.characters import JOINERS, counted, name_fault, shortened

if TYPE_CHECKING:
    from fsar_bench.data.dataset import AnnotatedClass, AnnotatedClip

SHOWN = 3  # examples in a message
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MINUS = re.compile(r"(?<![^\W_])-(?=\d)")  # before a number and after no letter or digit: "rotate -90"
_BETWEEN_DIGITS = re.compile(r"(?<=\d) +(?=\d)")
_KEPT_PUNCTUATION = frozenset("#%&*@\ue000")
_SIGN = "\ue000"  # stands for a minus while other dashes are dropped


@cache  # of class names, of which there are few
def spelling(name: str) -> str:
    """What all spellings of a name have in common, in any script.

    Case, blanks, punctuation and Unicode forms do not count. Letters, digits and symbols do ("C++" is not "C"), and so do a
    blank between two digits ("1 1" is not "11") and a minus before a number. A name that holds nothing else is its own.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    parts = [_spelled(character) for character in _MINUS.sub(_SIGN, folded)]
    kept = _BETWEEN_DIGITS.sub("\ue001", "".join(parts)).replace(" ", "").replace("\ue001", " ")
    return kept or folded


def _spelled(character: str) -> str:
    """A character that counts, a blank for one that separates, nothing for one that is invisible."""
    kind = unicodedata.category(character)
    if kind == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    return character if kind[0] in "LNMS" or character in _KEPT_PUNCTUATION else " "


def examples(texts: Sequence[str], separator: str = "; ") -> str:
    """The first few of some texts, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return separator.join(texts[:SHOWN]) + more


def annotation_faults(classes: Sequence[AnnotatedClass], clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    """What is wrong with an annotation, as sentences that follow "In FILE, "."""
    yield from _bad_names("class name", (row.name for row in classes))
    yield from _bad_texts(classes)
    yield from _bad_names("clip id", (clip.id for clip in clips))
    yield from _bad_names("class text", (row.text for row in classes))
    yield from _bad_names("group", (row.group for row in classes if row.group is not None))
    yield from _bad_names("recording", (clip.recording for clip in clips if clip.recording))
    yield from _bad_paths(clips)
    yield from _classes_listed_twice(classes)
    yield from _unknown_classes(classes, clips)
    yield from _ids_listed_twice(clips)
    yield from _paths_listed_twice(clips)
    yield from _lacking_recordings(clips)


def _bad_names(what: str, names: Iterable[str]) -> Iterator[str]:
    """Names that are empty, or that would break the lines of a list."""
    for name in names:
        if not name.strip():
            yield f"a {what} is empty ({name!r}). Give it a name."
            return
        if _CONTROL.search(name):
            yield f"the {what} {shown(name)} holds a control character, such as a line break. Remove it."
            return


def _bad_texts(classes: Sequence[AnnotatedClass]) -> Iterator[str]:
    """Class names that no plan or table may hold, and texts that no text encoder should read."""
    for row in classes:
        if fault := name_fault(row.name):
            yield f"the class name {shortened(row.name)!r} {fault}. Rename the class."
            return
        if fault := name_fault(row.text, allowed=JOINERS):
            yield f"the text {shortened(row.text)!r} of the class {row.name!r} {fault}. Correct it."
            return


def _bad_paths(clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    for clip in clips:
        if clip.path is None:
            continue
        may_be_long = len(clip.path) > 63  # of up to 4 bytes each
        fault = fault_of_path(clip.path) if may_be_long or "\0" in clip.path else "" if clip.path else "it is empty"
        if fault:
            yield (
                f"the path of the clip {shown(clip.id)} is no path: {shown(clip.path)}, {fault}. Correct it, or write null "
                "where the clip is missing."
            )
            return


def _classes_listed_twice(classes: Sequence[AnnotatedClass]) -> Iterator[str]:
    count = Counter(row.name for row in classes)
    if len(count) == len(classes):
        return
    splits: dict[str, list[str]] = defaultdict(list)
    for row in classes:
        splits[row.name].append(row.split)
    twice = [f"{name!r} ({' and '.join(splits[name])})" for name, number in count.items() if number > 1]
    yield f"{counted(len(twice), 'class is', 'classes are')} listed twice: {examples(twice)}. Keep one line of each."


def _unknown_classes(classes: Sequence[AnnotatedClass], clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    unknown = sorted({clip.class_name for clip in clips} - {row.name for row in classes})
    if unknown:
        yield f"clips are of the class {shown(unknown[0])}, which is not among the classes."


def _ids_listed_twice(clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    if len({(clip.class_name, clip.id) for clip in clips}) == len(clips):
        return
    count = Counter((clip.class_name, clip.id) for clip in clips)
    twice = [f"{name!r} of {class_name!r}" for (class_name, name), number in count.items() if number > 1]
    yield f"a clip id occurs twice in one class: {examples(twice)}. Remove the duplicates."


def _paths_listed_twice(clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    """A path under two ids of one class. Under two classes it may be a clip of two labels: runs look at that."""
    first: dict[tuple[str, str], str] = {}
    twice = []
    for clip in clips:
        if clip.path is None:
            continue
        other = first.setdefault((clip.class_name, os.path.normpath(clip.path)), clip.id)
        if other != clip.id:
            twice.append(f"{clip.path} as {other!r} and {clip.id!r} of {clip.class_name!r}")
    if twice:
        number = counted(len(twice), "clip has", "clips have")
        yield f"{number} the path of another clip of its class: {examples(twice)}. Keep one id of each file."


def _lacking_recordings(clips: Sequence[AnnotatedClip]) -> Iterator[str]:
    lacking = [clip for clip in clips if not (clip.recording or "").strip()]
    if 0 < len(lacking) < len(clips):
        named = examples([repr(clip.id) for clip in lacking], ", ")
        yield (
            f"{len(lacking)} of {len(clips)} clips lack the recording that they come from ({named}), and the others have one. "
            "Name it for all clips or for none."
        )


def twin_fault(classes: Iterable[AnnotatedClass]) -> str | None:
    """Classes whose names are spellings of one name, as a sentence that follows "In FILE, "; None where there are none."""
    first: dict[str, AnnotatedClass] = {}
    twins = []
    for row in classes:
        other = first.setdefault(spelling(row.name), row)
        if other is not row:
            twins.append(f"{other.name!r} ({other.split}) and {row.name!r} ({row.split})")
    if not twins:
        return None
    number = counted(len(twins), "class is another spelling", "classes are other spellings")
    return f"{number} of a class: {examples(twins)}. Give the clips of both one class, or the classes distinct names."
