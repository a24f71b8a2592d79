"""Our episodes for other code bases, and their predictions as rows of our tables. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fsar_bench.config.cell import ENGINE, Cell, Identity, Label, Traits
from fsar_bench.config.files import DatasetConfig, protocol_of
from fsar_bench.config.inputs import annotation_digests
from fsar_bench.config.overrides import text_settings
from fsar_bench.config.resolve import dataset_config
from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, Protocol, Settings, Text
from fsar_bench.data.dataset import Split, open_dataset
from fsar_bench.data.importing.audit import known_recordings, recordings
from fsar_bench.engine.hashing import hash_splits
from fsar_bench.errors import ConfigError, ResultError, shown, suggest
from fsar_bench.io import to_json, user_path, write_atomically
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.predictions import measure, pack_predictions
from fsar_bench.results.record import (
    BackboneRecord,
    Cost,
    DataRecord,
    EpisodesRecord,
    FramesRecord,
    ParametersRecord,
    Result,
)
from fsar_bench.results.store import Stored, write

UNKNOWN = "0" * 64  # stands for the fingerprint of weights that were not seen here


@dataclass(frozen=True)
class EpisodeFiles:
    """One episode as another code base reads it.

    Attributes:
        number: of the episode.
        classes: name of each class; its place is its label.
        support: paths of the supports of each class.
        query: paths of the queries.
        labels: true label of each query.
    """

    number: int
    classes: list[str]
    support: list[list[Path]]
    query: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class Episodes:
    """The episodes of a protocol on a dataset.

    Attributes:
        config: of the dataset.
        protocol_name: name of the protocol's config.
        protocol: its rules.
        split: the clips.
        plan: the episodes as arrays of class and clip numbers.
    """

    config: DatasetConfig
    protocol_name: str
    protocol: Protocol
    split: Split
    plan: EpisodePlan

    @classmethod
    def of(cls, dataset: str, settings: Mapping[str, Any]) -> Episodes:
        """Draw the episodes; see `fsar_bench.episodes`."""
        known = (*PROTOCOL_KEYS, "protocol")
        for key in settings:
            if key not in known:
                raise ConfigError(f"Unknown key {key!r}.{suggest(key, known)}")
        chosen = {key: str(value) for key, value in text_settings(settings).items()}
        config = dataset_config(dataset)
        name, protocol = protocol_of(config, chosen)
        clips = open_dataset(**config.dataset.model_dump())
        split = clips.split(protocol.split)
        plan = EpisodePlan.sample(
            split.list,
            way=protocol.way,
            shot=protocol.shot,
            query=protocol.query,
            episodes=protocol.episodes,
            seed=protocol.seed,
            purpose=protocol.split,
            missing=split.missing,
            recording=known_recordings(clips.name, split) if protocol.group_disjoint else None,
        )
        return cls(config, name, protocol, split, plan.with_recordings(recordings(clips.name, split)))

    @property
    def classes(self) -> np.ndarray:
        """Class number of each label, int32 `[E, N]`."""
        return self.plan.classes

    @property
    def support(self) -> np.ndarray:
        """Clip numbers of the supports, int32 `[E, N, K]`."""
        return self.plan.support

    @property
    def query(self) -> np.ndarray:
        """Clip numbers of the queries, int32 `[E, N, query]`; query q of class n is query number n * query + q of its episode."""
        return self.plan.query

    @property
    def labels(self) -> np.ndarray:
        """True label of each query of an episode, int64 `[Q]`."""
        return self.plan.labels

    @property
    def class_names(self) -> list[str]:
        """Name of each class."""
        return list(self.split.list.classes)

    @property
    def class_texts(self) -> list[str]:
        """What text encoders read of each class, before the prompt template."""
        return list(self.split.texts)

    @property
    def clip_ids(self) -> list[str]:
        """Id of each clip."""
        return [clip.id for clip in self.split.clips]

    @property
    def clip_paths(self) -> list[Path | None]:
        """Path of each clip; None where it is missing on this machine (no episode holds it then)."""
        return [None if clip.id in self.split.missing else clip.path for clip in self.split.clips]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> EpisodeFiles:
        """One episode with its files."""
        if not 0 <= number < len(self):
            raise IndexError(f"The plan has episodes 0 to {len(self) - 1}, not {number}.")
        paths = [clip.path for clip in self.split.clips]
        return EpisodeFiles(
            number,
            [self.class_names[c] for c in self.plan.classes[number]],
            [[paths[clip] for clip in of_class] for of_class in self.plan.support[number]],
            [paths[clip] for clip in self.plan.query[number].ravel()],
            self.plan.labels.tolist(),
        )

    def __iter__(self) -> Iterator[EpisodeFiles]:
        return (self[number] for number in range(len(self)))

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON, for a code base that does not import fsar_bench; returns the path."""
        paths = [str(place) if place else None for place in self.clip_paths]
        data = {
            "dataset": self.config.dataset.name,
            "protocol": self.protocol.model_dump(mode="json"),
            "plan": self.plan.digest,
            "class_names": self.class_names,
            "class_texts": self.class_texts,
            "clip_ids": self.clip_ids,
            "clip_paths": paths,
            "classes": self.classes.tolist(),
            "support": self.support.tolist(),
            "query": self.query.tolist(),
        }
        file = user_path(path)
        write_atomically(file, to_json(data), hint="")
        return file


class About(Settings):
    """What tables say of a submitted method."""

    paper: Text = Field("", description="where the method comes from")
    backbone: Text = Field("unknown", description="its encoder")
    pretraining: Text = Field("unknown", description="what the encoder was trained on")
    uses_class_names: bool = Field(False, description="class texts reach the prediction")
    transductive: bool = Field(False, description="the prediction of a query depends on the other queries")
    trainable: bool = Field(True, description="it was trained on the train split")
    order_sensitive: bool = Field(True, description="the order of frames can change a prediction")
    ignores_supports: bool = Field(False, description="predictions do not depend on the supports (zero-shot text)")
    set_wise: bool = Field(False, description="videos of an episode see each other inside its encoder")
    parameters: int = Field(0, ge=0, description="all parameters; 0 is unknown")
    trained_parameters: int = Field(0, ge=0, description="trained parameters")


def submit(plan: Episodes, predictions: Any, *, name: str, out: Path, **about: Any) -> Stored:
    """Store predictions; see `fsar_bench.score_predictions`."""
    told = About.of(about)
    prediction = _checked(plan, predictions)
    hash_splits([plan.split])
    packed = pack_predictions(prediction, None)
    cell = _cell(plan, name, told, hashlib.sha256(packed).hexdigest())
    result = Result(
        config_hash=cell.hash,
        training_key=None,
        cell=cell,
        submitted=True,
        data=DataRecord(
            list_hash=plan.split.list.digest,
            fingerprint=plan.split.fingerprint,
            classes=len(plan.class_names),
            class_names=plan.split.list.names_digest,
            clips=plan.split.size,
            coverage=float(plan.split.coverage),
            recordings=plan.plan.recordings_digest,
        ),
        episodes=_episodes(plan),
        frames=FramesRecord(reader=_reader_version(cell.identity.reader), resize=0, crop=0),
        backbone=BackboneRecord(
            model=told.backbone, weights=UNKNOWN, pretraining=told.pretraining, activation="unknown", precision="unknown",
            mean=(), std=(),
        ),
        traits=Traits(**{key: getattr(told, key) for key in Traits.model_fields}),
        metrics=measure(prediction, plan.labels, None),
        parameters=ParametersRecord(trainable=told.trained_parameters, total=told.parameters),
        predictions=hashlib.sha256(packed).hexdigest(),
    )  # fmt: skip
    return write(out / "results", result, packed, Cost(), plan.plan)


def _checked(plan: Episodes, predictions: Any) -> np.ndarray:
    """Predictions as uint8 `[E, Q]`.

    Raises:
        ResultError: another shape, or labels that do not exist.
    """
    try:
        given = np.asarray(predictions)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # rows of several lengths, objects
        raise ResultError(f"The predictions are no array of whole numbers [E, Q] ({error}).") from error
    shape = (len(plan), len(plan.labels))
    if given.shape != shape or not np.issubdtype(given.dtype, np.integer):
        raise ResultError(f"The predictions are {given.dtype} {given.shape}, not whole numbers [E, Q] = {shape}.")
    if given.min() < 0 or given.max() >= plan.protocol.way:
        raise ResultError(
            f"The predictions hold the label {given.min() if given.min() < 0 else given.max()}: labels go from 0 to "
            f"{plan.protocol.way - 1}, the place of a class within its episode."
        )
    return given.astype(np.uint8)


def _cell(plan: Episodes, name: str, about: About, predictions: str) -> Cell:
    if not isinstance(name, str):
        raise ConfigError(f"name={shown(name)} must be text.")
    Choices.of({"title": name}, where="The name of the method cannot be a title: ")
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-").lower()
    if not slug:
        raise ConfigError(f"name={shown(name)} holds no letter or digit.")
    if len(slug) > 100:
        raise ConfigError(f"name={shown(name)} is too long: at most 100 characters.")
    identity = Identity(
        engine=ENGINE,
        name=slug,
        method={"type": "Submitted", "title": name},
        custom_imports=[],
        dataset=plan.config.dataset.portable,
        backbone={
            "name": re.sub(r"[^A-Za-z0-9_.-]+", "_", about.backbone).strip("_.-") or "unknown",
            "type": "Submitted",
        },
        protocol=plan.protocol,
        reader=str(Choices.model_fields["reader"].default),
        inputs={**annotation_digests(plan.config.dataset), "predictions": predictions},
    )
    label = Label(
        title=name,
        paper=about.paper,
        changed={},
        dataset=plan.config.title or plan.config.dataset.name,
        synthetic=plan.config.synthetic,
        protocol=plan.protocol_name,
        control=False,
    )
    return Cell(identity=identity, label=label)


def _episodes(plan: Episodes) -> EpisodesRecord:
    prompts = "\n".join(plan.protocol.template.format(text) for text in plan.class_texts)
    return EpisodesRecord(
        plan=plan.plan.digest,
        realised=plan.plan.realised,
        class_names=hashlib.sha256(prompts.encode()).hexdigest(),
        selection_split=None,
    )


def _reader_version(name: str) -> str:
    """Version of the reader whose frames our rows have: a submitted row joins their board."""
    from fsar_bench.registry import READERS, find

    return str(find(READERS, name).version)
