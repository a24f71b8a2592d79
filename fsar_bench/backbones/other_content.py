"""What people have in place of weights (pages, pointers, archives, files of other libraries), by its name and first bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fsar_bench.backbones.weights import UnfitError

HEAD = 4096  # bytes that are looked at
AGAIN = "Download it again"
FOR_TORCH = "Take the file of the same weights for PyTorch: safetensors or a state dict"
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2", ".opdownload", ".!ut", ".tmp")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin|pt|pth)$")
NAMES = (  # end of a file's name, what it is
    (re.compile(r"\.onnx$", re.I), "a model of ONNX"),
    (re.compile(r"\.(msgpack|flax)$", re.I), "a file of weights of Flax (msgpack)"),
    (re.compile(r"\.(h5|hdf5|keras)$", re.I), "a file of weights of TensorFlow or Keras (HDF5)"),
    (re.compile(r"\.ckpt\.(index|meta)$|\.data-\d{5}-of-\d{5}$", re.I), "a part of a checkpoint of TensorFlow"),
    (re.compile(r"\.(pb|tflite)$", re.I), "a model of TensorFlow"),
    (re.compile(r"\.(gguf|ggml)$", re.I), "a quantised model of llama.cpp (GGUF)"),
    (re.compile(r"\.(engine|plan|trt)$", re.I), "a model of TensorRT"),
    (re.compile(r"\.(mlmodel|mlpackage)$", re.I), "a model of Core ML"),
)
STARTS = (  # first bytes, what it is
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "a file of weights of TensorFlow or Keras (HDF5)"),
    (re.compile(rb"GGUF|lmgg|tjgg"), "a quantised model of llama.cpp (GGUF)"),
    (re.compile(rb".{4}TFL3", re.S), "a model of TensorFlow Lite"),
    (re.compile(rb"\x93NUMPY"), "an array of NumPy"),
    (re.compile(rb"\x08[\x01-\x14]\x12.{1,40}", re.S), "a model of ONNX"),
    (re.compile(rb"[\x81-\x8f\xde\xdf](..|....)?[\xa1-\xbf\xd9]\w", re.S), "a file of weights of Flax (msgpack)"),
    (re.compile(rb"MATLAB "), "a file of MATLAB"),
)
ARCHIVES = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"BZh\d"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "7z"),
    (re.compile(rb"Rar!"), "rar"),
    (re.compile(rb".{257}ustar", re.S), "tar"),
)
CODE = re.compile(rb"<(?:Code|title)>\s*([\w .,:!-]{1,60})", re.I)  # what a server says is wrong


def refuse_part(path: Path) -> None:
    """Refuse a file that its name shows to be a part of something.

    Raises:
        UnfitError: it is an unfinished download, or one of several files.
    """
    if path.name.lower().endswith(UNFINISHED):
        raise UnfitError(
            f"by its name (…{path.suffix}) it is a download that was not finished. Let it finish, or download it again"
        )
    if path.with_name(f"{path.name}.aria2").exists():
        raise UnfitError(f"{path.name}.aria2 is next to it: its download was not finished. Let aria2 finish it")
    if match := SHARD.search(path.name):
        raise UnfitError(
            f"it is part {int(match[1])} of {int(match[2])} of weights that are stored in several files. Name their folder with "
            "pretrained=, with all parts and the index (….index.json) in it"
        )


def refuse_other(path: Path, head: bytes, size: int) -> None:
    """Refuse a file that its first bytes, or its name, show to be something other than weights.

    Args:
        path: the file.
        head: the first `HEAD` bytes.
        size: bytes of the whole file.

    Raises:
        UnfitError: it is something else.
    """
    if not size:
        raise UnfitError(f"it is empty (0 bytes). {AGAIN}")
    if not any(head):
        raise UnfitError(f"it begins with zeros, as a download that was not finished. {AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise UnfitError(
            "it is a git-lfs pointer, not the weights themselves. Run `git lfs pull` in the repository that it is from, or "
            "download the file itself"
        )
    if kind := _what(ARCHIVES, head):
        raise UnfitError(f"it is a packed archive ({kind}). Unpack it, and name the weights file in it")
    if what := _what(STARTS, head):
        raise UnfitError(f"it is {what}, not weights of PyTorch. {FOR_TORCH}")
    _refuse_text(head, size)
    library = next((what for pattern, what in NAMES if pattern.search(path.name)), None)
    if library:
        raise UnfitError(f"it is {library}, which PyTorch does not read. {FOR_TORCH}")


def _what(kinds: tuple[tuple[re.Pattern[bytes], str], ...], head: bytes) -> str | None:
    return next((what for pattern, what in kinds if pattern.match(head)), None)


def _refuse_text(head: bytes, size: int) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        found = CODE.search(text)
        said = f", {found[1].decode().strip()!r}" if found else ""
        is_page = re.search(rb"<(!doctype html|html|head|body)", text, re.I)
        kind = "a web page (HTML" if is_page else "the answer of a server (XML"
        raise UnfitError(
            f"it is {kind}{said}), as a download leaves it that needs a login or is gone. {AGAIN}, logged in"
        )
    if re.match(rb"[{\[]\s*(\"|[{\]}])", text):
        raise UnfitError(_json(text, size))
    if len(head) == size and not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head) and re.search(rb"[a-zA-Z]{3}", head):
        raise UnfitError(
            f"it is a text of {size} bytes, such as the answer of a server in place of a file. Read it, and download the weights "
            "again"
        )


def _json(text: bytes, size: int) -> str:
    """Say what a JSON file is."""
    if b'"model_type"' in text or b'"architectures"' in text or b'"model_cfg"' in text:
        return "it is the description of a model (JSON), not its weights. Name the weights file next to it, or their folder"
    if b'"weight_map"' in text:
        return "it is the index of weights that are stored in several files. Name their folder with pretrained="
    code = ""
    if len(text) == size:
        try:
            value = json.loads(text)
            error = value.get("error") or value.get("message") or ""
            code = f", {error[:60]!r}" if isinstance(error, str) and error.isprintable() and error else ""
        except (ValueError, AttributeError):
            pass
    return f"it is JSON{code}, such as the answer of a server in place of a file, not weights. {AGAIN}"


def about_zip(names: list[str]) -> str:
    """Say what a zip archive is that is no file of torch.

    Args:
        names: its entries.
    """
    if names and all(name.endswith(".npy") for name in names):
        return f"it holds arrays of NumPy (.npz), not weights of PyTorch. {FOR_TORCH}"
    if any(name.endswith(".weights.h5") for name in names):
        return f"it is a model of Keras, which PyTorch does not read. {FOR_TORCH}"
    if any(name.rpartition("/")[2] == "serialized_exported_program.json" or "/models/" in name for name in names):
        return "it is a program of torch.export. Save the state dict of its model alone, in a file of its own"
    inside = next((name for name in names if re.search(r"\.(safetensors|pt|pth|bin|ckpt|pyth)$", name)), "")
    within = f" with {Path(inside).name} in it" if inside else ""
    return f"it is a zip archive{within}. Unpack it, and name the weights file in it"
