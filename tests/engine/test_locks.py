"""Locks of work folders: waits that are told and have an end, and folders that cannot be locked."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock

from fsar_bench.engine import locks
from fsar_bench.engine.locks import HOLDER, LOCK, alone_in, holder, is_locked, patient_in
from fsar_bench.errors import BusyError, ResultError
from fsar_bench.progress.events import Event, listening, report


@pytest.fixture
def quick(monkeypatch) -> None:
    """Hours are moments."""
    for name, seconds in {"MOMENT": 0.1, "PATIENCE": 0.1, "SILENCE": 0.5, "BEAT": 0.0}.items():
        monkeypatch.setattr(locks, name, seconds)


@pytest.fixture
def held(tmp_path) -> Iterator[Path]:
    """A folder in which another run works, in a context of its own: what we report is not its progress."""
    context, run = copy_context(), alone_in(tmp_path)
    context.run(run.__enter__)
    yield tmp_path
    context.run(run.__exit__, None, None, None)


def test_a_run_that_is_refused_names_the_other(held, quick):
    assert is_locked(held)
    assert str(os.getpid()) in holder(held)
    with pytest.raises(BusyError, match=rf"working in {held} \(process {os.getpid()} on '.+'\)\. Wait"), alone_in(held):
        pass


def test_a_free_folder_names_nobody(tmp_path):
    with alone_in(tmp_path):
        assert (tmp_path / HOLDER).exists()
    assert not is_locked(tmp_path)
    assert holder(tmp_path) == ""
    (tmp_path / HOLDER).write_text('{"pid": "x"}')  # of a run that was killed, damaged besides
    assert holder(tmp_path) == ""


def test_one_who_only_looks_whether_a_folder_is_free_makes_nobody_busy(tmp_path):
    looking = FileLock(tmp_path / LOCK, thread_local=False)
    looking.acquire()
    threading.Timer(0.3, looking.release).start()
    with alone_in(tmp_path):
        assert is_locked(tmp_path)


def test_a_wait_is_told_and_ends_when_the_other_run_ends(tmp_path, quick):
    other = FileLock(tmp_path / LOCK).acquire()
    told: list[Event] = []

    def hear(event: Event) -> None:
        told.append(event)
        if len(told) == 3:
            other.lock.release()

    with listening(hear), patient_in(tmp_path, "the training"):
        assert [event.stage for event in told] == ["waiting for the training in another run"] * 3


def test_a_run_that_makes_no_progress_is_not_waited_for(held, quick):
    message = rf"holds {held / LOCK} \(process {os.getpid()} on .* has made no progress for .* minutes.*kill -CONT"
    began = time.monotonic()
    with pytest.raises(ResultError, match=message) as error, patient_in(held, "the training"):
        pass
    assert not isinstance(error.value, BusyError)  # it is not looked at again
    assert 0.5 < time.monotonic() - began < 10


def test_a_run_that_makes_progress_is_waited_for(tmp_path, quick):
    """It reports for three times as long as a silent one is waited for, although nobody listens to it."""
    locked = threading.Event()

    def work() -> None:
        with alone_in(tmp_path):
            locked.set()
            for step in range(30):
                time.sleep(0.05)
                report("training", step, 30)

    thread = threading.Thread(target=work)
    thread.start()
    locked.wait()
    with patient_in(tmp_path, "the training"):
        assert not thread.is_alive() or thread.join(5) is None
    thread.join()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    (tmp_path / LOCK).mkdir()
    for look in (is_locked, lambda folder: alone_in(folder).__enter__()):
        with pytest.raises(
            ResultError, match=r"Cannot lock .*\.lock \(Is a directory\)\. Choose another folder with work_dir="
        ):
            look(tmp_path)
    (tmp_path / LOCK).rmdir()

    for number, message in (
        (errno.ENOLCK, r"\(No locks available\)\. Its file system has no locks: choose a folder on another"),
        (errno.EOPNOTSUPP, r"Its file system has no locks"),
        (errno.EIO, r"\(Input/output error\)\. Choose another folder with work_dir=\."),
    ):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))
        with pytest.raises(ResultError, match=message), patient_in(tmp_path, "the training"):
            pass
