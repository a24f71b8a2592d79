"""Where weights are searched for, how weights files are read, and the fingerprint of tensors."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fsar_bench.errors import WeightsError
from fsar_bench.io import is_weight_file, user_path, weight_files

BUILTIN = Path(__file__).with_name("builtin")
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")  # next to the weights in OpenAI's archives


def resolve(model: str, pretrained: str) -> str:
    """Turn the `pretrained` key into the source to load.

    Args:
        model: name of the architecture.
        pretrained: "builtin", a path, or a tag of the library such as "openai".

    Returns:
        A file, a folder, or a tag or hub id that the library fetches itself.

    Raises:
        WeightsError: the named file does not exist.
    """
    if pretrained == "builtin":
        return str(_existing(BUILTIN / f"{model}.safetensors", model))
    if user_path(pretrained).is_dir():
        return str(user_path(pretrained))
    if is_weight_file(pretrained):
        return str(_existing(user_path(pretrained), model))
    for path in weight_files(model, pretrained):
        if path.is_file():
            return str(path)
    return pretrained


@dataclass(frozen=True)
class Weights:
    """The contents of a weights file.

    Attributes:
        tensors: tensors by name; half precision is converted to float32.
        quick_gelu: whether they were trained with QuickGELU; None if the file does not say.
        origin: kind of the file, in words.
    """

    tensors: dict[str, Tensor]
    quick_gelu: bool | None
    origin: str


def read_weights(path: Path) -> Weights:
    """Read safetensors, a state dict (plain or under the key `state_dict`), or an OpenAI-style TorchScript archive.

    Raises:
        ValueError: the file holds no tensors by name.
        Exception: any error of the library that reads a damaged file.
    """
    if path.suffix == ".safetensors":
        return Weights(_plain(load_file(path)), None, "safetensors")
    if _is_torchscript(path):
        archive = torch.jit.load(path, map_location="cpu")
        code = "".join(_code(path))  # x * sigmoid(1.702 x), or gelu(x)
        quick = True if "torch.sigmoid(" in code else False if "torch.gelu(" in code else None
        return Weights(_plain(archive.state_dict()), quick, "a TorchScript archive")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds no tensors by name")
    if all(name.startswith("module.") for name in state):  # written by DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    from_openai = all(name in state for name in OPENAI_ENTRIES)
    return Weights(
        _plain(state), True if from_openai else None, "OpenAI's state dict" if from_openai else "a state dict"
    )


def _plain(state: Mapping[str, object]) -> dict[str, Tensor]:
    tensors = {n: t for n, t in state.items() if isinstance(t, Tensor) and n not in OPENAI_ENTRIES}
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


def _is_torchscript(path: Path) -> bool:
    return zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist())


def _code(path: Path) -> list[str]:
    """Return the source texts inside a TorchScript archive."""
    with zipfile.ZipFile(path) as archive:
        return [archive.read(n).decode() for n in archive.namelist() if "/code/" in n and n.endswith(".py")]


def missing(model: str, tag: str, reason: object, fetch: str) -> WeightsError:
    """Return the error for weights that are not on this machine and could not be fetched.

    Args:
        model: name of the architecture.
        tag: tag or hub id of the weights.
        reason: why fetching failed.
        fetch: Python code that downloads the weights.
    """
    looked = "\n  ".join(str(path) for path in weight_files(model, tag))
    return WeightsError(
        f"The weights {tag!r} of {model} are not on this machine and could not be fetched ({reason}).\nLooked for:\n  {looked}\n"
        "and in the library's own cache. Put a state dict or safetensors file at one of these places, name any file with "
        f'pretrained=/path/to/file, or run once on a machine with network access:\n  python -c "{fetch}"'
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and float32 values of tensors, independent of the file that held them."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().float().cpu().contiguous()
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def _existing(path: Path, model: str) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"The weights file {path} of {model} does not exist. Check pretrained=, or put the file there."
        )
    return path
