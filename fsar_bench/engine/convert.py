"""Official checkpoints made into ones that `checkpoint=` evaluates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fsar_bench.config.cell import Cell
from fsar_bench.engine.checkpoint import load_trainable, save_best
from fsar_bench.engine.components import build_method
from fsar_bench.errors import ConfigError, WeightsError
from fsar_bench.io import file_digest
from fsar_bench.storage.recall import check_limits


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint: how many tensors were read, and the SHA-256 of the file."""

    tensors: int
    sha: str


def convert(cell: Cell, source: Path, out: Path) -> Converted:
    """Convert a checkpoint, check its shapes against the method, and write safetensors.

    Args:
        cell: of the method on its backbone.
        source: the official checkpoint, which also holds the image tower.
        out: file to write.

    Raises:
        ConfigError: `source` does not exist, `out` exists, or the method has no official checkpoints.
        WeightsError: the checkpoint is damaged or does not fit the method.
    """
    if not source.is_file():
        raise ConfigError(f"The checkpoint {source} does not exist (looked for {source.resolve()}).")
    if out.exists():
        raise ConfigError(f"{out} exists. Name another file with out=, or delete it.")
    method = build_method(_without_weights(cell))
    state = _tensors(source)
    load_trainable(method, type(method).from_official(state), source)
    save_best(out, method)
    return Converted(len(state), file_digest(out))


def _without_weights(cell: Cell) -> Cell:
    """The cell on a backbone with random weights: the checkpoint brings its own."""
    identity = cell.identity.model_copy(update={"backbone": {**cell.identity.backbone, "pretrained": None}})
    return Cell(identity=identity, label=cell.label).with_setup(replace(cell.setup, pretrained=None))


def _tensors(source: Path) -> dict[str, Tensor]:
    try:
        file = torch.load(source, map_location="cpu", weights_only=True)
        state = file.get("model_state", file)
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    except Exception as error:
        check_limits(error, source)
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise WeightsError(
            f"The checkpoint {source} is damaged or not one of tensors and plain values ({reason})."
        ) from error
