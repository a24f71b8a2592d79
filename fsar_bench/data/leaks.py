"""Clips that stand in two splits, or twice in one, whatever they are called: by their content, so links and copies too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from fsar_bench.data.contents import Progress, contents_of
from fsar_bench.data.dataset import Clip, Split
from fsar_bench.data.faults import examples, spelling
from fsar_bench.texts.characters import counted

Pair = tuple[Clip, Clip]


@dataclass(frozen=True)
class Contents:
    """The clips of a split that are on this disk, with their contents.

    Attributes:
        split: the split.
        clips: those that are on this disk.
        contents: SHA-256 of each.
    """

    split: Split
    clips: Sequence[Clip]
    contents: list[str]

    @classmethod
    def of(cls, split: Split, progress: Progress | None = None) -> Contents:
        """Hash the clips of a split whose contents are not known yet.

        Raises:
            DataError: a clip is missing, empty, unreadable, or not the one that its annotation records.
        """
        clips = split.present
        return cls(split, clips, contents_of(clips, progress))

    def shared_with(self, other: Contents) -> list[Pair]:
        """Clips that another split has too, each with its first counterpart there."""
        there: dict[str, Clip] = {}
        for clip, content in zip(other.clips, other.contents, strict=True):
            there.setdefault(content, clip)
        return [
            (clip, there[content]) for clip, content in zip(self.clips, self.contents, strict=True) if content in there
        ]

    @property
    def repeated(self) -> list[Pair]:
        """Clips that are in the split before, under another id, each with its first occurrence."""
        first: dict[str, Clip] = {}
        pairs = []
        for clip, content in zip(self.clips, self.contents, strict=True):
            before = first.setdefault(content, clip)
            if before is not clip:
                pairs.append((before, clip))
        return pairs


def described(pairs: Sequence[Pair]) -> str:
    """The first few pairs with their paths, and whether they are one file or copies."""
    return examples([_described(*pair) for pair in pairs])


def _described(one: Clip, other: Clip) -> str:
    names = [named(clip) for clip in (one, other)]
    if one.path == other.path:
        return f"{names[0]} and {names[1]} are {one.path}"
    relation = "is the file of" if _is_one_file(one, other) else "has the content of"
    return f"{names[0]} ({one.path}) {relation} {names[1]} ({other.path})"


def named(clip: Clip) -> str:
    """Id and class of a clip; the ids of custom clips begin with their class."""
    is_told = clip.id.startswith(f"{clip.class_name}/")
    return repr(clip.id) if is_told else f"{clip.id!r} of {clip.class_name!r}"


def _is_one_file(one: Clip, other: Clip) -> bool:
    """Whether two paths lead to one file or folder: through a link, or as hard links."""
    try:
        return os.path.samefile(one.path, other.path)
    except OSError:  # one of them was removed meanwhile
        return False


def repeats(contents: Contents, dataset: str) -> str | None:
    """A sentence on the clips that a split holds twice; None where there are none."""
    pairs = contents.repeated
    if not pairs:
        return None
    name = contents.split.name
    number = counted(len(pairs), "clip", "clips")
    other = sum(one.class_name != two.class_name for one, two in pairs)
    labels = f", {other} of them under two classes" if other else ""
    why = (
        "a query can be among its own supports" if name == "test" else "episodes can hold one clip as support and query"
    )
    return (
        f"The {name} split of {dataset} ({len(contents.clips)} clips) holds {number} under a second id{labels}: {why}. "
        f"{described(pairs)}."
    )


def shared_names(tested: Split, learned: Sequence[Split]) -> list[str]:
    """Tested classes whose name or text is, in any spelling, that of a class of other splits, as texts."""
    known: dict[str, str] = {}
    for split in learned:
        for name, text in zip(split.list.classes, split.texts, strict=True):
            for each in (name, text):
                known.setdefault(spelling(each), name)
    shared = []
    for name, text in zip(tested.list.classes, tested.texts, strict=True):
        other = known.get(spelling(name)) or known.get(spelling(text))
        if other is not None:
            shared.append(f"{name!r} as {other!r}")
    return shared
