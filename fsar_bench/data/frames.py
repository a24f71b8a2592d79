"""FrameSource: clips to frames, through the frame cache and the decode processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np

from fsar_bench.data.decode import DecodePool, ReadPlan, Request
from fsar_bench.data.sampling import random_frames
from fsar_bench.errors import DataError, suggest
from fsar_bench.io import cache_folder
from fsar_bench.registry import READERS


class FrameSource:
    """Frames of clips; the same whatever the number of decode processes and the state of the cache.

    Decoded frames that will be asked for again are kept on disk as uint8: the midpoint frames of every clip, and all frames
    of short clips that are sampled at random. The key holds the content of the clip, the reader and its version, the geometry
    and the sampling.

    Args:
        plan: how clips are read.
        workers: decode processes.
        seconds: what one clip may take.
    """

    def __init__(self, plan: ReadPlan, *, workers: int, seconds: float) -> None:
        READERS.import_from_location()
        reader = READERS.get(plan.reader)
        if reader is None:
            raise DataError(f"No reader {plan.reader!r}.{suggest(plan.reader, READERS.module_dict)}")
        self.plan, self.reader_version = plan, reader.version
        self._folder = cache_folder() / "frames"
        self._pool = DecodePool(plan, workers=workers, seconds=seconds)

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, request: Request) -> Path:
        plan = replace(self.plan, modules=())
        sampling = f"midpoint {plan.frames}" if request.seed is None else "whole"
        key = f"{request.clip.content}|{self.reader_version}|{plan.resize}|{plan.crop}|{sampling}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npy"

    def prefetch(self, requests: list[Request]) -> list[np.ndarray | Future]:
        """Begin to read clips; pass the answer to `collect`."""
        out: list[np.ndarray | Future] = []
        for request in requests:
            cached = self._load(self._path(request))
            out.append(self._pool.submit(request) if cached is None else self._choose(request, cached))
        return out

    def collect(
        self, requests: list[Request], pending: list[np.ndarray | Future], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Frames uint8 `[V, T, H, W, 3]` of prefetched clips, in their order.

        Raises:
            DataError: names the clip that cannot be read.
        """
        out = np.empty((len(requests), self.plan.frames, self.plan.crop, self.plan.crop, 3), np.uint8)
        try:
            for row, (request, item) in enumerate(zip(requests, pending, strict=True)):
                if isinstance(item, Future):
                    frames, whole = item.result()
                    if whole or request.seed is None:
                        self._store(self._path(request), frames)
                    item = self._choose(request, frames) if whole else frames
                if item.shape[1:] != out.shape[2:]:
                    raise DataError(f"Clip {request.clip.id!r} is too small for a crop of {self.plan.crop} pixels.")
                out[row] = item
                if progress:
                    progress(row + 1)
        except BaseException:
            for item in pending:
                if isinstance(item, Future):
                    item.cancel()
            raise
        return out

    def read(self, requests: list[Request], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Frames uint8 `[V, T, H, W, 3]` of clips, in their order."""
        return self.collect(requests, self.prefetch(requests), progress)

    def _choose(self, request: Request, frames: np.ndarray) -> np.ndarray:
        if request.seed is None:
            return frames
        return frames[random_frames(len(frames), self.plan.frames, request.seed)]

    def _load(self, path: Path) -> np.ndarray | None:
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError):
            path.unlink(missing_ok=True)  # damaged: decode again
            return None

    def _store(self, path: Path, frames: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, frames)
        os.replace(temporary, path)
