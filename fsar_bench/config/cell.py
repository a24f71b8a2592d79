"""Cell: one method on one dataset under one protocol with one seed; the unit of work, of resumption and of scale-out.

What changes a result is `identity` and is hashed; what people read is `label`; what this machine alone needs to know is
`setup`, which is neither hashed nor recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from fsar_bench.config.fields import one_line
from fsar_bench.config.plain import REGISTERED, RESERVED, plain_config
from fsar_bench.config.settings import KEY_PATTERN, NAME_PATTERN, Frozen, Name, Protocol, Sha, Text, Train, is_no_file
from fsar_bench.config.tuned import TunedLabel
from fsar_bench.io import digest
from fsar_bench.texts.characters import LONGEST

LOG = "log.txt"  # in a cell's work folder
TIMM = "timm:"  # begins the name of a backbone that is any image model of timm
HUB = "hf-hub:"  # begins the id of weights that are fetched from a hub
HUB_ID = re.compile(HUB + r"\w[\w.-]*/\w[\w.@-]*")
KEPT = ("builtin:", "prepared:")  # begin the name of an annotation that fsar-bench keeps
ENGINE = 1  # raised when a change of the engine changes results
Module = Annotated[str, Field(pattern=r"^\w[\w-]*(\.\w[\w-]*)*$", max_length=200)]
Input = Annotated[str, Field(max_length=1000), AfterValidator(one_line)]
CHANGED = re.compile(r"(method|train)(\.[\w-]+)+|matcher|activation|pretrained|checkpoint|train_on|recipe|features")


def is_file_name(text: str) -> bool:
    """Whether a text is the name of a file without any folder."""
    return text not in ("", ".", "..") and not text.startswith("~") and not re.search(r"[/\\\x00]", text)


class Traits(Frozen):
    """Properties that a method declares about itself; the leaderboard shows them and `MethodTester` tests them.

    Attributes:
        uses_class_names: class texts influence the prediction.
        trainable: the method is trained on the train split.
        transductive: the prediction for a query depends on the other queries.
        order_sensitive: the order of frames can change a prediction.
        ignores_supports: predictions do not depend on the supports (zero-shot text).
        set_wise: the videos of an episode are encoded together, which is done again for every episode.
    """

    unhashed_defaults = frozenset({"ignores_supports", "set_wise"})

    uses_class_names: bool
    trainable: bool
    transductive: bool
    order_sensitive: bool
    ignores_supports: bool = False
    set_wise: bool = False


class DatasetSource(Frozen):
    """Where a dataset's clips are listed.

    Attributes:
        name: of the dataset or variant.
        annotation: "builtin:NAME", "prepared:NAME" or the path of an annotation; in a cell's identity, where its content
            counts, only the name of that file.
        groups: groups of classes that a variant keeps; None keeps all.
    """

    name: Name
    annotation: Annotated[str, Field(max_length=4096)]
    groups: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=1000)] | None = None

    @field_validator("annotation")
    @classmethod
    def _names_one_that_is_kept(cls, annotation: str) -> str:
        kind, _, name = annotation.partition(":")
        if f"{kind}:" in KEPT and not re.fullmatch(NAME_PATTERN.removesuffix("$"), name):
            raise ValueError(f"annotation={annotation[:100]!r} names no dataset: {kind}: is followed by a plain name.")
        return annotation

    @property
    def is_file(self) -> bool:
        """Whether the annotation is a file that the user names."""
        return not self.annotation.startswith(KEPT)

    @property
    def portable(self) -> DatasetSource:
        """The same without the place of the annotation on this machine."""
        return self.model_copy(update={"annotation": Path(self.annotation).name}) if self.is_file else self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `groups` where the config does not name them."""
        data = handler(self)
        return {k: v for k, v in data.items() if k != "groups" or "groups" in self.model_fields_set}


class Identity(Frozen):
    """Everything that changes a result.

    Attributes:
        engine: version of the engine, `ENGINE`.
        name: of the method's config.
        method: config of the method, with its registered type.
        train: None for a method that is not trained.
        train_dataset: on what the method is trained and chosen, where that is not the tested dataset.
        custom_imports: modules that the configs of the cell import.
        backbone: config of the backbone, with the name of its config; weights from a file are known by their file name here
            and by their content in `inputs`.
        reader: registered name of the reader.
        inputs: SHA-256 of the files that the cell depends on: annotations, weights, custom modules, checkpoint.
        class_texts: spellings of class texts that replace those of the datasets, by their letters and digits.
    """

    unhashed_defaults = frozenset({"train", "train_dataset", "class_texts"})

    engine: int
    name: Name
    method: dict[str, Any]
    train: Train | None = None
    train_dataset: DatasetSource | None = None
    custom_imports: Annotated[list[Module], Field(max_length=100)]
    dataset: DatasetSource
    backbone: dict[str, Any]
    protocol: Protocol
    reader: Text
    inputs: Annotated[dict[Input, Sha], Field(max_length=3000)]
    class_texts: Annotated[list[Text], Field(max_length=3000)] = Field([])

    @field_validator("method", "backbone")
    @classmethod
    def _is_plain(cls, config: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        what = str(info.field_name)
        return plain_config(config, what, reserved=RESERVED[what])

    @field_validator("dataset", "train_dataset")
    @classmethod
    def _has_no_place(cls, source: DatasetSource | None) -> DatasetSource | None:
        if source and source.is_file and not is_file_name(source.annotation):
            raise ValueError(
                f"the annotation {source.annotation[:100]!r} is a path: an identity has names of files alone."
            )
        return source

    @field_validator("backbone")
    @classmethod
    def _has_a_name(cls, config: dict[str, Any]) -> dict[str, Any]:
        name, pretrained = config.get("name"), config.get("pretrained")
        plain = name.removeprefix(TIMM) if isinstance(name, str) else ""
        if not re.fullmatch(NAME_PATTERN.removesuffix("$"), plain) or len(plain) > 100:
            raise ValueError("a backbone needs a name of letters, digits, '_', '-', '.' and '@'.")
        is_no_file(plain)
        if isinstance(pretrained, str) and not (is_file_name(pretrained) or HUB_ID.fullmatch(pretrained)):
            raise ValueError(
                f"pretrained={pretrained[:100]!r} is a path: an identity has tags and names of files alone."
            )
        return config

    @field_validator("reader")
    @classmethod
    def _is_registered(cls, reader: str) -> str:
        if not re.fullmatch(REGISTERED, reader):
            raise ValueError(f"reader={reader!r} is not the name of a reader: letters, digits, '_' and '-', no dots.")
        return reader

    @property
    def training_seed(self) -> int:
        """Seed of initialisation, training episodes and dropout: the protocol's unless train.seed is set."""
        return self.protocol.seed if self.train is None or self.train.seed is None else self.train.seed


class Label(Frozen):
    """What people read.

    Attributes:
        title: of the method.
        named: what the user calls the row (`title=`); None for the method's title with its changed settings.
        paper: of the method.
        changed: settings of the method, its training or its weights that the user set, by key.
        dataset: title of the dataset.
        synthetic: the dataset is synthetic, never ranked with real ones.
        protocol: name of the protocol's config.
        control: the dataset's config names the method as a control.
        tuned: the tuning that its settings come from; None where they are those of configs.
    """

    unhashed_defaults = frozenset({"named", "tuned"})

    title: Text
    named: Text | None = None
    paper: Text
    changed: dict[Annotated[str, Field(pattern=KEY_PATTERN, max_length=LONGEST)], Text] = Field({}, max_length=200)
    dataset: Text
    synthetic: bool
    protocol: Name
    control: bool
    tuned: TunedLabel | None = None

    @field_validator("changed")
    @classmethod
    def _are_settings(cls, changed: dict[str, str]) -> dict[str, str]:
        """Keys and values that `show` may resolve again: none names a config's file, or a file in a folder."""
        for key, value in changed.items():
            if not CHANGED.fullmatch(key):
                raise ValueError(f"{key[:100]!r} is no setting that a row can have changed.")
            if key in ("pretrained", "checkpoint", "train_on") and not is_file_name(value):
                raise ValueError(f"{key}={value[:100]!r} is a path: a record has tags and names of files alone.")
            if key == "train_on":
                is_no_file(value)
        return changed

    def without(self, settings: Mapping[str, str]) -> Label:
        """The same label without some changed settings, for lists in which every entry has them."""
        kept = {key: value for key, value in self.changed.items() if settings.get(key) != value}
        return self.model_copy(update={"changed": kept})

    @property
    def row(self) -> str:
        """Title of a row: what the user calls it, or the method with its changed settings in brackets."""
        if self.named is not None:
            return self.named
        changed = ", ".join(f"{key}={value}" for key, value in sorted(self.changed.items()))  # as a record is sorted
        return f"{self.title} ({changed})" if changed else self.title


@dataclass(frozen=True)
class Setup:
    """What a run on this machine needs to know beside the cell; neither hashed nor recorded.

    Attributes:
        module_folders: folders on the import path while the modules of `custom_imports` load.
        dataset: where the tested dataset is listed on this machine.
        train_dataset: the same of the dataset of the training.
        pretrained: path of the weights, where they are a file or folder.
        checkpoint: path of a checkpoint that is evaluated instead of training.
        whole_clips_up_to: clips of at most this many frames are cached whole for training.
        overlaps: clips that the train split shares with val and test of other datasets, by dataset.
        is_added: the user did not name this method (it is a control, or one of all): it is left out where it does not apply.
    """

    module_folders: tuple[str, ...] = ()
    dataset: DatasetSource | None = None
    train_dataset: DatasetSource | None = None
    pretrained: str | None = None
    checkpoint: Path | None = None
    whole_clips_up_to: int = 0
    overlaps: dict[str, int] = field(default_factory=dict)
    is_added: bool = False


class Cell(Frozen):
    """One unit of work: see the module's docstring."""

    identity: Identity
    label: Label
    _setup: Setup = PrivateAttr(default=Setup())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `identity`."""
        return digest(self.identity.model_dump(mode="json"))

    @property
    def setup(self) -> Setup:
        """What this machine alone needs to know; empty for a cell that was read from a record."""
        return self._setup

    @property
    def dataset(self) -> DatasetSource:
        """Where the tested dataset is listed on this machine."""
        return self._setup.dataset or self.identity.dataset

    @property
    def train_dataset(self) -> DatasetSource:
        """Where the dataset of the training is listed on this machine: the tested one unless the cell names another."""
        return self._setup.train_dataset or self.identity.train_dataset or self.dataset

    def with_setup(self, setup: Setup) -> Cell:
        """The same cell, prepared for this machine."""
        cell = self.model_copy()
        cell._setup = setup
        return cell

    @property
    def name(self) -> str:
        """Name of the method's config."""
        return self.identity.name

    @property
    def protocol(self) -> Protocol:
        """The rules of the evaluation."""
        return self.identity.protocol

    @property
    def is_as_tuned(self) -> bool:
        """Whether its settings are those that a tuning chose, with the backbone that was tuned, and no others."""
        tuned, changed = self.label.tuned, set(self.label.changed) - {"features", "train_on"}
        return tuned is not None and tuned.backbone == self.identity.backbone["name"] and not changed

    @property
    def folder(self) -> Path:
        """Where its result is stored below `results/`."""
        p = self.protocol
        return Path(self.identity.dataset.name, f"{p.way}way_{p.shot}shot", f"{self.name}-{self.hash[:8]}")

    @property
    def work_folder(self) -> Path:
        """Where its log and score parts are stored below the work folder."""
        return Path(self.identity.dataset.name, f"{self.name}-{self.hash[:8]}")

    def training_folder(self, key: str) -> Path:
        """Where a training is stored below the work folder; cells that share its key share the folder."""
        return Path(self.train_dataset.name, f"{self.name}-training-{key[:8]}")

    def __eq__(self, other: object) -> bool:
        """Cells are equal if identity and label are; on which machine they are to run does not matter."""
        return isinstance(other, Cell) and (self.identity, self.label) == (other.identity, other.label)

    def __hash__(self) -> int:
        return hash(self.hash)

    def __str__(self) -> str:
        p = self.protocol
        seed = f" seed {p.seed}" if p.seed else ""
        training_seed = self.identity.train and self.identity.train.seed
        seed += f" training seed {training_seed}" if training_seed is not None else ""
        split = "" if p.split == "test" else f" ({p.split} split)"
        shown = "" if p.frames_as == "as_is" else f", frames {p.frames_as}"
        return f"{self.label.row} on {self.identity.dataset.name}{split}, {p.way}-way {p.shot}-shot{seed}{shown}"


def common_training(cells: Iterable[Cell]) -> dict[str, str]:
    """The settings of the training (`train.*`) that all trained cells of a list have in common."""
    trained = [cell.label.changed for cell in cells if cell.identity.train is not None]
    first = trained[0] if trained else {}
    return {
        key: value
        for key, value in first.items()
        if key.startswith("train.") and all(changed.get(key) == value for changed in trained)
    }


def short_names(cells: list[Cell]) -> list[str]:
    """Cells in words, without the settings of the training that all trained ones have in common."""
    common = common_training(cells)
    return [str(cell.model_copy(update={"label": cell.label.without(common)})) for cell in cells]
