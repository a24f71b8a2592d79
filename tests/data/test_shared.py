"""Frames in memory that the decode processes share with their owner; training episodes that are read ahead."""

from __future__ import annotations

import gc
import json
import os
from itertools import pairwise
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from fsar_bench.data import decode
from fsar_bench.data.dataset import BUILTIN, Clip
from fsar_bench.data.decode import DecodePool, ReadPlan, Request, read_clip
from fsar_bench.data.readers import VideoReader
from fsar_bench.data.shared import HAS_ANONYMOUS_FILES, SharedFrames
from fsar_bench.registry import DATASETS

PLAN = ReadPlan("pyav", resize=60, crop=60, frames=8)
needs_anonymous_files = pytest.mark.skipif(not HAS_ANONYMOUS_FILES, reason="this system has no anonymous files")


def shipped(count: int) -> list[Clip]:
    folder = BUILTIN / "synthact"
    rows = json.loads((folder / "annotation.json").read_text())["clips"][:count]
    return [Clip(r["id"], r["class"], folder / r["path"], r["sha256"]) for r in rows]


@needs_anonymous_files
def test_arrays_of_any_size_are_handed_over_and_the_memory_is_used_again():
    ours, theirs = Pipe()
    owner = SharedFrames.make()
    owner.give(ours, os.getpid())
    worker = SharedFrames.receive(theirs)
    small, large = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.random.default_rng(0).random((50, 70, 3))
    taken = []
    for array in (small, large, small.transpose(2, 0, 1)):
        taken.append(owner.take(worker.put(array)))
    for array, expected in zip(taken, (small, large, small.transpose(2, 0, 1)), strict=True):
        assert np.array_equal(array, expected)
        assert array.dtype == expected.dtype
    assert worker.put([1, 2]) is worker.put(np.array(["text"])) is worker.put(np.empty((0, 4), np.uint8)) is None


@pytest.mark.parametrize("has_anonymous_files", [False, pytest.param(True, marks=needs_anonymous_files)])
def test_frames_are_those_of_this_process(monkeypatch, has_anonymous_files):
    """Also on a system where they are pickled."""
    monkeypatch.setattr(decode, "HAS_ANONYMOUS_FILES", has_anonymous_files)
    pool = DecodePool(PLAN, workers=2, seconds=60)
    clips = shipped(6)
    frames = [future.result().frames for future in pool.map([Request(clip) for clip in clips])]
    expected = [read_clip(VideoReader(), PLAN, str(clip.path), None).frames for clip in clips]
    assert all(np.array_equal(a, b) for a, b in zip(frames, expected, strict=True))
    pool.close()


@needs_anonymous_files
def test_nothing_is_left_of_pools_that_are_closed_dropped_or_killed():
    def descriptors() -> list[str]:
        links = (
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if Path(f"/proc/self/fd/{n}").exists()
        )
        return [link for link in links if "fsar-bench" in link]

    before, in_shm = descriptors(), set(os.listdir("/dev/shm"))
    for end in (DecodePool.close, lambda pool: None, lambda pool: pool._workers[0].process.kill()):
        pool = DecodePool(PLAN, workers=1, seconds=60)
        (future,) = pool.map([Request(shipped(1)[0])])
        assert future.result().frames.shape == (8, 60, 60, 3)
        assert len(descriptors()) > len(before)
        end(pool)
        threads = pool._threads
        del pool
        for thread in threads:
            thread.join(10)
        del thread, threads, future
        gc.collect()
        assert descriptors() == before
    assert set(os.listdir("/dev/shm")) <= in_shm


@pytest.fixture
def episodes(tiny):
    from fsar_bench.config.resolve import resolve

    (cell,) = resolve([f"dataset={tiny}", "methods=otam", "backbone=tiny_clip", "controls=false"]).cells

    def make(prefetch: int, sampling: str = "segments"):
        return DATASETS.build(
            {
                "type": "TrainEpisodes", "dataset": cell.dataset.model_dump(), "template": "{}", "way": 3, "shot": 2,
                "query": 2, "episodes": 6, "seed": 0, "prefetch": prefetch,
                "frames": {
                    "reader": "pyav", "resize": 32, "crop": 32, "frames": 4, "workers": 1, "seconds": 60, "sampling": sampling
                },
            }
        )  # fmt: skip

    return make


def test_episodes_do_not_depend_on_how_many_are_read_ahead(episodes):
    plain, deep, none = episodes(1), episodes(3), episodes(0)
    for number in (0, 1, 2, 4, 5):  # a resumed training jumps
        expected = plain[number]
        for other in (deep[number], none[number]):
            assert (other.support == expected.support).all()
            assert (other.query == expected.query).all()
        assert sorted(deep._ahead) == list(range(number + 1, min(number + 4, 6)))
        assert not none._ahead


@pytest.mark.parametrize("sampling", ["segments", "whole_segments", "stride", "jittered_ends", "ends"])
def test_no_two_places_of_a_training_share_frames(episodes, sampling):
    """The clips of an episode differ, and the seed of each place in each episode is its own: nothing is encoded twice."""
    made = episodes(0, sampling)
    requests = [made._begin(number)[0] for number in range(6)]
    for one in requests:
        assert len({request.clip.id for request in one}) == len(one) == 12
    seeds = [request.seed for one in requests for request in one]
    assert len(set(seeds)) == len(seeds) == 72
    assert all(seed[1] <= following[1] for seed, following in pairwise(seeds))
