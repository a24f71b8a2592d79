"""Checkpoints of tensors and plain values: written whole or not at all, loaded with `weights_only=True` or as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fsar_bench.errors import WeightsError
from fsar_bench.io import replacing, write_cached


def trainable_state(method: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that take gradients, and buffers."""
    state = {name: p.detach() for name, p in method.named_parameters() if p.requires_grad}
    persistent = method.state_dict()
    return state | {name: buffer for name, buffer in method.named_buffers() if name in persistent}


def load_trainable(method: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put a state from `trainable_state` back.

    Raises:
        WeightsError: names or shapes do not fit the method.
    """
    expected = trainable_state(method)
    wrong = sorted(set(expected) ^ set(state)) or [k for k in expected if expected[k].shape != state[k].shape]
    if wrong:
        shapes = [list(part[wrong[0]].shape) if wrong[0] in part else "none" for part in (state, expected)]
        raise WeightsError(
            f"The checkpoint {path} does not fit this method ({wrong[0]!r}: {shapes[0]} in the file, {shapes[1]} in the method). "
            "Name the method.*, backbone=, frames= and train_on= that it was trained with."
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def save_best(path: Path, method: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write the trainable state as safetensors, with what it was trained on (see `provenance`) if that is known."""
    data = save({name: tensor.contiguous() for name, tensor in trainable_state(method).items()}, metadata or None)
    with replacing(path, hint="work_dir=") as file:
        file.write(data)


def load_best(path: Path, method: nn.Module) -> None:
    """Read what `save_best` wrote.

    Raises:
        WeightsError: missing, damaged or of another method.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    load_trainable(method, state, path)


def load_named(path: Path, method: nn.Module) -> None:
    """Read a checkpoint that the user names.

    Raises:
        WeightsError: it is none, or of another method.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"checkpoint={path} is no checkpoint of fsar-bench: name a best.safetensors of a training (not last.pt, its state), "
            "or turn an official checkpoint into one with fsar-bench convert."
        ) from error
    load_trainable(method, state, path)


def save_last(path: Path, state: dict[str, Any]) -> None:
    """Write the training state; where it cannot be written, warn once: the training goes on, and is not resumed from here."""
    write_cached(path, lambda file: torch.save(state, file), sync=True)


def load_last(path: Path) -> dict[str, Any]:
    """Read what `save_last` wrote.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "iteration" not in state:
            raise ValueError("it is not a training state")
    except Exception as error:
        raise _damaged(path, error) from error
    return state


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return WeightsError(f"The checkpoint {path} is damaged ({reason}). Delete the folder {path.parent} to train again.")
