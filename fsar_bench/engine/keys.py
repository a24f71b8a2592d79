"""Keys: hashes of what stored work depends on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import torch

from fsar_bench.config.cell import Cell
from fsar_bench.data.dataset import Split
from fsar_bench.data.frames import FrameSource
from fsar_bench.io import digest
from fsar_bench.method import FewShotMethod


@dataclass(frozen=True)
class Keys:
    """What stored work depends on.

    Attributes:
        training: what changes a checkpoint; None where nothing is trained.
        embedding: what changes encoded clips, the weights aside.
        weights: fingerprint of the pretrained weights, taken before training.
    """

    training: str | None
    embedding: str
    weights: str


def make_keys(
    cell: Cell, method: FewShotMethod, splits: list[Split], source: FrameSource, device: torch.device
) -> Keys:
    """The keys of a cell.

    Args:
        cell: the cell.
        method: built, with its pretrained weights.
        splits: those that it is trained and chosen on; empty where nothing is trained.
        source: how frames are read.
        device: where the method runs.
    """
    identity, plan = cell.identity, source.plan
    geometry = [plan.resize, plan.crop, plan.frames, source.reader_version]
    code = {name: sha for name, sha in identity.inputs.items() if name.startswith("module")}
    weights, libraries = method.backbone.fingerprint(), [version(name) for name in method.backbone.libraries]
    record = identity.model_dump(mode="json")
    backbone, sampling = record["backbone"], identity.protocol.sampling
    embedding = digest([identity.engine, backbone, geometry, sampling, code, libraries, device.type])
    if not splits:
        return Keys(None, embedding, weights)
    trained = {
        "engine": identity.engine,
        "method": {k: v for k, v in record["method"].items() if k not in method.score_only},
        "train": record["train"],
        "template": identity.protocol.template,
        "seed": identity.protocol.seed,
        "embedding": embedding,
        "inputs": identity.inputs,
        "weights": weights,
        "splits": [split.fingerprint for split in splits],
    }
    if identity.protocol.group_disjoint:
        trained["group_disjoint"] = True
    return Keys(digest(trained), embedding, weights)
