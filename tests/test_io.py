"""Writing: the old file or the new one, never a part; and what dead processes left is cleared."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import threading
from functools import partial

import pytest

from fsar_bench import io
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.progress import events
from fsar_bench.storage.arrays import read_array
from fsar_bench.storage.recall import recall
from fsar_bench.writing.streams import open_log


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    io.write_atomically(path, b"old")

    def interrupted() -> None:
        with io.replacing(path) as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_two_threads_write_the_same_file_without_mixing(tmp_path):
    path, texts = tmp_path / "file", [bytes([65 + i]) * 100_000 for i in range(8)]

    def write(text: bytes) -> None:
        for _ in range(5):
            io.write_atomically(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert os.listdir(tmp_path) == ["file"]


def test_temporary_files_of_dead_processes_are_swept_and_others_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    host = platform.node()
    left = tmp_path / f".last.pt.{host}.{dead.pid}.1.part"
    kept = [
        tmp_path / f".last.pt.{host}.{os.getppid()}.1.part",  # its process lives
        tmp_path / f".last.pt.another-{host}.{dead.pid}.1.part",  # of another machine on a shared disk
        tmp_path / "notes.part",
    ]
    for path in (left, *kept):
        path.write_bytes(b"x")
    io.write_atomically(tmp_path / "curve.csv", b"new")
    assert not left.exists()
    assert all(path.exists() for path in kept)


def test_a_folder_that_cannot_be_written_is_named_with_the_key_that_moves_it(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "below" / "x"
    with pytest.raises(
        ResultError, match=r"Cannot write .*file/below/x \(.*\)\. Choose another folder with work_dir=\."
    ):
        io.replacing(path, hint="work_dir=").__enter__()


def test_an_unchanged_file_is_digested_once_and_a_changed_one_again(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = io.file_digest(path)
    reads = []
    monkeypatch.setattr(io.hashlib, "file_digest", lambda file, kind: reads.append(file) or pytest.fail("read again"))
    assert io.file_digest(path) == first
    monkeypatch.undo()
    path.write_bytes(b"other")
    assert io.file_digest(path) != first


@pytest.fixture
def warnings(monkeypatch, capsys):
    """What `warn` prints where nobody listens, line by line."""
    monkeypatch.setattr(events, "_warned", set())
    return lambda: capsys.readouterr().err.splitlines()


def test_text_is_utf_8_with_or_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x").write_text('"café ±"\n', encoding=encoding)
        assert io.read_text(tmp_path / "x") == '"café ±"\n'
        assert io.read_json(tmp_path / "x") == '"café ±"\n'.encode()


def test_every_path_of_a_user_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FSAR_BENCH_CACHE", "~/cache")
    monkeypatch.setenv("FSAR_BENCH_DATA", "~/data")
    assert io.user_path("~/x") == tmp_path / "x"
    assert io.cache_folder() == tmp_path / "cache"
    assert io.data_folder() == tmp_path / "data"
    assert io.annotation_file("~/mine.json") == tmp_path / "mine.json"
    monkeypatch.setenv("FSAR_BENCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert io.cache_folder() == tmp_path / "xdg" / "fsar_bench"
    with pytest.raises(ConfigError, match="'~nobody-of-this-name/x' names no home folder"):
        io.user_path("~nobody-of-this-name/x")


def test_a_cache_that_cannot_be_written_is_told_once_and_changes_nothing_else(tmp_path, monkeypatch, warnings):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    for name in ("frames/a.npy", "features/b"):
        io.write_cached(io.cache_folder() / name, lambda file: file.write(b"x"))
    lines = io.CachedLines(io.cache_folder() / "verify" / "log")
    lines.append("one")
    lines.close()
    (warning,) = warnings()
    assert f"Cannot write to {tmp_path}/file/cache (Not a directory)" in warning
    assert "$FSAR_BENCH_CACHE names another folder" in warning


def test_a_full_disk_is_like_any_folder_that_cannot_be_written(tmp_path, monkeypatch, warnings):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))

    def fill(file) -> None:
        file.write(b"the first part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    io.write_cached(tmp_path / "cache" / "x", fill)
    assert "No space left on device" in warnings()[0]
    assert os.listdir(tmp_path) == []  # no folder that was made for it either


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_lines_stop_at_a_full_disk(tmp_path, warnings):
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    lines = io.CachedLines(path)
    lines.append("one")
    lines.append("two")
    lines.close()
    (warning,) = warnings()
    assert f"Cannot write to {tmp_path} (No space left on device)" in warning


def test_a_warning_is_told_once_by_whichever_process_it_comes_from(monkeypatch):
    monkeypatch.setattr(events, "_warned", set())
    heard: list[events.Event] = []
    events.relay(events.Event(events.WARNING, 0, 0, "the same"), heard.append)  # of a child
    events.relay(events.Event("scoring", 1, 2), heard.append)
    events.relay(events.Event("scoring", 1, 2), heard.append)
    with events.listening(heard.append):
        events.warn("the same")
        events.warn("another")
    assert [event.note or event.stage for event in heard] == ["the same", "scoring", "scoring", "another"]


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(tmp_path, kind):
    path = tmp_path / "cached"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    recalled = partial(recall, path, io.read_whole, "frames", again="They are decoded again")
    for read in (io.read_bytes, io.read_whole, io.file_digest, partial(read_array, made_from="x")):
        with pytest.raises(OSError, match="it is a"):
            read(path)
    assert recalled() is None


def test_a_log_that_is_a_pipe_without_a_reader_is_told_and_goes_nowhere(tmp_path):
    told: list[OSError] = []
    path = tmp_path / "log"
    os.mkfifo(path)
    open_log(path, told.append).write("a line\n")
    io.append_cached(path, b"a line\n")
    lines = io.CachedLines(path)
    lines.append("a line")
    assert [error.errno for error in told] == [errno.ENXIO]


def test_a_changed_file_has_another_digest_though_its_size_and_time_are_put_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before, state = io.file_digest(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert io.file_digest(path) != before
