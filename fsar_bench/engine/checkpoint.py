"""Checkpoints of tensors and plain values: written whole or not at all, loaded with `weights_only=True`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fsar_bench.errors import WeightsError


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
        raise WeightsError(
            f"The checkpoint {path} does not fit this method ({wrong[0]!r} differs). Delete it to train again."
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def save_best(path: Path, method: nn.Module) -> None:
    """Write the trainable state as safetensors."""
    _replace(
        path, lambda temporary: save_file({k: v.contiguous() for k, v in trainable_state(method).items()}, temporary)
    )


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


def save_last(path: Path, state: dict) -> None:
    """Write the training state."""
    _replace(path, lambda temporary: torch.save(state, temporary))


def load_last(path: Path) -> dict:
    """Read what `save_last` wrote.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "iteration" not in state:
            raise ValueError("it is not a training state")
        return state
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return WeightsError(f"The checkpoint {path} is damaged ({reason}). Delete the folder {path.parent} to train again.")


def _replace(path: Path, write) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise WeightsError(
            f"Cannot write the checkpoint {path} ({error.strerror}). Choose another folder with work_dir=."
        ) from error
