"""The record of a result: everything about a cell that repeats, and what it cost. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from fsar_bench.config.cell import Cell, Sha, Traits
from fsar_bench.config.settings import Frozen, Protocol, Text
from fsar_bench.storage.limits import MOST_CLASSES

SCHEMA: Literal[2] = 2
Amount = Annotated[int, Field(ge=0, le=10**15)]
Spent = Annotated[float, Field(ge=0, le=10**15)]
Percent = Annotated[float, Field(ge=0, le=100)]


class DataRecord(Frozen):
    """The clips.

    Attributes:
        list_hash: SHA-256 of the canonical list of the split.
        fingerprint: SHA-256 over the ids and contents of the clips on that machine.
        classes: number of classes.
        class_names: SHA-256 of the names of the classes, which the plan keeps.
        clips: number of clips of the full list.
        coverage: share of the list that was on that machine.
        recordings: SHA-256 of the numbers of the source recordings of the clips, which the plan keeps; None where they are not
            known.
        learned_from: SHA-256 over the ids and contents of the train clips whose statistics the score uses; None where it uses
            none.
    """

    unhashed_defaults = frozenset({"recordings", "learned_from"})

    list_hash: Sha
    fingerprint: Sha
    classes: Annotated[int, Field(ge=2, le=MOST_CLASSES)]
    class_names: Sha
    clips: Annotated[int, Field(ge=2, le=10**8)]
    coverage: Annotated[float, Field(ge=0, le=1)]
    recordings: Sha | None = None
    learned_from: Sha | None = None


class EpisodesRecord(Frozen):
    """The episodes.

    Attributes:
        plan: hash of the plan as drawn from the full list.
        realised: hash of the plan with missing clips replaced.
        class_names: SHA-256 of the prompts of all classes.
        selection_split: split on which a checkpoint or weights were chosen; None where nothing was.
    """

    plan: Sha
    realised: Sha
    class_names: Sha
    selection_split: Text | None


class FramesRecord(Frozen):
    """How clips were read: name and version of the reader, short side and centre crop in pixels."""

    reader: Text
    resize: Amount
    crop: Amount


class BackboneRecord(Frozen):
    """The encoder.

    Attributes:
        model: architecture.
        weights: fingerprint of the pretrained weights.
        pretraining: what they were trained on.
        activation: of the model.
        precision: of the evaluation.
        mean: RGB mean of the normalisation, of values in 0..1.
        std: RGB standard deviation.
    """

    model: Text
    weights: Sha
    pretraining: Text
    activation: Text
    precision: Text
    mean: Annotated[tuple[float, ...], Field(max_length=16)]
    std: Annotated[tuple[float, ...], Field(max_length=16)]


class MetricsRecord(Frozen):
    """Accuracies in percent. `interval95` is the half-width over episodes."""

    accuracy: Percent
    interval95: Annotated[float, Field(ge=0)] | None
    pair_accuracy: Percent | None
    pair_queries: Amount | None


class ParametersRecord(Frozen):
    """Numbers of parameters."""

    trainable: Amount
    total: Amount


class Result(Frozen):
    """One cell and what was measured: everything that repeats.

    Attributes:
        config_hash: hash of the cell.
        training_key: hash of what changes the checkpoint; None where nothing was trained.
        fitted: what the method chose on val; None where it chooses nothing.
        submitted: the predictions were handed in by another code base and not computed here.
        predictions: SHA-256 of the predictions file.
    """

    unhashed_defaults = frozenset({"submitted"})

    schema_version: Literal[2] = SCHEMA
    config_hash: Sha
    training_key: Sha | None
    cell: Cell
    fitted: Annotated[dict[Text, float | Text], Field(max_length=100)] | None = None
    submitted: bool = False
    data: DataRecord
    episodes: EpisodesRecord
    frames: FramesRecord
    backbone: BackboneRecord
    traits: Traits
    metrics: MetricsRecord
    parameters: ParametersRecord
    predictions: Sha

    @model_validator(mode="after")
    def _is_of_its_cell(self) -> Self:
        if self.cell.hash != self.config_hash:
            raise ValueError(f"its cell has the hash {self.cell.hash[:8]}, not {self.config_hash[:8]}")
        return self

    @property
    def folder(self) -> Path:
        """Where it is stored below `results/`."""
        return self.cell.folder

    @property
    def plan_name(self) -> str:
        """File name of its realised plan, stored in `plans/`."""
        return plan_name(self.episodes.realised, self.data.recordings)

    @property
    def protocol(self) -> Protocol:
        """The rules of the evaluation."""
        return self.cell.protocol

    @property
    def name(self) -> str:
        """Name of the method's config."""
        return self.cell.name

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.cell.identity.dataset.name

    @property
    def trained_on(self) -> str | None:
        """Name of the dataset of the training and of val; None for a method that is not trained."""
        identity = self.cell.identity
        if identity.train is None:
            return None
        return (identity.train_dataset or identity.dataset).name

    @property
    def checkpoint(self) -> str | None:
        """The trained weights: the file that the cell names, or its training; None where nothing is trained."""
        if "checkpoint" in self.cell.identity.inputs:
            return self.cell.label.changed.get("checkpoint", self.cell.identity.inputs["checkpoint"][:8])
        return f"training-{self.training_key[:8]}" if self.training_key else None

    @property
    def backbone_name(self) -> str:
        """Name of the backbone's config."""
        return str(self.cell.identity.backbone["name"])

    @property
    def labels(self) -> np.ndarray:
        """True label of each query of an episode, int64 `[Q]`."""
        return np.repeat(np.arange(self.protocol.way), self.protocol.query)


class Seconds(Frozen):
    """Seconds of each stage; None where there was none."""

    train: Spent | None = None
    encode: Spent | None = None
    score: Spent | None = None


class PeakMemory(Frozen):
    """Peak memory of the cell's process in MB (10^6 bytes): on the host, and on the GPU where there was one."""

    host: Spent
    device: Spent | None = None


class TrainingCost(Frozen):
    """What a training did with its time, validations aside.

    Attributes:
        waiting: seconds in which it waited for clips.
        utilisation: share of its time in which it did not.
        clips_per_second: clips that it encoded, whole steps counted.
        memory: peak memory of its process.
    """

    waiting: Spent
    utilisation: Annotated[float, Field(ge=0, le=1)]
    clips_per_second: Spent
    memory: PeakMemory


class Environment(Frozen):
    """What a cost was measured on."""

    device: Text
    threads: Amount
    machine: Text
    python: Text
    packages: Annotated[dict[Text, Text | None], Field(max_length=1000)]


class Cost(Frozen):
    """What cannot repeat: times, memory and the environment."""

    seconds: Seconds = Seconds()
    videos: Amount | None = None
    memory: PeakMemory | None = None
    training: TrainingCost | None = None
    environment: Environment | None = None

    @property
    def memory_mb(self) -> float | None:
        """Peak memory where the method ran: of the GPU if there was one, else of the host."""
        if self.memory is None:
            return None
        return self.memory.host if self.memory.device is None else self.memory.device


def plan_name(realised: str, recordings: str | None) -> str:
    """File name of a plan by its realised hash and that of its recordings; None where it has none.

    The same episodes may be stored without recordings and with them, or with corrected ones.
    """
    return f"{realised[:16]}{f'-{recordings[:16]}' if recordings else ''}.npz"
