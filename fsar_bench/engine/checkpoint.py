"""Checkpoints of tensors and plain values: sealed, written whole or not at all, loaded with `weights_only=True`."""

from __future__ import annotations

import hashlib
import math
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fsar_bench.errors import WeightsError
from fsar_bench.io import read_whole, reason_of, replacing, write_cached
from fsar_bench.storage.recall import check_limits, recall
from fsar_bench.storage.sealed import (
    DamagedError,
    Writable,
    check_tensors,
    has_seal,
    seal_tensors,
    unseal,
    write_sealed,
)

_STATE: dict[str, type | tuple[type, ...]] = {
    "iteration": int,
    "seconds": (int, float),
    "best_sha": str,
    "model": dict,
    "optimizer": dict,
    "schedulers": list,
}
"""What the state of a training holds at least."""


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


def save_best(path: Path, method: nn.Module, metadata: dict[str, str] | None = None, *, made_from: str = "") -> str:
    """Write the trainable state as sealed safetensors.

    Args:
        path: the file.
        method: it.
        metadata: what it was trained on (see `provenance`) if that is known.
        made_from: key of the training; empty for a checkpoint that was converted.

    Returns:
        SHA-256 of the file.

    Raises:
        ResultError: the folder cannot be written.
    """
    data = save({name: tensor.contiguous() for name, tensor in trainable_state(method).items()})
    head, body = seal_tensors(data, made_from, metadata or {})
    with replacing(path, hint="work_dir=") as file:
        file.writelines((head, body))
    sha = hashlib.sha256(head)
    sha.update(body)
    return sha.hexdigest()


def check_best(path: Path, made_from: str, sha: str | None = None) -> bytes:
    """Bytes of what `save_best` wrote.

    Args:
        path: the file.
        made_from: as it was given to `save_best`.
        sha: SHA-256 of the file, where it is known.

    Raises:
        WeightsError: missing, damaged or of another training.
    """
    try:
        data = read_whole(path)
        if sha is None or hashlib.sha256(data).hexdigest() != sha:
            check_tensors(data, made_from)
            if sha is not None:
                raise DamagedError("it is not the one that the training chose")
    except (OSError, MemoryError, DamagedError) as error:
        check_limits(error, path)
        raise WeightsError(
            f"The checkpoint {path} is damaged ({reason_of(error)}). Delete the folder {path.parent} to train again."
        ) from error
    return data


def load_best(path: Path, method: nn.Module, *, made_from: str = "", sha: str | None = None) -> None:
    """Read what `save_best` wrote; arguments as in `check_best`.

    Raises:
        WeightsError: missing, damaged, of another training or of another method.
    """
    load_trainable(method, load(check_best(path, made_from, sha)), path)


def load_named(path: Path, method: nn.Module) -> None:
    """Read a checkpoint that the user names; one of other programs carries no seal.

    Raises:
        WeightsError: it is none, damaged, or of another method.
    """
    try:
        data = read_whole(path)
        if has_seal(data):
            check_tensors(data)
        state = load(data)
    except DamagedError as error:
        raise WeightsError(
            f"checkpoint={path} is damaged ({error}). Copy it again from where it was made, or make it again: by a training, or "
            "with fsar-bench convert."
        ) from error
    except (SafetensorError, OSError, MemoryError) as error:
        check_limits(error, path)
        raise WeightsError(
            f"checkpoint={path} is no checkpoint of fsar-bench: name a best.safetensors of a training (not last.pt, its state), "
            "or turn an official checkpoint into one with fsar-bench convert."
        ) from error
    load_trainable(method, state, path)


def save_last(path: Path, state: dict[str, Any], made_from: str) -> None:
    """Write the training state, sealed with the key of the training.

    Where it cannot be written, warn once: the training goes on, and is not resumed from here.
    """

    def write(out: Writable) -> None:
        torch.save(state, out)  # type: ignore[arg-type]  # it needs `write` alone

    write_cached(path, lambda file: write_sealed(file, made_from, write), sync=True)


def load_last(path: Path, made_from: str) -> dict[str, Any] | None:
    """Read what `save_last` wrote; None where there is none that can be used: the training starts from its beginning.

    Raises:
        WeightsError: it cannot be read, which says nothing of what it holds.
    """
    try:
        data = read_whole(path)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError) as error:
        check_limits(error, path)
        raise WeightsError(
            f"The training state {path} cannot be read ({reason_of(error)}). Make it readable to resume, or delete the folder "
            f"{path.parent} to train again."
        ) from error
    return recall(path, lambda _: _state(data, made_from), "the training state", again="The training starts again")


def _state(data: bytes, made_from: str) -> dict[str, Any]:
    content = unseal(data, made_from)
    try:
        state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise DamagedError("it is no training state") from error
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in _STATE.items()):
        raise DamagedError("it is no training state")
    if state["iteration"] < 0 or not 0 <= state["seconds"] < math.inf:
        raise DamagedError("it counts what cannot be")
    return state
