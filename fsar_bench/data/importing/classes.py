"""Class names of the field's splits, which ship with the project: facts, one JSON file a dataset in `known/`.

Each file holds `title` and, for each split, its classes in the order of their split-local numbers: `name` (folder or label),
`text` (what the text encoder reads) and, where there is one, `label` (the official number of the label).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from fsar_bench.errors import ConfigError, suggest

KNOWN = Path(__file__).with_name("known")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ClassName:
    """One class of a split.

    Attributes:
        name: of its folder or label.
        text: what the text encoder reads.
        split: where it belongs.
        number: its number within the split, as list files use it.
        label: its official number, or None.
    """

    name: str
    text: str
    split: str
    number: int
    label: int | None = None


@dataclass(frozen=True)
class ClassTable:
    """Classes of a dataset, found by any spelling of their names."""

    dataset: str
    title: str
    classes: tuple[ClassName, ...]

    def find(self, name: str) -> ClassName | None:
        """The class of a name, whatever its case, spaces, underscores and brackets."""
        return self._by_key.get(key(name))

    def number(self, split: str, number: int) -> ClassName | None:
        """The class of a split-local number."""
        mine = [c for c in self.classes if c.split == split]
        return mine[number] if 0 <= number < len(mine) else None

    def label(self, label: int) -> ClassName | None:
        """The class of an official label."""
        return next((c for c in self.classes if c.label == label), None)

    @cached_property
    def _by_key(self) -> dict[str, ClassName]:
        return {key(c.name): c for c in self.classes}


def key(name: str) -> str:
    """What two spellings of a class name share: letters and digits in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def known_datasets() -> list[str]:
    """Datasets whose classes ship, without their lineages."""
    return sorted(path.stem for path in KNOWN.glob("*.json") if path.stem != "lineages")


@cache
def table(dataset: str) -> ClassTable:
    """Classes of a dataset (a lineage after "@" is ignored).

    Raises:
        ConfigError: they are not known.
    """
    base = dataset.partition("@")[0]
    if base not in known_datasets():
        raise ConfigError(f"The classes of {base!r} do not ship.{suggest(base, known_datasets())}")
    data = json.loads((KNOWN / f"{base}.json").read_text(encoding="utf-8"))
    classes = tuple(
        ClassName(row["name"], row["text"], split, number, row.get("label"))
        for split in SPLITS
        for number, row in enumerate(data["classes"].get(split, []))
    )
    return ClassTable(base, data["title"], classes)
