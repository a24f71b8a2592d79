"""FrameSource: from clips to frames, through the frame cache and the decode processes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import numpy as np

from fsar_bench.data.contents import check_unchanged
from fsar_bench.data.decode import DecodedClip, DecodePool, ReadPlan, Request
from fsar_bench.errors import DataError
from fsar_bench.io import cache_folder, write_cached
from fsar_bench.registry import READERS, find
from fsar_bench.storage.arrays import read_array, write_array
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import DamagedError

PendingFrames = np.ndarray | Future[DecodedClip]  # frames from the cache, or a clip that is being decoded


class FrameSource:
    """Frames of clips; they depend neither on the number of decode processes nor on the state of the cache.

    Decoded frames that will be requested again are cached on disk as uint8: the midpoint frames of every clip, and all
    frames of short clips that are sampled at random, whole where clips are augmented. The key holds the content of the clip,
    the reader and its version, the geometry and the sampling; cached frames are sealed with it, and damaged ones decoded again.

    A source that is no longer referenced ends its decode processes, as does the end of the program.

    Args:
        plan: how clips are read.
        workers: number of decode processes.
        seconds: time limit per clip.

    Attributes:
        plan: how clips are read.
        reader_version: name and version of the decoder.

    Raises:
        ConfigError: no reader of this name is registered.
    """

    def __init__(self, plan: ReadPlan, *, workers: int, seconds: float) -> None:
        reader = find(READERS, plan.reader)
        self.plan = plan
        self.reader_version: str = reader.version
        self._folder = cache_folder() / "frames"
        self._pool = DecodePool(plan, workers=workers, seconds=seconds)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._pool.is_closed

    def close(self) -> None:
        """End the decode processes."""
        self._pool.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prefetch(self, requests: list[Request]) -> list[PendingFrames]:
        """Begin to read clips.

        Returns:
            One entry per request, to be passed to `collect`.
        """
        pending: list[PendingFrames] = []
        for request in requests:
            cached = self._load(request)
            pending.append(self._pool.submit(request) if cached is None else self._augmented(request, cached))
        return pending

    def collect(
        self,
        requests: list[Request],
        pending: list[PendingFrames],
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Wait for prefetched clips.

        Args:
            requests: V clips.
            pending: result of `prefetch` for them.
            progress: called with the number of clips that are done.

        Returns:
            Frames uint8 `[V, T, H, W, 3]` in the order of the requests.

        Raises:
            DataError: names the clip that cannot be read.
        """
        frames = np.empty((len(requests), self.plan.frames, self.plan.crop, self.plan.crop, 3), np.uint8)
        try:
            for row, (request, item) in enumerate(zip(requests, pending, strict=True)):
                clip_frames = self._decoded(request, item) if isinstance(item, Future) else item
                if clip_frames.shape[1:] != frames.shape[2:]:
                    raise DataError(f"Clip {request.clip.id!r} is too small for a crop of {self.plan.crop} pixels.")
                frames[row] = clip_frames
                if progress:
                    progress(row + 1)
        except BaseException:
            for item in pending:
                if isinstance(item, Future):
                    item.cancel()
            raise
        return frames

    def read(self, requests: list[Request], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Read clips: `prefetch`, then `collect`.

        Returns:
            Frames uint8 `[V, T, H, W, 3]` in the order of the requests.

        Raises:
            DataError: names the clip that cannot be read.
        """
        return self.collect(requests, self.prefetch(requests), progress)

    def _decoded(self, request: Request, pending: Future[DecodedClip]) -> np.ndarray:
        """Wait for a clip, cache what will be requested again, and pick the frames of the request."""
        frames, is_complete, _ = pending.result()
        check_unchanged(request.clip)  # or another clip's frames would be kept under its content
        if (is_complete or request.seed is None) and frames.dtype == np.uint8 and self._fits(request, frames.shape):
            key = self._key(request)
            write_cached(self._path(key), lambda file: write_array(file, frames, key))
        if not is_complete:
            return frames
        return self._augmented(request, frames[self._chosen(request, len(frames))])

    def _augmented(self, request: Request, chosen: np.ndarray) -> np.ndarray:
        if request.seed is None or request.augmentation is None:
            return chosen
        try:
            return request.augmentation.apply(chosen, self.plan.crop, request.seed)
        except DataError as error:
            raise DataError(f"Clip {request.clip.id!r} cannot be augmented: {error}.") from error

    def _key(self, request: Request) -> str:
        """Everything that cached frames depend on."""
        sampling = f"midpoint {self.plan.frames}" if request.seed is None else "whole"
        crop = self.plan.crop if request.augmentation is None else "uncropped"
        return f"{request.clip.content}|{self.reader_version}|{self.plan.resize}|{crop}|{sampling}"

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npy"

    def _load(self, request: Request) -> np.ndarray | None:
        """The frames that a request asks for, from the cache."""
        key = self._key(request)

        def rows(shape: tuple[int, ...]) -> np.ndarray:
            if not self._fits(request, shape):
                raise DamagedError(f"it holds an array of shape {shape}")
            return self._chosen(request, shape[0])

        read = partial(read_array, made_from=key, rows=rows)
        return recall(self._path(key), read, "frames", again="They are decoded again", folder=self._folder)

    def _chosen(self, request: Request, count: int) -> np.ndarray:
        """Numbers of the frames of a request among `count` frames that are cached."""
        if request.seed is None:
            return np.arange(count)
        return self.plan.draw(count, request.seed)

    def _fits(self, request: Request, shape: tuple[int, ...]) -> bool:
        """Whether frames of a shape can be those of a request; too small a clip has others."""
        if len(shape) != 4 or shape[3] != 3 or not shape[0]:
            return False
        if request.seed is None and shape[0] != self.plan.frames:
            return False
        return request.augmentation is not None or shape[1:3] == (self.plan.crop, self.plan.crop)


_Sources = weakref.WeakValueDictionary[tuple[ReadPlan, int, float, Path], FrameSource]

_lock = threading.Lock()
_outside = _Sources()  # of those who close nothing
_shared: ContextVar[_Sources] = ContextVar("shared")


@contextlib.contextmanager
def closing_sources() -> Iterator[None]:
    """Close what `frame_source` opens within, at the end: a traceback, or MMEngine's runner, may refer to it long after."""
    sources = _Sources()
    token = _shared.set(sources)
    try:
        yield
    finally:
        _shared.reset(token)
        for source in list(sources.values()):
            source.close()


def frame_source(plan: ReadPlan, *, workers: int, seconds: float) -> FrameSource:
    """An open source that is shared by all who ask for the same one within the same `closing_sources`, or outside of any.

    Do not close a shared source; it ends its decode processes when nobody refers to it any more.

    Args:
        plan: how clips are read.
        workers: number of decode processes.
        seconds: time limit per clip.

    Raises:
        ConfigError: no reader of this name is registered.
    """
    key = (plan, workers, seconds, cache_folder())
    sources = _shared.get(_outside)
    with _lock:
        source = sources.get(key)
        if source is None or source.is_closed:
            source = sources[key] = FrameSource(plan, workers=workers, seconds=seconds)
        return source
