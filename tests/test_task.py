"""Progress of one task without a terminal: lines with a rate and the time that is left, but not many."""

from __future__ import annotations

import io

from rich.console import Console

from fsar_bench.progress.task import Task


def lines(capsys, steps: list[tuple[float, int, int | None]]) -> list[str]:
    """What a task prints outside a terminal; steps are (seconds, done, total)."""
    now = [0.0]
    console = Console(file=io.StringIO())
    with Task(console, "decoding", "clips", clock=lambda: now[0]) as task:
        for seconds, done, total in steps:
            now[0] = seconds
            task(done, total)
    return capsys.readouterr().out.splitlines()


def test_lines_tell_the_rate_and_the_time_that_is_left(capsys):
    steps = [(0.1 * i, i, 1000) for i in range(1, 121)]  # 10 a second, for 12 s
    assert lines(capsys, steps) == [
        "decoding 50/1000, 10 clips/s, about 95 s left",
        "decoding 100/1000, 10 clips/s, about 90 s left",
    ]


def test_a_slow_task_has_a_decimal_and_one_without_a_total_its_seconds(capsys):
    assert lines(capsys, [(20.0, 3, 9)]) == ["decoding 3/9, 0.1 clips/s, about 40 s left"]
    assert lines(capsys, [(20.0, 0, 9)]) == ["decoding 0/9, 0.0 clips/s"]
    assert lines(capsys, [(7.0, 800, None)]) == ["decoding: 800 clips, 7 s"]


def test_a_short_task_prints_nothing(capsys):
    assert lines(capsys, [(1.0, 5, 10), (2.0, 10, 10)]) == []


def test_a_terminal_gets_a_bar():
    screen = io.StringIO()
    with Task(Console(file=screen, force_terminal=True, width=100), "decoding", "clips") as task:
        task(3, 4)
    assert "3/4" in screen.getvalue()
