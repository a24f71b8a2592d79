"""What a checkpoint was trained on, as the checkpoint itself records it. Imports no torch."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fsar_bench.data.contents import contents_of
from fsar_bench.data.dataset import Split
from fsar_bench.io import canonical
from fsar_bench.storage.recall import check_limits

KEY = "fsar_bench_trained_on"  # of the metadata of a safetensors file
_BYTES = 6  # of each content: 100,000 and 10,000 other clips agree by chance with a probability of 4e-6


class TrainedOn(BaseModel):
    """The classes and clips that weights were trained and chosen on.

    Attributes:
        dataset: name of the dataset.
        classes: names of the classes of the train and val splits, sorted.
        clips: the first bytes of the content of each of their clips, sorted, as one text in base 64.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    dataset: str
    classes: list[str]
    clips: str

    @field_validator("clips")
    @classmethod
    def _is_base_64(cls, clips: str) -> str:
        base64.b64decode(clips, validate=True)  # raises a ValueError
        return clips

    @classmethod
    def of(cls, dataset: str, splits: Sequence[Split]) -> TrainedOn:
        """What a training uses.

        Args:
            dataset: name of the dataset.
            splits: train and val.
        """
        classes = sorted({name for split in splits for name in split.list.classes})
        contents = {_short(content) for split in splits for content in contents_of(split.present)}
        return cls(dataset=dataset, classes=classes, clips=base64.b64encode(b"".join(sorted(contents))).decode())

    @classmethod
    def read(cls, path: Path) -> TrainedOn | None:
        """What a checkpoint records; None where it records nothing, as files of other programs."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                recorded = (file.metadata() or {}).get(KEY)
            return None if recorded is None else cls.model_validate_json(recorded)
        except (SafetensorError, OSError, ValidationError) as error:
            check_limits(error, path)
            return None

    @property
    def metadata(self) -> dict[str, str]:
        """As safetensors files keep it."""
        return {KEY: canonical(self.model_dump())}

    def holds(self, contents: Sequence[str]) -> list[bool]:
        """Whether each of some contents is among the clips."""
        data = base64.b64decode(self.clips)
        known = {data[start : start + _BYTES] for start in range(0, len(data), _BYTES)}
        return [_short(content) in known for content in contents]


def _short(content: str) -> bytes:
    return bytes.fromhex(content)[:_BYTES]


def metadata_of(train: Any, val: Any) -> dict[str, str]:
    """What a training's checkpoint records, from the datasets of its episodes; nothing where they are of another kind."""
    splits = [getattr(episodes, "split", None) for episodes in (train, val)]
    known = [split for split in splits if isinstance(split, Split)]
    if len(known) < len(splits):
        return {}
    return TrainedOn.of(train.dataset.name, known).metadata
