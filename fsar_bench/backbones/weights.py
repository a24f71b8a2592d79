"""Where weights are looked for, and the fingerprint of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fsar_bench.errors import WeightsError
from fsar_bench.paths import is_weight_file, weight_files

BUILTIN = Path(__file__).with_name("builtin")


def resolve(model: str, pretrained: str) -> str:
    """Turn the `pretrained` key into what open_clip or timm loads: a file, or a tag or hub id that it fetches itself.

    Args:
        model: name of the architecture.
        pretrained: "builtin", a path, or a tag of the library such as "openai".

    Raises:
        WeightsError: a file is named and not there.
    """
    if pretrained == "builtin":
        return str(_existing(BUILTIN / f"{model}.safetensors", model))
    if is_weight_file(pretrained):
        return str(_existing(Path(pretrained).expanduser(), model))
    for path in weight_files(model, pretrained):
        if path.is_file():
            return str(path)
    return pretrained


def missing(model: str, tag: str, reason: object, fetch: str) -> WeightsError:
    """The error for weights that are neither on this machine nor to be had; `fetch` is the Python that downloads them."""
    looked = "\n  ".join(str(path) for path in weight_files(model, tag))
    return WeightsError(
        f"The weights {tag!r} of {model} are not on this machine and could not be fetched ({reason}).\nLooked for:\n  {looked}\n"
        "and in the library's own cache. Put a state dict or safetensors file at one of these places, name any file with "
        f'pretrained=/path/to/file, or run once on a machine with network access:\n  python -c "{fetch}"'
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of tensors, independent of the file that held them."""
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
