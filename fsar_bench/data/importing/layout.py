"""Layouts of custom datasets: which clips belong to which split and class, and what to do about other layouts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fsar_bench.data.dataset import SPLITS
from fsar_bench.data.faults import examples
from fsar_bench.errors import ConfigError, DataError
from fsar_bench.randomness import generator

SEED = 0  # of the division of classes into splits
COLUMNS = "path,class,split"
_OTHER_NAMES = {  # of splits, as other projects call their folders
    "training": "train",
    "trn": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
    "tst": "test",
    "eval": "test",
}


@dataclass(frozen=True)
class Division:
    """How many classes train, val and test get.

    Attributes:
        train: number of classes to train on.
        val: number of classes to select on.
        test: number of classes to test on.
    """

    train: int
    val: int
    test: int

    def __str__(self) -> str:
        return f"{self.train}/{self.val}/{self.test}"

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of classes in the order train, val, test."""
        return self.train, self.val, self.test

    @classmethod
    def parse(cls, text: str) -> Division:
        """Numbers as `--classes` takes them, such as "64/12/24".

        Raises:
            ConfigError: it is something else, or leaves no class to test on.
        """
        if not re.fullmatch(r"\d+/\d+/\d+", text):
            raise ConfigError(f"--classes={text!r} must be three numbers of classes, TRAIN/VAL/TEST, such as 64/12/24.")
        division = cls(*map(int, text.split("/")))
        if division.test < 2:
            raise ConfigError(f"--classes={text} leaves fewer than 2 classes to test on.")
        return division

    @classmethod
    def proposed(cls, classes: int) -> Division:
        """A division of so many classes: near 64/12/24, with 5 of each for 5-way episodes where there are enough."""
        if classes < 6:
            return cls(0, 0, classes)
        val = test = classes // 3 if classes < 15 else 5
        if classes >= 42:
            val, test = round(0.12 * classes), round(0.24 * classes)
        return cls(classes - val - test, val, test)

    def divide(self, classes: Iterable[str]) -> dict[str, str]:
        """The split of each class: the sorted names in a random order that depends on nothing else.

        Raises:
            ConfigError: there are not as many classes as this divides.
        """
        names = sorted(classes)
        if len(names) != sum(self.counts):
            raise ConfigError(
                f"--classes={self} divides {sum(self.counts)} classes, but there are {len(names)}. Say, for example, "
                f"--classes {Division.proposed(len(names))}."
            )
        order = generator(SEED, "division of classes").permutation(len(names))
        splits = [split for split, count in zip(SPLITS, self.counts, strict=True) for _ in range(count)]
        return {names[number]: split for number, split in zip(order, splits, strict=True)}


def looks_like_splits(folders: Iterable[str]) -> bool:
    """Whether a folder has the name of a split in other words or letters, and that split has no folder of its own."""
    names = set(folders)
    renamed = {_OTHER_NAMES.get(name.lower(), name.lower()) for name in names - set(SPLITS)}
    return bool((renamed & set(SPLITS)) - names)


def wrong_layout(root: Path, places: list[tuple[str, ...]]) -> DataError:
    """The error for a folder that has clips, but not as `split/class/clip`: what was found, and what to do.

    Args:
        root: the folder.
        places: path of each clip relative to the folder, in parts.
    """
    table = f"name a CSV with the columns {COLUMNS} as --root"
    folders = Counter(parts[0] for parts in places if len(parts) > 1)
    needed = f"{root} needs folders train, val and test, with a folder for each class, with its clips"
    if not folders:
        return DataError(
            f"{needed}; its clips ({len(places)}) are in no folder. Sort them into such folders, or {table}."
        )
    if root.resolve().name in SPLITS:
        return DataError(
            f"{needed}; it seems to be such a folder itself. Say --root {root.resolve().parent}, or {table}."
        )
    renamed = {name: _OTHER_NAMES.get(name.lower(), name.lower()) for name in folders}
    splits = {name: split for name, split in renamed.items() if split in SPLITS}
    if any(name not in SPLITS for name in splits):
        pairs = ", ".join(f"{name} to {split}" for name, split in sorted(splits.items()) if name != split)
        return DataError(f"{needed}; it has {_listed(splits)}. Rename {pairs}, or {table}.")
    if splits:
        loose = sum(parts[0] in splits for parts in places)
        return DataError(
            f"{needed}; {loose} clips are directly in {_listed(splits)}, in no folder of a class. Make a folder for each "
            f"class, or {table}."
        )
    if len(folders) == 1:
        (only,) = folders
        return DataError(f"{needed}; all its clips are below {only}. Say --root {root / only}, or {table}.")
    return DataError(
        f"{needed}; it has {len(folders)} other folders with clips ({_listed(folders)}). If these are the classes, let them "
        f"be divided at random with --classes TRAIN/VAL/TEST, such as --classes {Division.proposed(len(folders))}; or {table}."
    )


def _listed(names: Iterable[str]) -> str:
    return examples(sorted(names), ", ")
