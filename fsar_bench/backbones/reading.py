"""Weights files are read by their content: safetensors, files of torch.save, TorchScript archives; the rest is named."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fsar_bench.backbones.other_content import AGAIN, HEAD, about_zip, refuse_other, refuse_part
from fsar_bench.backbones.pickles import about, objects_in
from fsar_bench.backbones.torchscript import is_torchscript, read_torchscript
from fsar_bench.backbones.weights import OPENAI_ENTRIES, UnfitError, Weights

INDEX = ".index.json"  # end of the name of the list of files that hold weights together
COUNTERS = {*OPENAI_ENTRIES, "n_averaged"}  # numbers next to weights; the last is of torch's averaged models
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
LONGEST_HEADER = 100_000_000  # bytes, of safetensors
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files of torch before 1.6
TAIL = 65536  # bytes; so many zeros at the end are no weights
DTYPES = {
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64", "F8_E4M3", "F8_E5M2",
}  # fmt: skip


def read_weights(path: Path) -> Weights:
    """Read safetensors, a state dict at the top or below keys, an OpenAI-style TorchScript archive, or the files of an index.

    The format is read from the content, not from the name. Neither pickled Python objects nor TorchScript code are ever loaded.
    Tensors are mapped into memory where the format allows it, and have the type of the file.

    Raises:
        UnfitError: the file is damaged, a part of a download, other than weights, or holds objects or no tensors by name.
        OSError: it cannot be read.
    """
    if path.name.endswith(INDEX):
        return _read_index(path)
    refuse_part(path)
    return _read(path)


def _read(path: Path) -> Weights:
    """Read one file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= LONGEST_HEADER:
        return Weights({"": _plain(_read_safetensors(path, length, size))}, None, "safetensors")
    if head.startswith(b"PK"):
        return _read_zip(path)
    refuse_other(path, head, size)
    return _from_pickle(path)


def _read_index(path: Path) -> Weights:
    """Read the files next to an index, which hold the tensors of one state dict together."""
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnfitError(f"{path.name} is no index of weights: it lacks weight_map. {AGAIN}") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        part = path.with_name(name) if isinstance(name, str) and Path(name).name == name else None
        if part is None or not part.is_file():
            raise UnfitError(
                f"its index {path.name} names the part {name}, which is not next to it. Download that, too"
            )
        try:
            tensors.update(_read(part).states.get("", {}))
        except UnfitError as error:
            raise UnfitError(f"its part {name}: {error}") from error
    return Weights({"": tensors}, None, "a state dict in several files")


def _read_safetensors(path: Path, length: int, size: int) -> dict[str, Tensor]:
    """Map the tensors of safetensors into memory.

    Args:
        path: the file.
        length: bytes of its header.
        size: bytes of the file.
    """
    with path.open("rb") as file:
        file.seek(8)
        header = file.read(length)
        if 8 + length > size:
            raise _half(size, None)
        file.seek(max(size - TAIL, 8 + length))
        ends_in_zeros = size > 16 * TAIL and not any(file.read())
    try:
        entries = {n: entry for n, entry in json.loads(header).items() if n != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        dtypes = {str(entry["dtype"]): name for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnfitError(f"it is a damaged safetensors file (its header cannot be read). {AGAIN}") from error
    if size < 8 + length + end:
        raise _half(size, 8 + length + end)
    if ends_in_zeros:
        raise UnfitError(f"it ends in zeros, as a download that was not finished. {AGAIN}")
    if unknown := sorted(set(dtypes) - DTYPES):
        raise UnfitError(
            f"{dtypes[unknown[0]]} is stored as {unknown[0]}, a quantised format. Take the same weights in float32, float16 or "
            "bfloat16"
        )
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
    except Exception as error:  # the library has one class of errors for all
        raise UnfitError(f"it is a damaged safetensors file. {AGAIN}") from error


def _half(size: int, whole: int | None) -> UnfitError:
    of = f" of {whole:,}" if whole else ""
    return UnfitError(f"it is a part of a download: it has {size:,}{of} bytes. {AGAIN}")


def _read_zip(path: Path) -> Weights:
    """Read a file of torch.save, or an archive of TorchScript."""
    if not zipfile.is_zipfile(path):
        raise UnfitError(
            f"it is a part of a download: it begins as a file of torch, of {path.stat().st_size:,} bytes, but has no end. {AGAIN}"
        )
    with zipfile.ZipFile(path) as archive:
        names, is_script = archive.namelist(), is_torchscript(archive)
    if is_script:
        tensors, quick = read_torchscript(path)
        return Weights({"": _plain(tensors)}, quick, "a TorchScript archive")
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise UnfitError(about_zip(names))
    return _from_pickle(path, mmap=not path.name.endswith(".safetensors"))


def _from_pickle(path: Path, *, mmap: bool = False) -> Weights:
    """Read a file of torch.save, without running any code of its pickles."""
    states = dict(_states(_load_pickle(path, mmap)))
    if not states:
        raise UnfitError("it holds no tensors by name. Replace it by a state dict or safetensors")
    names = {name.rpartition(".")[2] for state in states.values() for name in state}
    plain = {key: tensors for key, state in states.items() if (tensors := _plain(state))}
    from_openai = names.issuperset(OPENAI_ENTRIES)
    return Weights(plain, True if from_openai else None, "OpenAI's state dict" if from_openai else "a state dict")


def _load_pickle(path: Path, mmap: bool) -> object:
    try:
        if mmap:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:  # by its name torch would take a file for another format
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # as the unpickler meets junk
        if isinstance(error, OSError):
            raise
        named = re.findall(r"GLOBAL ([\w.]+)", str(error))
        if objects := objects_in(path) or named:
            raise UnfitError(about(objects)) from error
        with path.open("rb") as file:
            is_legacy = file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC  # whose end nothing marks
        if is_legacy or isinstance(error, EOFError):
            raise _half(path.stat().st_size, None) from error
        raise UnfitError(f"it is no file of torch, or damaged. {AGAIN}") from error


def _states(value: object, key: str = "", depth: int = 0) -> Iterable[tuple[str, Mapping[str, object]]]:
    """Find all dictionaries with tensors by name in what a file holds, by their keys."""
    if not isinstance(value, Mapping) or depth > 3:
        return
    if any(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()):
        yield key, value
    for name, inner in value.items():
        yield from _states(inner, f"{key}.{name}" if key else str(name), depth + 1)


def _plain(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Keep the tensors with names, without what DataParallel, torch.compile and FSDP add to these."""
    tensors = {
        str(name): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and str(name).rpartition(".")[2] not in COUNTERS
    }
    plain = {".".join(part for part in n.split(".") if part not in WRAPPERS): tensor for n, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors
