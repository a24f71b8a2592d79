"""Decode workers: watched child processes, so that a clip that takes too long is stopped and named.

A decoder can hang forever while it holds the interpreter lock (decord does), which no thread or signal handler of the same
process can end. Clips are therefore decoded in child processes, which their owner kills.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np

from fsar_bench import processes
from fsar_bench.data.augment import Augmentation
from fsar_bench.data.dataset import Clip
from fsar_bench.data.sampling import midpoints, random_frames
from fsar_bench.data.shared import HAS_ANONYMOUS_FILES, Placed, SharedFrames
from fsar_bench.errors import ConfigError, DataError, ProcessError

START_SECONDS = 120.0  # time that a worker may take to import its libraries
STARTS = 3  # times that a worker is started whose process dies before it is ready
PAUSE = 1.0  # seconds before it is started again, when memory may be free
TRIES = 2  # times that a clip is given to a process which dies of it
DEFAULT_READER, IMAGES = "pyav", "images"
PRELOAD = ("fsar_bench.data.readers",)


@dataclass(frozen=True)
class ReadPlan:
    """How clips are read: the reader, the geometry and the frames.

    Attributes:
        reader: registered name of the reader.
        resize: short side in pixels.
        crop: side of the centre crop in pixels.
        frames: number of frames T that are read per clip.
        whole_up_to: clips of at most this many frames are read completely when frames are drawn at random, so that they can
            be cached; 0 reads no clip completely.
        modules: modules to import first (custom readers).
        folders: where these modules are looked for before the import path.
        is_inspected: whether videos are decoded completely besides, and compared with what the reader takes.
        sampling: how frames are drawn at random, see `random_frames`.
        stride: frames between two drawn ones, where `sampling` has one.
    """

    reader: str
    resize: int
    crop: int
    frames: int
    whole_up_to: int = 0
    modules: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    is_inspected: bool = False
    sampling: str = "segments"
    stride: int = 1

    def draw(self, length: int, seed: tuple[int, ...]) -> np.ndarray:
        """Numbers of the frames that are read of a training clip of `length` frames."""
        return random_frames(length, self.frames, seed, sampling=self.sampling, stride=self.stride)


@dataclass(frozen=True)
class Request:
    """One clip to read.

    Attributes:
        clip: the clip.
        seed: None reads the frames at segment midpoints; otherwise they are drawn with this seed (see `random_frames`).
        augmentation: how the clip is augmented, with the same seed; None takes the centre crop.

    Raises:
        ValueError: an augmentation without a seed: frames at segment midpoints are those of an evaluation.
    """

    clip: Clip
    seed: tuple[int, ...] | None = None
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.augmentation is not None and self.seed is None:
            raise ValueError("only clips whose frames are drawn at random are augmented")


class Remark(NamedTuple):
    """Something that is worth knowing of a clip that can be read.

    Attributes:
        kind: what remarks on several clips have in common, in a word.
        text: the remark.
    """

    kind: str
    text: str


class DecodedClip(NamedTuple):
    """Frames of one clip.

    Attributes:
        frames: uint8 RGB `[T, crop, crop, 3]`, or all frames of the clip, which are not cropped yet if the clip is augmented.
        is_complete: whether these are all frames of the clip.
        remarks: on the file, if it was inspected.
    """

    frames: np.ndarray
    is_complete: bool
    remarks: tuple[Remark, ...] = ()


class RecountedError(Exception):
    """Raised by a reader that finds, while it decodes, another number of frames than it told; `total_frames` is right now."""


class Reader(Protocol):
    """A reader: opens a clip, then decodes some of its frames. Registered in `READERS`, built without arguments.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version: str

    def open(self, path: str) -> dict[str, Any]:
        """Open a clip; the result has the number of its frames as `total_frames`."""
        ...

    def read(self, clip: dict[str, Any], indices: np.ndarray, *, resize: int, crop: int | None) -> np.ndarray:
        """Frames uint8 RGB `[len(indices), crop, crop, 3]` of an opened clip; `crop=None` asks for whole frames.

        May raise `RecountedError` once: other frames are then asked for.
        """
        ...


def read_clip(
    reader: Reader,
    plan: ReadPlan,
    path: str,
    seed: tuple[int, ...] | None,
    augmentation: Augmentation | None = None,
) -> DecodedClip:
    """Read the frames of one clip in this process.

    Args:
        reader: reads the file.
        plan: which frames, and their size.
        path: file or folder of the clip.
        seed: of random frames; None reads segment midpoints.
        augmentation: of a clip whose frames are random. A clip that is read completely is augmented later, by its owner.

    Raises:
        ValueError: the clip has no frames, or the reader crops frames that are to be augmented. The reader may raise anything.
    """
    clip = reader.open(path)
    try:
        decoded = _read_opened(reader, plan, clip, seed, augmentation)
    except RecountedError:
        decoded = _read_opened(reader, plan, clip, seed, augmentation)
    if not plan.is_inspected or not Path(path).is_file():
        return decoded
    from fsar_bench.data.inspection import inspect

    remarks = inspect(path, plan, decoded.frames, int(clip["total_frames"]))
    return decoded._replace(remarks=remarks)


def _read_opened(
    reader: Reader,
    plan: ReadPlan,
    clip: dict[str, Any],
    seed: tuple[int, ...] | None,
    augmentation: Augmentation | None,
) -> DecodedClip:
    length = int(clip["total_frames"])
    if length < 1:
        raise ValueError("it has no frames")
    is_complete = seed is not None and length <= plan.whole_up_to
    if is_complete:
        indices = np.arange(length)
    elif seed is None:
        indices = midpoints(length, plan.frames)
    else:
        indices = plan.draw(length, seed)
    if augmentation is None or seed is None:
        return DecodedClip(reader.read(clip, indices, resize=plan.resize, crop=plan.crop), is_complete)
    frames = _whole_frames(reader, clip, indices, plan.resize)
    return DecodedClip(frames if is_complete else augmentation.apply(frames, plan.crop, seed), is_complete)


def _whole_frames(reader: Reader, clip: dict[str, Any], indices: np.ndarray, resize: int) -> np.ndarray:
    """Frames `[len(indices), H, W, 3]` that are resized and not cropped.

    Raises:
        ValueError: the reader cannot leave the crop out.
    """
    hint = "asked for whole frames (crop=None), because train.* augments clips, the reader"
    try:
        frames = reader.read(clip, indices, resize=resize, crop=None)
    except TypeError as error:
        raise ValueError(f"{hint} failed: {error}") from error
    if min(frames.shape[1:3]) != resize:
        height, width = frames.shape[1:3]
        raise ValueError(f"{hint} returned {width} x {height} pixels: the short side should have {resize}")
    return frames


def _work(connection: Connection, plan: ReadPlan, is_logged: bool, shares: bool) -> None:
    """Body of a worker: send "ready" or "failed", then answer each (path, seed, augmentation) with "frames", "shared" or "error".

    Frames are in shared memory, where the system has it: pickled through a pipe they cost a tenth of their decoding.

    What decoders print of a clip goes to the log of a cell; where there is none, it would end up between our own lines.
    """
    if not is_logged:
        processes.silence()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; the owner ends its workers
    logging.disable(logging.WARNING)  # mmaction2 warns about the file backends that it uses itself
    shared = SharedFrames.receive(connection) if shares else None
    try:
        reader = _build_reader(plan)
        connection.send(("ready", reader.version))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            path, seed, augmentation = connection.recv()
        except EOFError:
            return
        try:
            clip = read_clip(reader, plan, path, seed, augmentation)
            placed = shared.put(clip.frames) if shared else None
            connection.send(("frames", clip) if placed is None else ("shared", (placed, *clip[1:])))
        except Exception as error:
            connection.send(("error", f"{type(error).__name__}: {error}".split("\n")[0][:300]))


def _build_reader(plan: ReadPlan) -> Reader:
    from fsar_bench.registry import READERS, find, import_components

    import_components(plan.modules, plan.folders)
    reader: Reader = find(READERS, plan.reader)()
    return reader


def _advice(plan: ReadPlan) -> str:
    """What to do about a clip that cannot be read."""
    return (
        "replace the file"
        if plan.reader in (DEFAULT_READER, IMAGES)
        else f"replace the file, or take reader={DEFAULT_READER}"
    )


class _DiedError(Exception):
    """The decode process died, or stands still; says how."""


class _Worker:
    """One decode process and the connection to it; one thread reads with it, any thread may `end` it."""

    def __init__(self, plan: ReadPlan) -> None:
        self.plan = plan
        self.process: BaseProcess | None = None
        self.connection: Connection | None = None
        self._shared: SharedFrames | None = None
        self._lock = threading.RLock()  # reentrant: garbage collection may end a worker in the middle of a call
        self._ended = False

    def read(self, request: Request, seconds: float) -> DecodedClip:
        """Decode one clip, starting the process first if there is none.

        A clip whose process dies (the system may have killed it) or was stopped by a signal is tried again in a new one. A
        clip that takes too long is not: its second try would take as long.

        Raises:
            DataError: the clip cannot be read; it took too long, or cost `TRIES` processes.
            ConfigError: the reader cannot be used.
            ProcessError: the process dies before it is ready to read.
        """
        for attempt in range(1, TRIES + 1):
            connection = self._ready()
            try:
                kind, answer = self._ask(connection, request, seconds)
                break
            except _DiedError as error:
                self.stop()
                self._check_not_ended()
                if attempt == TRIES:
                    raise self._crashed(request.clip, error) from error
        if kind == "error":
            raise DataError(
                f"Clip {request.clip.id!r} cannot be decoded by the reader {self.plan.reader!r}: {request.clip.path} ({answer}). "
                f"{_advice(self.plan).capitalize()}."
            )
        return DecodedClip(*answer)

    def _ask(self, connection: Connection, request: Request, seconds: float) -> tuple[str, Any]:
        """Give a clip to the process and wait for the answer."""
        clip = request.clip
        try:
            connection.send((str(clip.path), request.seed, request.augmentation))
            if connection.poll(seconds):
                kind, answer = connection.recv()
                return ("frames", self._taken(*answer)) if kind == "shared" else (kind, answer)
        except (EOFError, OSError) as error:
            raise _DiedError(self._ending()) from error
        if self._is_stopped():
            raise _DiedError(f"was stopped by a signal for {seconds:g} s")
        self.stop()
        raise DataError(
            f"Clip {clip.id!r} was not decoded within {seconds:g} s by the reader {self.plan.reader!r}: {clip.path}. "
            f"Raise decode_timeout=, or {_advice(self.plan)}."
        )

    def _taken(self, placed: Placed, is_complete: bool, remarks: tuple[Remark, ...]) -> DecodedClip:
        """A clip with its frames taken out of shared memory."""
        if self._shared is None:
            raise EOFError  # `stop` was called meanwhile
        return DecodedClip(self._shared.take(placed), is_complete, remarks)

    def _crashed(self, clip: Clip, error: _DiedError) -> DataError:
        return DataError(
            f"The reader {self.plan.reader!r} crashed on clip {clip.id!r}, which was tried {TRIES} times: {clip.path} "
            f"(its process {error}). {_advice(self.plan).capitalize()}."
        )

    def _ending(self) -> str:
        """How the process ended."""
        process = self.process
        if process is None:
            return "ended"
        process.join(5.0)  # its connection closes a moment earlier
        return f"ended with {processes.ending(process.exitcode)}"

    def _is_stopped(self) -> bool:
        return self.process is not None and processes.is_stopped(self.process)

    def _ready(self) -> Connection:
        """The connection to a process that lives; starts one if there is none, or if it died since the last clip.

        Raises:
            ConfigError: the reader cannot be used.
            ProcessError: the process died `STARTS` times while it started.
        """
        if self.process is not None and not self.process.is_alive():
            self.stop()
        if self.process is not None and self.connection is not None:
            return self.connection
        for attempt in range(1, STARTS + 1):
            try:
                return self._start()
            except _DiedError as error:
                self.stop()
                self._check_not_ended()
                how = str(error)
            if attempt < STARTS:
                time.sleep(PAUSE)
        raise ProcessError(
            f"The decode process of the reader {self.plan.reader!r} died {STARTS} times while it started: it {how}. Close other "
            f"programs, lower workers=, or take another reader, such as {self._other_reader()}."
        )

    def _start(self) -> Connection:
        """Start the process and wait until its reader is ready.

        Raises:
            _DiedError: it died.
            ConfigError: the reader cannot be used.
        """
        self._check_not_ended()
        shared = SharedFrames.make() if HAS_ANONYMOUS_FILES else None
        connection, child_end = processes.pipe()
        arguments = (child_end, self.plan, processes.is_child(), shared is not None)
        process = processes.start(_work, arguments, preload=PRELOAD, daemon=True)
        child_end.close()
        with self._lock:
            self.process, self.connection, self._shared = process, connection, shared
            if self._ended:
                self.stop()
        self._check_not_ended()
        try:
            if shared:
                shared.give(connection, process.pid or 0)
            is_answered = connection.poll(START_SECONDS)
            kind, answer = connection.recv() if is_answered else ("late", f"it was not ready after {START_SECONDS:g} s")
        except (EOFError, OSError) as error:
            raise _DiedError(self._ending()) from error
        if kind == "late" and self._is_stopped():
            raise _DiedError(f"was stopped by a signal for {START_SECONDS:g} s")
        if kind != "ready":
            self.stop()
            raise ConfigError(
                f"The reader {self.plan.reader!r} cannot be used: {str(answer).rstrip('.')}. Take another one, such as "
                f"{self._other_reader()}."
            )
        return connection

    def _other_reader(self) -> str:
        return f"reader={'decord' if self.plan.reader == DEFAULT_READER else DEFAULT_READER}"

    def _check_not_ended(self) -> None:
        if self._ended:
            raise RuntimeError("This decode process has been ended.")

    def stop(self) -> None:
        """Kill the process and close the connection; the next `read` starts another. Not while another thread reads."""
        with self._lock:
            if self.process is not None:
                processes.kill(self.process)
                processes.join(self.process)
                self.process = None
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            if self._shared is not None:
                self._shared.close()
                self._shared = None

    def end(self) -> None:
        """Kill the process for good, from any thread: a thread that reads gets an error, and no new process starts."""
        with self._lock:
            self._ended = True
            if self.process is not None:
                processes.kill(self.process)


@dataclass(frozen=True)
class _Job:
    request: Request
    future: Future[DecodedClip]


class DecodePool:
    """Decode processes that read clips in parallel; they start when the first clips are requested.

    A pool that is no longer referenced ends its processes, and at exit all pools do: an open pool keeps no interpreter alive.

    Args:
        plan: how clips are read.
        workers: number of processes; 0 means one, because the owner never decodes itself.
        seconds: time limit per clip.

    Raises:
        ProcessError: the system gives this process no more threads.
    """

    def __init__(self, plan: ReadPlan, *, workers: int, seconds: float) -> None:
        self.plan = plan
        self._lock = threading.Lock()  # no job is added after the pool was closed
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._workers = [_Worker(plan) for _ in range(max(1, workers))]
        self._threads = [
            threading.Thread(target=_serve, args=(worker, self._jobs, seconds), name="decode", daemon=True)
            for worker in self._workers
        ]
        self._end = weakref.finalize(self, _end, self._workers, self._jobs)
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            self._end()
            raise ProcessError(
                f"Cannot start a thread for each of {len(self._threads)} decode processes: raise the limit of processes "
                "(ulimit -u), or lower workers=."
            ) from error

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return not self._end.alive

    def submit(self, request: Request) -> Future[DecodedClip]:
        """Read one clip.

        Returns:
            Future of the frames; its `result` raises `DataError` for a clip that cannot be read.

        Raises:
            RuntimeError: the pool is closed.
        """
        job = _Job(request, Future())
        with self._lock:
            if self.is_closed:
                raise RuntimeError("This pool of decode processes is closed.")
            self._jobs.put(job)
        return job.future

    def map(self, requests: Iterable[Request]) -> list[Future[DecodedClip]]:
        """Futures of several clips, in their order."""
        return [self.submit(request) for request in requests]

    def close(self) -> None:
        """End all processes; clips that are not being read yet are cancelled."""
        with self._lock:
            self._end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for worker in self._workers:
            worker.stop()


def _serve(worker: _Worker, jobs: SimpleQueue[_Job | None], seconds: float) -> None:
    """Body of a thread: hand jobs to its worker until None comes."""
    while (job := jobs.get()) is not None:
        if job.future.set_running_or_notify_cancel():
            try:
                job.future.set_result(worker.read(job.request, seconds))
            except BaseException as error:
                job.future.set_exception(error)
        del job  # its frames are not kept while the thread waits


def _end(workers: list[_Worker], jobs: SimpleQueue[_Job | None]) -> None:
    """Cancel the waiting jobs, kill the processes and let the threads end, without waiting for any of them."""
    while True:
        try:
            job = jobs.get_nowait()
        except Empty:
            break
        if job is not None:
            job.future.cancel()
    for worker in workers:
        worker.end()
        jobs.put(None)
