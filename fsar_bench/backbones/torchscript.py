"""The tensors of a TorchScript archive, read as data: its code is never loaded."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsar_bench.backbones.weights import UnfitError

DAMAGED = "it is a damaged TorchScript archive. Download it again"
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n|\n)*)", re.MULTILINE)
TENSORS = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]", re.MULTILINE)
MOST_LEVELS = 60  # of modules within modules


class _Module:
    """An object of an archive: what its attributes are, and nothing that its class does."""

    qualified = ""
    attributes: Mapping[str, Any]

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether a zip archive is one of TorchScript."""
    return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path) -> tuple[dict[str, Tensor], bool | None]:
    """Read the parameters and buffers of an archive, mapped into memory, and its activation.

    `torch.jit.load` is not used: it would compile the code of a file that nobody has checked.

    Returns:
        Tensors by name, as `torch.jit.load(path).state_dict()` names them, and whether the code uses QuickGELU; None if it uses
        neither QuickGELU nor GELU.

    Raises:
        UnfitError: the archive is damaged, quantised or holds other objects than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            code = {name: archive.read(name).decode(errors="replace") for name in _sources(archive)}
            reader = _Reader(path, archive)
            root = reader.load()
    except UnfitError:
        raise
    except Exception as error:  # an unpickler meets junk in any way
        raise UnfitError(DAMAGED) from error
    texts = "".join(code.values())  # x * sigmoid(1.702 x), or gelu(x)
    quick = True if "torch.sigmoid(" in texts else False if "torch.gelu(" in texts else None
    return dict(_tensors(root, _declared(code))), quick


def _sources(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]


def _declared(code: Mapping[str, str]) -> dict[str, set[str]]:
    """Parameters and buffers of every class, by its qualified name; other tensors are attributes that no state dict holds."""
    classes = {}
    for name, text in code.items():
        module = name.partition("/code/")[2].removesuffix(".py").replace("/", ".")
        for match in CLASS.finditer(text):
            lists = ",".join(TENSORS.findall(match[2]))
            classes[f"{module}.{match[1]}"] = set(re.findall(r'"([^"]+)"', lists))
    return classes


def _tensors(
    module: object, declared: Mapping[str, set[str]], prefix: str = "", level: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Walk through an archive's modules, and give their tensors by name."""
    if level > MOST_LEVELS:
        raise UnfitError(DAMAGED)
    if not isinstance(module, _Module):
        return
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor) and name in declared.get(module.qualified, {name}):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, declared, f"{prefix}{name}.", level + 1)


class _Reader(pickle.Unpickler):
    """Unpickles the modules of an archive as `_Module`, and their tensors; nothing else is ever built or called."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UnfitError(DAMAGED)
        super().__init__(archive.open(pickles[0]))
        self.archive, self.path = archive, path
        self.root = pickles[0].removesuffix("data.pkl")
        self.whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

    def find_class(self, module: str, name: str) -> Any:
        """Give what stands for a name of the archive."""
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Module", (_Module,), {"qualified": f"{module}.{name}"})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle" and re.fullmatch(r"build_(int|double|bool|tensor)list|restore_type_tag", name):
            return _first
        if "qtensor" in name or (module == "torch" and re.match("Q[A-Z]", name)):
            raise UnfitError(
                "it is a quantised TorchScript archive. Take the same weights in float32, float16 or bfloat16"
            )
        raise UnfitError(
            f"it is a TorchScript archive that holds an object other than modules and tensors ({module}.{name}), which is never "
            "loaded. Save the state dict of its model alone, in a file of its own"
        )

    def persistent_load(self, key: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """Map a storage of the archive into memory."""
        _, dtype, name, *_ = key
        entry = self.archive.getinfo(f"{self.root}data/{name}")
        if entry.compress_type != zipfile.ZIP_STORED or not isinstance(dtype, torch.dtype):
            raise UnfitError(DAMAGED)
        with self.path.open("rb") as file:  # the entry's own header has other extra bytes than the directory says
            file.seek(entry.header_offset + 26)
            lengths = file.read(4)
        start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        if start + entry.file_size > len(self.whole):
            raise UnfitError(DAMAGED)
        storage = self.whole[start : start + entry.file_size]
        return (storage if start % 8 == 0 else storage.clone()), dtype

    def _tensor(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
        """Build a view of a storage that lies within it."""
        data, dtype = storage
        tensor = torch.empty(0, dtype=dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        outside = (last + 1) * tensor.element_size() > data.nbytes()
        if any(n < 0 for n in (offset, *size, *stride)) or (0 not in size and outside):
            raise UnfitError(DAMAGED)
        return tensor.set_(data, offset, size, stride)


def _first(value: object, *_: object) -> object:
    return value
