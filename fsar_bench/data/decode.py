"""Decode processes of our own, watched: a clip that takes too long is killed and named.

decord can hang for ever while it holds the interpreter lock, which no thread or signal of the same process can end; so clips
are decoded in child processes that their owner kills.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np

from fsar_bench.data.dataset import Clip
from fsar_bench.data.sampling import midpoints, random_frames
from fsar_bench.errors import DataError

START_SECONDS = 120.0  # what a decode process may take to import its libraries


@dataclass(frozen=True)
class ReadPlan:
    """How clips are read: the reader, the geometry and the frames.

    Attributes:
        reader: name of the reader in its registry.
        resize: short side in pixels.
        crop: side of the centre crop in pixels.
        frames: T.
        whole_up_to: clips of at most this many frames are read whole when frames are drawn at random, so that they can be
            cached; 0 never.
        modules: modules to import first (readers of the user's own).
        folder: folder of these modules, or None.
    """

    reader: str
    resize: int
    crop: int
    frames: int
    whole_up_to: int = 0
    modules: tuple[str, ...] = ()
    folder: str | None = None


@dataclass(frozen=True)
class Request:
    """One clip to read: at segment midpoints, or, with a seed, one random frame a segment."""

    clip: Clip
    seed: tuple[int, ...] | None = None


def read_clip(reader: object, plan: ReadPlan, path: str, seed: tuple[int, ...] | None) -> tuple[np.ndarray, bool]:
    """Frames of one clip uint8 `[T or all, crop, crop, 3]`, and whether these are all of its frames."""
    clip = reader.open(path)
    length = int(clip["total_frames"])
    if length < 1:
        raise ValueError("it has no frames")
    whole = seed is not None and length <= plan.whole_up_to
    if whole:
        indices = np.arange(length)
    elif seed is None:
        indices = midpoints(length, plan.frames)
    else:
        indices = random_frames(length, plan.frames, seed)
    return reader.read(clip, indices, resize=plan.resize, crop=plan.crop), whole


def _work(connection: Connection, plan: ReadPlan) -> None:
    """Body of a decode process."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)  # mmaction2 warns of its own ways to read files
    try:
        from fsar_bench.registry import READERS, import_components

        READERS.import_from_location()
        if READERS.get(plan.reader) is None:  # a reader of the user's own
            import_components(list(plan.modules), plan.folder)
        reader = READERS.get(plan.reader)()
        connection.send(("ready", reader.version))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            path, seed = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("frames", *read_clip(reader, plan, path, seed)))
        except Exception as error:
            connection.send(("error", f"{type(error).__name__}: {error}".split("\n")[0][:300]))


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _Worker:
    """One decode process and the wire to it; one thread reads with it, any thread may `end` it."""

    def __init__(self, plan: ReadPlan) -> None:
        self.plan, self.process, self.connection = plan, None, None
        self._lock, self._ended = threading.Lock(), False

    def read(self, request: Request, seconds: float) -> tuple[np.ndarray, bool]:
        clip = request.clip
        if self.process is None:
            self._start()
        try:
            self.connection.send((str(clip.path), request.seed))
            if not self.connection.poll(seconds):
                self.stop()
                raise DataError(
                    f"Clip {clip.id!r} was not decoded within {seconds:g} s by the reader {self.plan.reader!r}: {clip.path}. "
                    "Try another reader= (decord, pyav), raise decode_timeout=, or replace the file."
                )
            kind, *answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise DataError(
                f"The reader {self.plan.reader!r} crashed on clip {clip.id!r}: {clip.path}. Replace the file, or try another "
                "reader= (decord, pyav)."
            ) from error
        if kind == "error":
            raise DataError(
                f"Clip {clip.id!r} cannot be decoded by the reader {self.plan.reader!r}: {clip.path} ({answer[0]}). "
                "Replace the file, or try another reader= (decord, pyav)."
            )
        return answer[0], answer[1]

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self._ended:
                raise RuntimeError("This decode process has been ended.")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, self.plan))
            self.process.start()
        theirs.close()
        try:
            kind, answer = (
                self.connection.recv() if self.connection.poll(START_SECONDS) else ("failed", "it did not start")
            )
        except EOFError:
            kind, answer = "failed", "its process ended"
        if kind != "ready":
            self.stop()
            raise DataError(
                f"The reader {self.plan.reader!r} cannot be used: {answer}. Try another reader= (decord, pyav)."
            )

    def stop(self) -> None:
        """Kill the process and close the wire; the next `read` starts afresh. Not while another thread reads."""
        with self._lock:
            if self.process is not None:
                self.process.kill()
                self.process.join()
                self.connection.close()
                self.process = None

    def end(self) -> None:
        """Kill the process for good, from any thread: a thread that reads gets an error, and no new process starts."""
        with self._lock:
            self._ended = True
            if self.process is not None:
                self.process.kill()


class DecodePool:
    """Decode processes that read clips in parallel; started when the first clip is asked for.

    Args:
        plan: how clips are read.
        workers: processes; 0 means one, as the owner never decodes itself.
        seconds: what one clip may take.
    """

    def __init__(self, plan: ReadPlan, *, workers: int, seconds: float) -> None:
        self.plan, self._seconds, count = plan, seconds, max(1, workers)
        self._workers: list[_Worker] = [_Worker(plan) for _ in range(count)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count)

    def submit(self, request: Request) -> Future:
        """Read one clip; the future gives (frames, whole) or raises `DataError`."""
        return self._threads.submit(self._read, request)

    def map(self, requests: Iterable[Request]) -> list[Future]:
        return [self.submit(request) for request in requests]

    def _read(self, request: Request) -> tuple[np.ndarray, bool]:
        worker = self._idle.get()
        try:
            return worker.read(request, self._seconds)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes; clips not yet begun are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.stop()
