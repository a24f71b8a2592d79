"""Writing: the old file or the new one, never a part; and what dead processes left is cleared."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading

import pytest

from fsar_bench import io
from fsar_bench.errors import ResultError


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
