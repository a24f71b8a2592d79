"""Class names of the field's splits, which ship with the project: facts, one JSON file per dataset in `known/`.

Each file has a `title` and, for each split, its classes in the order of their split-local numbers: `name` (folder or label),
`text` (what the text encoder reads) and, where there are such, `label` (the official number of the label) and `clips` (how many
the published list has of the class).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from fsar_bench.data.dataset import SPLITS
from fsar_bench.data.faults import spelling
from fsar_bench.errors import ConfigError, suggest

KNOWN = Path(__file__).with_name("known")


@dataclass(frozen=True)
class ClassName:
    """One class of a split.

    Attributes:
        name: of its folder or label.
        text: what the text encoder reads.
        split: to which it belongs.
        number: its number within the split, as list files use it.
        label: its official number, or None.
        clips: number of its clips in the published list, where every clip of the class belongs to it; or None.
    """

    name: str
    text: str
    split: str
    number: int
    label: int | None = None
    clips: int | None = None


@dataclass(frozen=True)
class ClassTable:
    """Classes of a dataset, found by any spelling of their names.

    Attributes:
        dataset: name without lineage.
        title: title of the dataset.
        classes: of all splits.
    """

    dataset: str
    title: str
    classes: tuple[ClassName, ...]

    def find(self, name: str) -> ClassName | None:
        """The class with this name, in any spelling (see `faults.spelling`)."""
        return self._by_spelling.get(spelling(name))

    def number(self, split: str, number: int) -> ClassName | None:
        """The class with a split-local number."""
        return self._by_number.get((split, number))

    def label(self, label: int) -> ClassName | None:
        """The class with an official label."""
        return self._by_label.get(label)

    @cached_property
    def _by_spelling(self) -> dict[str, ClassName]:
        return {spelling(c.name): c for c in self.classes}

    @cached_property
    def _by_number(self) -> dict[tuple[str, int], ClassName]:
        return {(c.split, c.number): c for c in self.classes}

    @cached_property
    def _by_label(self) -> dict[int, ClassName]:
        return {c.label: c for c in reversed(self.classes) if c.label is not None}


def known_datasets() -> list[str]:
    """Datasets whose classes ship, without their lineages."""
    return sorted(path.stem for path in KNOWN.glob("*.json") if path.stem != "lineages")


@cache
def table(dataset: str) -> ClassTable:
    """Classes of a dataset.

    Args:
        dataset: its name; a lineage after "@" is ignored.

    Raises:
        ConfigError: the classes of this dataset do not ship.
    """
    base = dataset.partition("@")[0]
    if base not in known_datasets():
        raise ConfigError(f"The classes of {base!r} do not ship.{suggest(base, known_datasets())}")
    data = json.loads((KNOWN / f"{base}.json").read_text(encoding="utf-8"))
    classes = tuple(
        ClassName(row["name"], row["text"], split, number, row.get("label"), row.get("clips"))
        for split in SPLITS
        for number, row in enumerate(data["classes"].get(split, []))
    )
    return ClassTable(base, data["title"], classes)
