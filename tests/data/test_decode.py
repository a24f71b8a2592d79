"""Reading clips: readers, damaged files, hangs, and equal frames regardless of the number of workers."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fsar_bench.data.dataset import BUILTIN, Clip
from fsar_bench.data.decode import DecodePool, ReadPlan, Request
from fsar_bench.data.frames import FrameSource, frame_source
from fsar_bench.data.sampling import SAMPLING, midpoints, random_frames
from fsar_bench.errors import ConfigError, DataError, ProcessError

PLAN = ReadPlan("pyav", resize=60, crop=60, frames=8, whole_up_to=64)


@pytest.fixture(scope="module")
def shipped() -> list[Clip]:
    folder = BUILTIN / "synthact"
    rows = json.loads((folder / "annotation.json").read_text())["clips"][::200]
    return [Clip(r["id"], r["class"], folder / r["path"], r["sha256"]) for r in rows]


@pytest.fixture(scope="module")
def pool():
    pool = DecodePool(PLAN, workers=1, seconds=30)
    yield pool
    pool.close()


def copy_of(clip: Clip, path: Path, change) -> Clip:
    path.write_bytes(change(clip.path.read_bytes()))
    return Clip("bad_clip", clip.class_name, path)


def test_midpoints_and_random_frames():
    assert midpoints(80, 8).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert midpoints(3, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    for length in (1, 5, 8, 30, 301):
        drawn = random_frames(length, 8, (0, 3, 1))
        edges = np.arange(9) * length / 8
        assert ((drawn >= np.floor(edges[:-1])) & (drawn <= np.ceil(edges[1:]))).all()
        assert (drawn < length).all()
        assert (drawn == random_frames(length, 8, (0, 3, 1))).all()
    assert (random_frames(301, 8, (0, 3, 1)) != random_frames(301, 8, (0, 3, 2))).any()


def drawn(sampling: str, length: int, frames: int = 8, stride: int = 1, draws: int = 400) -> np.ndarray:
    """Frames `[draws, frames]` of one clip."""
    return np.stack([random_frames(length, frames, (5, i), sampling=sampling, stride=stride) for i in range(draws)])


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("length", [1, 5, 8, 9, 17, 40, 301])
def test_frames_of_every_sampling_are_in_the_clip_and_in_order(sampling, length):
    frames = drawn(sampling, length, stride=35, draws=50)
    assert frames.dtype == np.int64
    assert frames.min() >= 0
    assert frames.max() < length
    assert (np.diff(frames) >= 0).all()


def test_whole_segments_leave_out_the_end():
    frames = drawn("whole_segments", 23, draws=600)  # segments of 2 frames; 7 are left
    assert [set(column) for column in frames.T] == [{2 * i, 2 * i + 1} for i in range(8)]
    assert drawn("segments", 23, draws=600).max() == 22


def test_a_stride_reads_equidistant_frames_from_a_random_start():
    frames = drawn("stride", 303, stride=35)  # 8 * 35 = 280 fit: starts from 0 to 24, ends 35 before the window's end
    assert set(frames[:, 0]) <= set(range(24))
    assert len(set(frames[:, 0])) == 24
    assert set(np.diff(frames).ravel()) == {35}
    short = drawn("stride", 150, stride=35)  # of whole segments: a window of 144
    assert short[:, 0].min() == 0
    assert short[:, 0].max() == 6
    assert set(short[:, -1] - short[:, 0]) <= {109, 110}  # 144 - 35


def test_ends_move_by_up_to_five_frames_or_not_at_all():
    frames = drawn("jittered_ends", 40, draws=800)
    assert set(frames[:, 0]) == set(range(6))
    assert set(frames[:, -1]) == set(range(34, 40))
    for first, last, clip in zip(frames[:, 0], frames[:, -1], frames, strict=True):
        assert (clip == np.linspace(first, last, 8).astype(int)).all()
    assert set(drawn("jittered_ends", 12)[:, 0]) <= {0, 1, 2}
    assert (drawn("jittered_ends", 8) == np.arange(8)).all()
    assert (drawn("ends", 30) == [0, 4, 8, 12, 16, 20, 24, 29]).all()


def test_frames_do_not_depend_on_workers_or_cache(shipped, tmp_path, monkeypatch):
    requests = [Request(clip) for clip in shipped] + [Request(clip, (0, 5, i)) for i, clip in enumerate(shipped)]
    seen = []
    for workers in (0, 1, 2):
        monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / str(workers)))
        with FrameSource(PLAN, workers=workers, seconds=60) as source:
            seen += [source.read(requests), source.read(requests)]  # decoded, then from the cache
    assert all((seen[0] == other).all() for other in seen[1:])
    assert seen[0].shape == (len(requests), 8, 60, 60, 3)
    assert seen[0].std() > 10


def test_long_clips_are_read_frame_by_frame_to_the_same_end(shipped):
    requests = [Request(clip, (0, 1, i)) for i, clip in enumerate(shipped[:3])]
    with (
        FrameSource(PLAN, workers=1, seconds=60) as whole,
        FrameSource(ReadPlan("pyav", 60, 60, 8, whole_up_to=0), workers=1, seconds=60) as single,
    ):
        assert (whole.read(requests) == single.read(requests)).all()


def test_readers_agree(shipped):
    both = []
    for reader in ("decord", "pyav"):
        with FrameSource(ReadPlan(reader, 60, 60, 8), workers=1, seconds=60) as source:
            both.append(source.read([Request(c) for c in shipped[:4]]).astype(int))
    assert np.abs(both[0] - both[1]).mean() < 1.5


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("truncated.mp4", lambda data: data[: len(data) // 3], "cannot be decoded"),
        ("text.mp4", lambda data: b"this is not a video\n" * 50, "cannot be decoded"),
        ("zeros.mp4", lambda data: bytes(len(data)), "cannot be decoded"),
    ],
)
def test_damaged_clip_is_named(pool, shipped, tmp_path, name, change, message):
    clip = copy_of(shipped[0], tmp_path / name, change)
    with pytest.raises(DataError, match=f"'bad_clip' {message}.*{name}"):
        pool.submit(Request(clip)).result()
    frames, *_ = pool.submit(Request(shipped[0])).result()  # the process lives on
    assert frames.shape == (8, 60, 60, 3)


def test_empty_missing_and_altered_files_are_named(shipped, tmp_path):
    empty = copy_of(shipped[0], tmp_path / "empty.mp4", lambda data: b"")
    with pytest.raises(DataError, match="'bad_clip' is empty"):
        _ = empty.content
    with pytest.raises(DataError, match=r"'gone' cannot be read: .*gone\.mp4 \(No such file"):
        _ = Clip("gone", "c", tmp_path / "gone.mp4").content
    flipped = copy_of(
        shipped[0], tmp_path / "flipped.mp4", lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]
    )
    altered = Clip("bad_clip", "c", flipped.path, shipped[0].sha256)
    with pytest.raises(DataError, match="'bad_clip' is damaged"):
        _ = altered.content
    assert shipped[0].content == hashlib.sha256(shipped[0].path.read_bytes()).hexdigest()


def test_a_clip_that_is_replaced_while_it_is_in_use_spoils_no_cache(shipped, tmp_path, monkeypatch):
    """Its frames would be kept under the content of the former file."""
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    first, second = (clip.path.read_bytes() for clip in shipped[:2])
    path = tmp_path / "clip.mp4"
    path.write_bytes(first)
    clip = Clip("mine", "c", path)
    assert clip.content == shipped[0].content
    path.write_bytes(second)
    with FrameSource(PLAN, workers=1, seconds=60) as source:
        with pytest.raises(DataError, match=r"Clip 'mine' was changed while it was in use: .*clip\.mp4"):
            source.read([Request(clip)])
        path.write_bytes(first)  # another time, the same bytes
        assert (source.read([Request(clip)]) == source.read([Request(shipped[0])])).all()


def test_a_recorded_sha_256_may_have_capitals(shipped, tmp_path):
    clip = shipped[0]
    assert Clip("c", "c", clip.path, clip.sha256.upper()).content == clip.sha256


HANGING = """
import time
from fsar_bench.registry import READERS

@READERS.register_module(name="{name}")
class Reader:
    version = "{name} 1"
    def open(self, path):
        {open}
    def read(self, clip, indices, *, resize, crop):
        raise AssertionError
"""


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("hangs", "time.sleep(600)", r"was not decoded within 2 s by the reader 'hangs'"),
        (
            "crashes",
            "import os; os._exit(3)",
            r"on clip '.*', which was tried 2 times: .*ended with exit code 3",
        ),
        ("segfaults", "import ctypes; ctypes.string_at(0)", r"ended with exit code -11: SIGSEGV"),
        ("empties", "return {'total_frames': 0}", r"it has no frames"),
    ],
)
def test_hanging_and_crashing_readers_cost_one_clip(shipped, tmp_path, name, body, message):
    (tmp_path / f"{name}_module.py").write_text(HANGING.format(name=name, open=body))
    plan = ReadPlan(name, 60, 60, 8, modules=(f"{name}_module",), folders=(str(tmp_path),))
    pool = DecodePool(plan, workers=1, seconds=2)
    try:
        with pytest.raises(DataError, match=message):
            pool.submit(Request(shipped[0])).result()
    finally:
        pool.close()


ONCE = """
import os, signal
from pathlib import Path
from fsar_bench.data.readers import VideoReader
from fsar_bench.registry import READERS

def strike(number):
    marks = Path(__file__).parent / "marks"
    marks.mkdir(exist_ok=True)
    if len(list(marks.iterdir())) < {times}:
        (marks / str(os.getpid())).touch()
        os.kill(os.getpid(), number)

{at_import}

@READERS.register_module(name="once")
class Once(VideoReader):
    def open(self, path):
        {at_open}
        return super().open(path)
"""


def once(folder: Path, *, times: int, at_import: str = "", at_open: str = "") -> DecodePool:
    """A pool whose reader is PyAV's, and whose processes are struck by a signal so many times."""
    (folder / "once_module.py").write_text(ONCE.format(times=times, at_import=at_import, at_open=at_open or "pass"))
    plan = ReadPlan("once", 60, 60, 8, modules=("once_module",), folders=(str(folder),))
    return DecodePool(plan, workers=1, seconds=3)


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_a_clip_whose_process_is_struck_once_is_read_all_the_same(pool, shipped, tmp_path, number):
    with closing(once(tmp_path, times=1, at_open=f"strike(signal.{number})")) as struck:
        frames = struck.submit(Request(shipped[0])).result().frames
    assert (frames == pool.submit(Request(shipped[0])).result().frames).all()
    assert len(list((tmp_path / "marks").iterdir())) == 1


def test_a_process_that_is_killed_between_clips_costs_no_try(shipped, tmp_path):
    with closing(once(tmp_path, times=1)) as struck:
        struck.submit(Request(shipped[0])).result()
        (worker,) = struck._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join(10)
        asked, ask = [], worker._ask
        worker._ask = lambda *arguments: asked.append(arguments) or ask(*arguments)
        struck.submit(Request(shipped[1])).result()
        assert len(asked) == 1


def test_a_process_that_is_killed_while_it_starts_is_started_again(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr("fsar_bench.data.decode.PAUSE", 0.0)
    with closing(once(tmp_path, times=2, at_import="strike(signal.SIGKILL)")) as struck:
        assert struck.submit(Request(shipped[0])).result().frames.shape == (8, 60, 60, 3)


def test_processes_that_die_while_they_start_are_not_blamed_on_the_reader(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr("fsar_bench.data.decode.PAUSE", 0.0)
    message = (
        r"'once' died 3 times while it started: it ended with exit code -9: SIGKILL, out of memory\?\. Close other"
    )
    struck = once(tmp_path, times=9, at_import="strike(signal.SIGKILL)")
    with closing(struck), pytest.raises(ProcessError, match=message):
        struck.submit(Request(shipped[0])).result()
    assert len(list((tmp_path / "marks").iterdir())) == 3


def test_a_reader_that_cannot_be_imported_is_told_at_once(shipped, tmp_path):
    broken = once(tmp_path, times=0, at_import="raise RuntimeError('no codec')")
    with closing(broken), pytest.raises(ConfigError, match=r"The reader 'once' cannot be used: .*no codec"):
        broken.submit(Request(shipped[0])).result()


def test_a_pool_without_threads_is_told_so(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(ProcessError, match=r"a thread for each of 3 decode processes: raise the limit of processes"):
        DecodePool(PLAN, workers=3, seconds=1)


def test_a_worker_may_be_stopped_by_two_threads():
    """A reading thread that gives up and the owner that closes the pool come together when a clip hangs."""

    class Process:
        def kill(self) -> None:
            time.sleep(0.2)

        def join(self) -> None:
            """Dead at once."""

    with closing(DecodePool(PLAN, workers=1, seconds=1)) as pool:
        (worker,) = pool._workers
        worker.process, worker.connection = Process(), multiprocessing.Pipe()[0]
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(worker.stop)
            time.sleep(0.1)
            second = threads.submit(worker.end)
            first.result()
            second.result()
        with pytest.raises(RuntimeError, match="ended"):
            worker.read(Request(Clip("a", "b", Path("c"))), 1.0)


def test_workers_survive_an_interrupt_from_the_terminal(pool, shipped):
    """The owner decides: it may want to finish the clip that it waits for."""
    pool.submit(Request(shipped[0])).result()
    process = pool._workers[0].process
    os.kill(process.pid, signal.SIGINT)
    frames, *_ = pool.submit(Request(shipped[0])).result()
    assert frames.shape == (8, 60, 60, 3)
    assert pool._workers[0].process is process


def test_closed_pools_cancel_waiting_clips_and_take_no_more(shipped, tmp_path):
    (tmp_path / "waits_module.py").write_text(HANGING.format(name="waits", open="time.sleep(600)"))
    plan = ReadPlan("waits", 60, 60, 8, modules=("waits_module",), folders=(str(tmp_path),))
    pool = DecodePool(plan, workers=1, seconds=600)
    first, second = pool.map([Request(shipped[0]), Request(shipped[1])])
    while not first.running():
        time.sleep(0.01)
    pool.close()
    assert first.exception() is not None
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(Request(shipped[0]))
    pool.close()


def test_sources_are_shared_and_end_with_the_last_reference(shipped):
    first, second = (frame_source(PLAN, workers=1, seconds=60) for _ in range(2))
    assert first is second
    assert frame_source(PLAN, workers=2, seconds=60) is not first
    first._pool.submit(Request(shipped[0])).result()
    process = first._pool._workers[0].process
    assert process.is_alive()
    del second
    assert process.is_alive()
    del first
    process.join(10)
    assert process.exitcode == -9
    closed = frame_source(PLAN, workers=1, seconds=60)
    closed.close()
    assert frame_source(PLAN, workers=1, seconds=60) is not closed


SCRIPT = """
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.decode import ReadPlan, Request
from fsar_bench.data.frames import frame_source
from fsar_bench.registry import import_components

import_components(["stays_module"], [{folder!r}])
plan = ReadPlan("stays", 60, 60, 8, modules=("stays_module",), folders=({folder!r},))
source = frame_source(plan, workers=2, seconds=600)
clips = Dataset("synthact", "builtin:synthact").split("val").clips[:6]
pending = source.prefetch([Request(clip) for clip in clips])
while not all(worker.process for worker in source._pool._workers):
    pass
print("read", *(worker.process.pid for worker in source._pool._workers))
"""


def test_a_script_without_guard_ends_although_its_clips_hang(tmp_path):
    (tmp_path / "stays_module.py").write_text(HANGING.format(name="stays", open="time.sleep(600)"))
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    word, *pids = done.stdout.split()  # once: no worker has run the script again
    assert word == "read"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
