"""Keys: hashes of what stored work depends on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import torch

from fsar_bench.config.cell import Cell
from fsar_bench.data.dataset import Split
from fsar_bench.data.frames import FrameSource
from fsar_bench.engine.hashing import hash_splits
from fsar_bench.io import digest
from fsar_bench.method import FewShotMethod


@dataclass(frozen=True)
class Keys:
    """What stored work depends on.

    Attributes:
        training: what changes a checkpoint; None where nothing is trained.
        embedding: what changes encoded clips, the weights aside.
        train_embedding: the same for clips of the dataset of the training.
        weights: fingerprint of the pretrained weights, taken before training.
    """

    training: str | None
    embedding: str
    train_embedding: str
    weights: str


def make_keys(
    cell: Cell,
    method: FewShotMethod,
    splits: list[Split],
    source: FrameSource,
    train_source: FrameSource,
    device: torch.device,
) -> Keys:
    """The keys of a cell.

    Args:
        cell: the cell.
        method: built, with its pretrained weights.
        splits: those that it is trained and chosen on; empty where nothing is trained.
        source: how frames of tested clips are read.
        train_source: how frames of clips of the training are read.
        device: where the method runs.
    """
    identity, record = cell.identity, cell.identity.model_dump(mode="json")
    code = {name: sha for name, sha in identity.inputs.items() if name.startswith("module")}
    weights, libraries = method.backbone.fingerprint(), [version(name) for name in method.backbone.libraries]
    libraries += ["channels last"] if method.backbone.is_resnet and device.type == "cpu" else []

    def embedding_of(clips: FrameSource) -> str:
        plan, sampling = clips.plan, identity.protocol.sampling
        geometry = [plan.resize, plan.crop, plan.frames, clips.reader_version]
        return digest([identity.engine, record["backbone"], geometry, sampling, code, libraries, device.type])

    embedding, train_embedding = embedding_of(source), embedding_of(train_source)
    if not splits:
        return Keys(None, embedding, train_embedding, weights)
    hash_splits(splits)
    trained = {
        "engine": identity.engine,
        "method": {k: v for k, v in record["method"].items() if k not in method.score_only},
        "train": record["train"],
        "template": identity.protocol.template,
        "seed": identity.protocol.seed,
        "embedding": train_embedding,
        "inputs": _of_training(identity.inputs) if identity.train_dataset else identity.inputs,
        "weights": weights,
        "splits": [split.fingerprint for split in splits],
    }
    if identity.class_texts:
        trained["class_texts"] = record["class_texts"]
    if identity.protocol.group_disjoint:
        trained["group_disjoint"] = True
    return Keys(digest(trained), embedding, train_embedding, weights)


def _of_training(inputs: dict[str, str]) -> dict[str, str]:
    """Inputs as a cell that is tested on the dataset of the training has them: both share the training."""
    others = {name: sha for name, sha in inputs.items() if name not in ("annotation", "quarantine")}
    return {name.removeprefix("train "): sha for name, sha in others.items()}
