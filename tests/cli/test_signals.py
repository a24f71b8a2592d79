"""Signals that end a command or stop it: exit codes, children, the terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fsar_bench.cli.signals import answering_signals

NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_command_in_order(number, capsys):
    before, steps = signal.getsignal(number), []

    def command() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
            steps.append("went on")
        finally:
            os.kill(os.getpid(), number)  # once more, as some do: what is being closed is closed
            steps.append("closed")

    with pytest.raises(SystemExit) as end, answering_signals():
        command()
    assert end.value.code == 128 + number
    assert steps == ["closed"]
    assert capsys.readouterr().err == f"\nEnded by {number.name}. Run the same command again to resume.\n"
    assert signal.getsignal(number) == before
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)  # or one would end this process later


def test_other_ends_of_a_command_are_its_own():
    for error in (KeyboardInterrupt(), SystemExit(3), ValueError("x")):
        with pytest.raises(type(error)) as end, answering_signals():
            raise error
        assert end.value is error


def test_ignored_signals_stay_ignored(monkeypatch):
    """As below nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with answering_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_that_does_not_end_is_ended():
    script = (
        "import fsar_bench.cli.signals as signals, os, signal, time\n"
        "signals.GRACE = 0.3\n"
        "with signals.answering_signals():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 128 + signal.SIGTERM


def session_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_in_a_terminal_ends_with_its_children_and_a_visible_cursor(tiny, tmp_path, number):
    ours, theirs = pty.openpty()
    words = ["methods=otam", f"dataset={tiny}", "backbone=tiny_clip", "train.episodes=4000", "train.val_interval=4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fsar_bench.cli.main", "run", *words, "controls=false", "workers=1"],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 300
    while b"training " not in seen and time.monotonic() < deadline:
        seen += os.read(ours, 4096)
    assert seen.rfind(b"\x1b[?25l") > seen.rfind(b"\x1b[?25h")  # hidden while lines are drawn
    assert len(session_of(process.pid)) > 3
    process.send_signal(number)
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait(30) == 128 + number
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert f"Ended by {number.name}. Run the same command again to resume.".encode() in seen
    deadline = time.monotonic() + 10
    while session_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session_of(process.pid)
