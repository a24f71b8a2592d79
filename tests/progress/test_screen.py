"""The screen of a run: what fits 80 columns, what stays visible, and how many lines a stage prints."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fsar_bench.progress.estimate import Estimate, Rates, Work
from fsar_bench.progress.events import POSTPONED, VALIDATED, Event
from fsar_bench.progress.screen import Screen, Stages, run_line, stage_line
from fsar_bench.progress.words import about, clock, rate, shorten_name

LONG = "MA-CLIP (matcher=BiMHM, train.optimizer.lr=0.0005) on kinetics100@clip_fsar, 5-way 1-shot seed 3"


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def screen(*, terminal: bool = False, estimate: Estimate | None = None, names: tuple[str, ...] = (LONG,)):
    """A screen of 80 columns that was entered neither as threads nor as a live display, its clock, and what it prints."""
    text, now = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=terminal, width=80)
    if estimate:
        estimate.clock = now
    return Screen(console, names, estimate, now), now, text


def live_lines(shown: Screen) -> list[str]:
    return shown._render().plain.split("\n")


@pytest.mark.parametrize(
    ("seconds", "as_clock", "in_words"),
    [(7, "0:07", "7 s"), (754, "12:34", "13 min"), (3723, "1:02:03", "62 min"), (12_000, "3:20:00", "3 h 20 min"),
     (190_000, "52:46:40", "2 days 5 h")],
)  # fmt: skip
def test_times(seconds, as_clock, in_words):
    assert (clock(seconds), about(seconds)) == (as_clock, in_words)


def test_rates_have_two_or_three_digits():
    assert [rate(x, "videos") for x in (0.25, 4.14, 153.2)] == ["0.25 videos/s", "4.1 videos/s", "153 videos/s"]


def test_names_keep_what_tells_cells_apart():
    assert shorten_name("OTAM on tiny, 5-way 1-shot", 30) == "OTAM on tiny, 5-way 1-shot"
    assert shorten_name("OTAM (train.episodes=48) on tiny, 5-way 1-shot", 34) == "OTAM (train… on tiny, 5-way 1-shot"
    assert shorten_name(LONG, 10) == "MA-CLIP (…"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_lines_fit_and_numbers_stay_whole(width):
    numbers = "training 19999/20000, 4.1 episodes/s, loss 0.712"
    line = stage_line(LONG, numbers, "val 63.2 %", width)
    assert len(line) <= width
    assert line.endswith(f"{numbers}, val 63.2 %")
    for remaining in (None, 12.0, 190_000.0):
        assert len(run_line(99, 128, 40_000, remaining, width)) <= width
    assert "5:00 elapsed, about 10 min left of 15 min" in run_line(3, 12, 300, 600, 80)


def test_the_terminal_keeps_the_last_val_accuracy_next_to_rate_and_loss():
    shown, now, text = screen(terminal=True)
    shown.begin(0)
    shown.show(Event("starting: importing torch and the methods", 0, 1))
    assert live_lines(shown)[1].endswith("starting: importing torch and the methods")
    for done in range(1, 9):
        now.now += 0.5
        shown.show(Event("training", done, 1000, "loss 1.234"))
    shown.show(Event(VALIDATED, 8, 1000, "val accuracy 63.2 %"))
    now.now += 0.5
    shown.show(Event("training", 9, 1000, "loss 1.111"))
    run, stage = live_lines(shown)
    assert stage.endswith("training 9/1000, 2.0 episodes/s, loss 1.111, val 63.2 %")
    assert run.startswith("0/1 cell ")
    assert "0:04 elapsed" in run
    shown.show(Event("validation: encoding", 0, 300))
    assert live_lines(shown)[1].endswith("validation: encoding 0/300, val 63.2 %")
    shown.begin(0)
    shown.show(Event("training", 1, 1000, "loss 1.234"))
    assert "val" not in live_lines(shown)[1]  # it was another cell's
    assert "after 8 of 1000 training episodes, val accuracy 63.2 %" in text.getvalue()
    assert max(map(len, [*live_lines(shown), *text.getvalue().splitlines()])) <= 80


def test_plain_lines_are_few_and_carry_times():
    shown, now, text = screen(names=(LONG, "OTAM on tiny, 5-way 1-shot"))
    shown.begin(1)
    now.now += 65
    for done in range(201):
        shown.show(Event("encoding", done, 200))
    shown.show(Event("training", 1, 1000, "loss 1.000"))
    for interval in range(10):  # validations interrupt a training; they end in one line each
        for done in range(100 * interval + 1, 100 * interval + 101):
            shown.show(Event("training", done, 1000, "loss 1.000"))
        shown.show(Event("validation: encoding", 32, 64))
        shown.show(Event("validation: scoring", 0, 100))
        shown.show(Event(VALIDATED, 100 * interval + 100, 1000, "val accuracy 50.0 %"))
    shown.end("done in 65 s")
    lines = text.getvalue().splitlines()
    assert lines[0] == "   1:05  [2/2] OTAM on tiny, 5-way 1-shot"
    assert lines[-1] == "   1:05  [2/2] OTAM on tiny, 5-way 1-shot: done in 65 s"
    assert [line for line in lines if "encoding" in line] == [
        f"   1:05    encoding {done}/200" for done in (1, 50, 100, 150, 200)
    ]
    assert sum("  training " in line for line in lines) == 5
    assert sum("val accuracy" in line for line in lines) == 10
    assert all(re.match(r" +\d+:\d\d  ", line) and len(line) <= 80 for line in lines)


def test_a_long_stage_says_how_far_it_is_every_half_minute():
    shown, now, text = screen()
    shown.begin(0)
    shown.show(Event("validation: encoding", 0, 3000))
    for second in range(1, 100):
        now.now += 1
        shown.show(Event("validation: encoding", second, 3000))
        shown.tick()
    told = [line for line in text.getvalue().splitlines() if "validation" in line]
    assert told == [f"   {t}    validation: encoding {n}/3000, 1.0 videos/s" for t, n in
                    (("0:30", 30), ("1:00", 60), ("1:30", 90))]  # fmt: skip


def test_a_real_ticker_prints_while_nothing_happens(monkeypatch):
    monkeypatch.setattr("fsar_bench.progress.screen.SILENCE", 0.0)
    shown, _, text = screen()
    with shown:
        shown.begin(0)
        shown.show(Event("waiting for the training in another run", 0, 1))
        before = text.getvalue().count("waiting")
        shown._over.wait(2.5)
    assert text.getvalue().count("waiting") > before


def test_the_estimate_is_said_at_once_where_it_is_known_and_within_a_minute_elsewhere():
    work, rates = Work("m", "b", videos=600, scored=100), Rates()
    rates.remember("encode", work, 60.0, 50)
    shown, _, text = screen(estimate=Estimate({0: work}, rates))
    shown._say_estimate()
    assert text.getvalue() == "   0:00  estimated 12 min in all\n"

    shown, now, text = screen(estimate=Estimate({0: work}))
    shown.begin(0)
    shown.show(Event("encoding", 0, 600))
    now.now += 40
    shown.show(Event("encoding", 32, 600))  # a single measurement, which waited for decode processes
    assert "estimated" not in text.getvalue()
    now.now += 10
    shown.tick()
    assert "   0:50  estimated 12 min in all" in text.getvalue().splitlines()


def test_the_estimate_is_said_again_where_it_was_far_off():
    work = Work("m", "b", videos=600, scored=0)
    shown, now, text = screen(estimate=Estimate({0: work}))
    shown.begin(0)
    shown.show(Event("encoding", 0, 600))
    for done in range(10, 601, 10):
        now.now += 1 if done <= 100 else 10
        shown.show(Event("encoding", done, 600))
    said = [line for line in text.getvalue().splitlines() if "estimated" in line]
    assert said[0].endswith("estimated 60 s in all")
    assert 2 <= len(said) <= 5


def test_a_postponed_cell_is_named_and_begins_again():
    shown, _, text = screen(names=("A on tiny, 5-way 1-shot", "B on tiny, 5-way 1-shot"))
    shown.begin(0)
    shown.show(Event(POSTPONED, 0, 1, "another run is working on it; looked at again at the end"))
    shown.begin(1)
    shown.end("done in 1 s")
    shown.begin(0)
    shown.end("finished before, reused")
    assert [line[9:] for line in text.getvalue().splitlines()] == [
        "[1/2] A on tiny, 5-way 1-shot",
        "  another run is working on it; looked at again at the end",
        "[2/2] B on tiny, 5-way 1-shot: done in 1 s",
        "[1/2] A on tiny, 5-way 1-shot: finished before, reused",
    ]
    assert shown.done == 2


def test_hashing_tells_clips_their_rate_and_the_time_left():
    """Twice in a cell: the clips of the training, then those of the test."""
    shown, now, text = screen()
    shown.begin(0)
    shown.show(Event("starting: building the method, opening the data", 0, 1))
    for total in (6400, 3200):
        shown.show(Event("hashing clips", 0, total))
        for done in range(400, total + 1, 400):
            now.now += 2
            shown.show(Event("hashing clips", done, total))
    assert [line[11:] for line in text.getvalue().splitlines() if "hashing" in line] == [
        "hashing clips 400/6,400, 200 clips/s, about 30 s left",
        "hashing clips 1,600/6,400, 200 clips/s, about 24 s left",
        "hashing clips 3,200/6,400, 200 clips/s, about 16 s left",
        "hashing clips 4,800/6,400, 200 clips/s, about 8 s left",
        "hashing clips 6,400/6,400, 200 clips/s",
        "hashing clips 400/3,200, 200 clips/s, about 14 s left",
        "hashing clips 800/3,200, 200 clips/s, about 12 s left",
        "hashing clips 1,600/3,200, 200 clips/s, about 8 s left",
        "hashing clips 2,400/3,200, 200 clips/s, about 4 s left",
        "hashing clips 3,200/3,200, 200 clips/s",
    ]


def test_a_check_tells_of_hashing_anew_for_each_dataset():
    now = Clock()
    stages = Stages(clock=now)
    assert stages.text(Event("checking methods and backbones", 3, 7)) == "checking methods and backbones, 3 of 7"
    for total in (4000, 2000):
        stages.text(Event("hashing clips", 0, total))
        for done in range(500, total, 500):
            now.now += 1
            told = stages.text(Event("hashing clips", done, total))
    assert told == "hashing clips 1,500/2,000, 500 clips/s, about 1 s left"


def test_cells_at_the_same_time_have_a_live_line_each():
    names = ("A on tiny, 5-way 1-shot", "B on tiny, 5-way 1-shot", "C on tiny, 5-way 1-shot")
    shown, now, text = screen(terminal=True, names=names, estimate=Estimate(dict.fromkeys(range(len(names))), jobs=2))
    shown.begin(0)
    shown.begin(2)
    for done in (1, 2, 3):
        now.now += 1
        shown.show(Event("training", done, 8, "loss 1.000"), 0)
        shown.show(Event("encoding", 10 * done, 64), 2)
    shown.show(Event(VALIDATED, 3, 8, "val accuracy 63.2 %"), 0)
    run, first, third = live_lines(shown)
    assert run.startswith("0/3 cells ")
    assert first == "A on tiny, 5-way 1-shot: training 3/8, 1.0 episodes/s, loss 1.000, val 63.2 %"
    assert third == "C on tiny, 5-way 1-shot: encoding 30/64, 10.0 videos/s"
    assert shown.doing == [first.removesuffix(", val 63.2 %"), third]
    shown.end("failed", finished=False, number=0)
    shown.begin(1)
    run, third, second = live_lines(shown)
    assert (run[:3], second) == ("1/3", "B on tiny, 5-way 1-shot: looking for its result")
    assert [line[9:] for line in text.getvalue().splitlines()] == [
        "[1/3] A on tiny, 5-way 1-shot",
        "[3/3] C on tiny, 5-way 1-shot",
        "[1/3] after 3 of 8 training episodes, val accuracy 63.2 %",
        "[1/3] A on tiny, 5-way 1-shot: failed",
    ]


def test_plain_lines_of_cells_at_the_same_time_begin_with_their_number():
    names = ("A on tiny, 5-way 1-shot", "B on tiny, 5-way 1-shot")
    shown, now, text = screen(names=names, estimate=Estimate(dict.fromkeys(range(len(names))), jobs=2))
    shown.begin(0)
    shown.begin(1)
    for done in (1, 2):
        for number in (1, 0):
            shown.show(Event("encoding", 32 * done, 64), number)
    for second in range(1, 62):  # the first is silent for a minute while the second tells something every 20 seconds
        now.now += 1
        if second % 20 == 0:
            shown.show(Event("scoring", second // 20, 3), 1)
        shown.tick()
    shown.show(Event(POSTPONED, 0, 1, "another run is working on it"), 0)
    shown.end("done in 1 s", number=1)
    assert text.getvalue().splitlines() == [
        "   0:00  [2/2] B on tiny, 5-way 1-shot",
        "   0:00  [2/2] encoding 32/64",
        "   0:00  [1/2] A on tiny, 5-way 1-shot",
        "   0:00  [1/2] encoding 32/64",
        "   0:00  [2/2] encoding 64/64",
        "   0:00  [1/2] encoding 64/64",
        "   0:20  [2/2] scoring 1/3",
        "   0:30  [1/2] encoding 64/64",
        "   0:40  [2/2] scoring 2/3, 0.05 episodes/s",
        "   1:00  [2/2] scoring 3/3, 0.05 episodes/s",
        "   1:00  [1/2] encoding 64/64",
        "   1:01  [1/2] another run is working on it",
        "   1:01  [2/2] B on tiny, 5-way 1-shot: done in 1 s",
    ]
