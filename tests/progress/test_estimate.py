"""How long a run takes: exact sums, and a simulated run with a clock of its own whose end is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsar_bench.progress.estimate import PASSES, Estimate, Rates, Work
from fsar_bench.progress.events import CACHED, VALIDATED, Event

TRAINED = Work(
    "otam", "clip", training="t", episodes=40, episode_videos=10, validations=6, val_videos=30, val_episodes=20,
    videos=60, scored=300,
)  # fmt: skip
FROZEN = Work("frozen", "clip", videos=60, scored=300)
START, FORWARD, TRAINING, SCORE = (
    7.0,
    0.5,
    1.25,
    0.01,
)  # seconds of a start, an encoded video, a trained one, an episode


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def counted(stage: str, total: int, step: int, seconds: float) -> Iterator[tuple[float, Event]]:
    """Events of a stage that tells of every `step` units, each with the seconds since the one before."""
    yield 0.0, Event(stage, 0, total)
    for done in [*range(step, total, step), total]:
        yield seconds * (step if done % step == 0 else done % step), Event(stage, done, total)


def cell(work: Work, interval: int = 8) -> Iterator[tuple[float, Event]]:
    """All events of a cell, as `run_cell` gives them."""
    yield 0.0, Event("starting: importing torch and the methods", 0, 1)
    yield START, Event("starting: the training" if work.episodes else "starting: building the method", 0, 1)
    for done in range(work.episodes + 1):
        if done:
            yield TRAINING * work.episode_videos, Event("training", done, work.episodes)
        if work.episodes and (done % interval == 0 or done == work.episodes):
            yield from counted("validation: encoding", work.val_videos, 10, FORWARD)
            yield from counted("validation: scoring", work.val_episodes, 20, SCORE)
            yield 0.0, Event(VALIDATED, done, work.episodes, "val accuracy 50.0 %")
    yield from counted("encoding", work.videos, 10, FORWARD)
    yield from counted("scoring", work.scored, 100, SCORE)


def test_an_exact_sum():
    rates = Rates()
    rates.remember("encode", TRAINED, 100.0, 200)
    rates.remember("score", TRAINED, 10.0, 1000)
    rates.remember("train", TRAINED, 50.0, 40)
    estimate = Estimate({}, rates)
    assert estimate.seconds(TRAINED) == pytest.approx(400 * 1.25 + (6 * 30 + 60) * 0.5 + (6 * 20 + 300) * 0.01)
    assert estimate.seconds(TRAINED.trained()) == pytest.approx(60 * 0.5 + 300 * 0.01)


def test_a_training_pass_is_told_from_a_forward_pass_and_back():
    forward, backward = Rates(), Rates()
    forward.remember("encode", FROZEN, 1.0, 10)
    backward.remember("train", TRAINED, 6.0, 10)
    assert forward.seconds("train", TRAINED) == pytest.approx(PASSES * 0.1)
    assert backward.seconds("encode", FROZEN) == pytest.approx(0.6 / PASSES)


def test_nothing_is_said_of_a_backbone_that_was_never_measured():
    rates = Rates()
    rates.remember("encode", Work("otam", "resnet"), 1.0, 10)
    assert Estimate({0: TRAINED}, rates).remaining() is None
    assert Estimate({0: FROZEN, 1: None}, rates).remaining() is None


def test_stored_seconds_are_corrected_by_the_speed_of_this_machine():
    rates = Rates()
    rates.remember("encode", FROZEN, 10.0, 100)
    rates.remember("encode", TRAINED, 40.0, 100)
    rates.measure("encode", FROZEN, 5.0, 10)  # five times as slow as stored
    assert rates.seconds("encode", FROZEN) == pytest.approx(0.5)
    assert rates.seconds("encode", TRAINED) == pytest.approx(2.0)


def test_the_first_clips_which_wait_for_processes_are_forgotten():
    rates = Rates()
    rates.measure("encode", FROZEN, 90.0, 32)
    assert rates.is_rough
    assert rates.seconds("encode", FROZEN) == pytest.approx(90 / 32)
    rates.measure("encode", FROZEN, 1.0, 10)  # the rest of a small split
    assert not rates.is_rough
    assert rates.seconds("encode", FROZEN) == pytest.approx(0.1)


def test_a_simulated_run_is_foreseen_exactly_once_all_units_were_measured():
    """Two trainings, one of which the third cell shares, and a frozen method; every unit takes the same seconds."""
    other = Work(**{**vars(TRAINED), "training": "u"})
    works = [FROZEN, TRAINED, Work(**vars(TRAINED)), other]
    events = [list(cell(work.trained() if number == 2 else work)) for number, work in enumerate(works)]
    length = sum(seconds for of_cell in events for seconds, _ in of_cell)
    clock = Clock()
    estimate = Estimate(dict(enumerate(works)), clock=clock)
    assert estimate.remaining() is None
    early, late = [], []
    for number, of_cell in enumerate(events):
        estimate.begin(number)
        for seconds, event in of_cell:
            clock.now += seconds
            estimate.tell(event)
            is_known = number > 1 or (number == 1 and event.stage == "training" and event.done > 8)
            if is_known and not event.stage.startswith("starting"):
                late.append(estimate.total())
            elif estimate.total() is not None:
                early.append(estimate.total())
        estimate.end(finished=True)
    assert len(late) > 100
    assert late == pytest.approx([length] * len(late))
    assert clock.now - 1000 == pytest.approx(length)
    assert early  # forward passes of the first cell foretell the trainings
    assert all(length / 3 < total < 3 * length for total in early)
    assert estimate.remaining() == 0


def test_time_passes_between_events():
    clock = Clock()
    estimate = Estimate({0: FROZEN}, clock=clock)
    estimate.begin(0)
    for seconds, event in list(cell(FROZEN))[:6]:
        clock.now += seconds
        estimate.tell(event)
    before = estimate.remaining()
    clock.now += 2.0
    assert estimate.remaining() == pytest.approx(before - 2.0)
    clock.now += 1000.0
    assert estimate.remaining() == 0


def test_a_resumed_training_counts_what_is_done():
    clock = Clock()
    rates = Rates()
    rates.remember("encode", TRAINED, 1.0, 2)
    rates.remember("train", TRAINED, 5.0, 4)
    estimate = Estimate({0: TRAINED}, rates, clock)
    estimate.begin(0)
    estimate.tell(Event("training", 25, 40))  # 24 were done before: validations after 32 and 40 remain
    assert estimate.remaining() == pytest.approx(15 * 10 * 1.25 + 2 * 30 * 0.5 + 60 * 0.5)
    estimate.tell(Event("encoding", 0, 120))  # twice the clips: supports and queries are encoded differently
    assert estimate.remaining() == pytest.approx(120 * 0.5)


def test_a_postponed_cell_counts_still():
    rates = Rates()
    rates.remember("encode", FROZEN, 1.0, 2)
    estimate = Estimate({0: FROZEN, 1: FROZEN}, rates, Clock())
    estimate.begin(0)
    estimate.postpone()
    assert estimate.remaining() == pytest.approx(2 * 60 * 0.5)
    for number in (1, 0):
        estimate.begin(number)
        estimate.end(finished=True)
    assert estimate.remaining() == 0


def test_features_from_a_cache_say_nothing_of_the_time_of_others():
    clock = Clock()
    estimate = Estimate({0: FROZEN, 1: TRAINED}, clock=clock)
    estimate.begin(0)
    for seconds, event in counted("encoding", 60, 10, 0.001):
        clock.now += seconds
        estimate.tell(Event(event.stage, event.done, event.total, CACHED if event.done else ""))
    assert estimate.rates.seconds("encode", TRAINED) is None
    assert estimate.remaining() is None  # rather than a training at the speed of a cache


def test_hashing_clips_is_no_part_of_a_start():
    """Another cell does not hash them again."""
    clock = Clock()
    estimates = []
    for hashing in (0.0, 500.0):
        estimate = Estimate({0: FROZEN, 1: FROZEN}, clock=clock)
        estimate.begin(0)
        for seconds, event in cell(FROZEN):
            if event.stage == "encoding" and event.done == 0:
                for count in (0, 50, 100) if hashing else ():
                    clock.now += hashing / 3
                    estimate.tell(Event("hashing clips", count, 100))
            clock.now += seconds
            estimate.tell(event)
        estimate.end(finished=True)
        estimates.append(estimate.remaining())
    assert estimates[0] == pytest.approx(estimates[1])


def test_jobs_divide_the_seconds_of_all_cells_but_none_of_them():
    rates = Rates()
    rates.remember("encode", FROZEN, 1.0, 2)
    rates.remember("train", TRAINED, 5.0, 4)
    frozen, trained = 60 * 0.5, 400 * 1.25 + (6 * 30 + 60) * 0.5
    six = dict.fromkeys(range(6), FROZEN)
    assert Estimate(six, rates, jobs=2).remaining() == pytest.approx(3 * frozen)
    assert Estimate(six, rates, jobs=100).remaining() == pytest.approx(frozen)
    assert Estimate({**six, 6: TRAINED}, rates, jobs=2).remaining() == pytest.approx(trained)  # the others end before
    assert Estimate({**six, 6: TRAINED}, rates, jobs=1).remaining() == pytest.approx(6 * frozen + trained)


def test_cells_that_run_at_the_same_time_are_told_apart_and_train_once():
    rates = Rates()
    rates.remember("encode", FROZEN, 1.0, 2)
    rates.remember("train", TRAINED, 5.0, 4)
    estimate = Estimate({0: TRAINED, 1: TRAINED, 2: FROZEN}, rates, Clock(), jobs=3)
    trained = 400 * 1.25 + (6 * 30 + 60) * 0.5
    assert estimate.remaining() == pytest.approx(trained)
    for key in (0, 1, 2):
        estimate.begin(key)
    assert estimate.remaining() == pytest.approx(trained)  # the second waits for the training of the first
    estimate.tell(Event("training", 25, 40), 0)
    estimate.tell(Event("encoding", 0, 60), 2)
    longest = 15 * 10 * 1.25 + 2 * 30 * 0.5 + 60 * 0.5
    assert estimate.remaining() == pytest.approx(longest)
    estimate.end(0, finished=True)
    assert estimate.remaining() == pytest.approx(60 * 0.5)  # the two others, at the same time
    estimate.end(2, finished=True)
    estimate.end(1, finished=True)
    assert estimate.remaining() == 0


def test_a_simulated_run_of_two_jobs_is_foreseen():
    """Two pairs of equal trainings, each pair at the same time: the estimate is that of one of each pair."""
    works = [Work(**{**vars(TRAINED), "training": name}) for name in "tuvw"]
    length = 2 * sum(seconds for seconds, _ in cell(TRAINED))
    clock = Clock()
    estimate = Estimate(dict(enumerate(works)), clock=clock, jobs=2)
    told = []
    for pair in ((0, 1), (2, 3)):
        for key in pair:
            estimate.begin(key)
        for seconds, event in cell(TRAINED):
            clock.now += seconds
            for key in pair:
                estimate.tell(event, key)
            is_known = pair == (2, 3) or (event.stage == "training" and event.done > 8)
            if is_known and not event.stage.startswith("starting"):
                told.append(estimate.total())
        for key in pair:
            estimate.end(key, finished=True)
    assert len(told) > 100
    assert told == pytest.approx([length] * len(told), rel=0.02)
    assert clock.now - 1000 == pytest.approx(length)
