"""Memory for features: how much there is, and what becomes of those that do not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsar_bench.config.fields import bytes_from_text
from fsar_bench.engine.host import free_host_memory
from fsar_bench.errors import ProtocolError
from fsar_bench.method import VideoFeatures
from fsar_bench.writing.mapped import MappedFile

LEAST = 10**9  # bytes that features may take of the host's memory, however little of it is free
ALIGNED = 64  # bytes at multiples of which tensors begin, as torch allocates them


@dataclass
class Room:
    """Memory for features, and a folder for those that do not fit. Where features are changes no result.

    Attributes:
        left: bytes that are left; None for no limit.
        folder: where files of features that do not fit are made.
        device: where the method computes; None where the features are.
        is_half: features are rounded to float16 while they are kept.
    """

    left: int | None = None
    folder: Path = Path()
    device: torch.device | None = None
    is_half: bool = False

    @classmethod
    def of(cls, budget: str, folder: Path, device: torch.device) -> Room:
        """The room that `bank_budget=` allows.

        Args:
            budget: a size, "none" for no limit, or "auto" for half of the free memory.
            folder: where files are made.
            device: where the method computes, and features are if they fit: a size larger than half of the free memory of a
                GPU does not count there.
        """
        if budget == "none":
            return cls(None, folder, device)
        half = free_memory(device) // 2
        if device.type == "cuda":
            return cls(half if budget == "auto" else min(half, bytes_from_text(budget)), folder, device)
        return cls(max(LEAST, half) if budget == "auto" else bytes_from_text(budget), folder, device)

    def take(self, size: int) -> bool:
        """Take some bytes, if there are as many left."""
        if self.left is not None:
            if size > self.left:
                return False
            self.left -= size
        return True


class Shelf:
    """Features of a number of clips, put there in chunks: in memory if there is room, or else in a mapped file.

    All memory is taken once, when the first chunk tells the size: joining chunks in the end would need twice as much.

    Args:
        clips: how many.
        room: the bytes are taken from it.

    Attributes:
        is_mapped: whether they are in a file.
    """

    def __init__(self, clips: int, room: Room) -> None:
        self._clips, self._room = clips, room
        self._end = 0  # clips that are there
        self._tensors: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}  # of tensors in the file
        self._file: MappedFile | None = None
        self.is_mapped = False

    def put(self, part: VideoFeatures, clips: int) -> None:
        """Put features of the next clips there.

        Raises:
            ProtocolError: they are not of as many clips, or have other names, shapes or types than those before; or float16
                cannot hold them.
            OSError: the disk is full, or cannot be written.
        """
        if self._room.is_half:
            part = _rounded(part)
        if not self._end:
            self._allocate(part)
        self._check(part, clips)
        for name, tensor in part.items():
            if self._file is None:
                self._tensors[name][self._end : self._end + clips] = tensor
            else:
                self._write(name, tensor)
        self._end += clips

    def features(self) -> VideoFeatures:
        """Features of all clips, `[clips, ...]`."""
        if self._file is not None:
            self._file.close()
        return VideoFeatures(**self._tensors)

    def _allocate(self, part: VideoFeatures) -> None:
        shapes = {name: (self._clips, *tensor.shape[1:]) for name, tensor in part.items()}
        sizes = {name: math.prod(shapes[name]) * tensor.element_size() for name, tensor in part.items()}
        self.is_mapped = not self._room.take(sum(sizes.values()))
        if not self.is_mapped:
            self._tensors = {
                name: torch.empty(shapes[name], dtype=tensor.dtype, device=tensor.device)
                for name, tensor in part.items()
            }
            return
        end = 0
        for name, size in sizes.items():
            self._places[name], end = end, end + math.ceil(size / ALIGNED) * ALIGNED
        self._file = MappedFile(self._room.folder / "features", end)
        self._tensors = {
            name: _tensor(self._file, self._places[name], shapes[name], tensor.dtype) for name, tensor in part.items()
        }

    def _write(self, name: str, tensor: Tensor) -> None:
        assert self._file is not None
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if data.size:
            self._file.write(self._places[name] + self._end * (data.size // len(tensor)), data.data)

    def _check(self, part: VideoFeatures, clips: int) -> None:
        """Assigning to memory would stretch what is too small, and a file would take anything."""
        expected = {name: (clips, *tensor.shape[1:], tensor.dtype) for name, tensor in self._tensors.items()}
        actual = {name: (*tensor.shape, tensor.dtype) for name, tensor in part.items()}
        if actual != expected:
            raise ProtocolError(
                f"Features of {clips} clips are {_in_words(part)}, not {_in_words(VideoFeatures(**self._tensors))} with a first "
                f"dimension of {clips}: return one row per video, of the same shape and type for every video."
            )


def _rounded(features: VideoFeatures) -> VideoFeatures:
    """Features in float16; whatever is no float32 stays as it is."""
    tensors = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in features.items()}
    for name, tensor in features.items():
        if tensor.is_floating_point() and not torch.equal(tensor.isfinite(), tensors[name].isfinite()):
            raise ProtocolError(
                f"features=float16 cannot hold {name!r}: its largest value is {tensor.abs().max():.3g}, and float16 ends at "
                "65504. Take features=float32."
            )
    return VideoFeatures(**tensors)


def _in_words(features: VideoFeatures) -> str:
    return ", ".join(f"{name} {list(tensor.shape)} ({tensor.dtype})" for name, tensor in features.items())


def _tensor(file: MappedFile, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a mapped file, which keeps its memory."""
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(file.memory, dtype=dtype, count=math.prod(shape), offset=place).view(shape)


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken now, of a GPU or of this machine."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return free_host_memory()
