"""Gathering episodes from a bank in memory, and from one in a mapped file that the system still has in its cache.

`python -m pytest tests/benchmarks/test_mapped_bank.py --benchmark-only -n 0`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fsar_bench.engine.bank import CHUNK, FeatureBank
from fsar_bench.engine.memory import Room, Shelf
from fsar_bench.method import VideoFeatures

KINDS = {"16 kB a clip, 250 episodes": ((8, 512), 250), "256 kB a clip, 25 episodes": ((8, 16, 512), 25)}
HOW = {"in memory": None, "mapped": 0}  # bytes that there is room for


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=HOW)
def bank_somewhere(request, kind, plan, tmp_path_factory) -> FeatureBank:
    clips = plan.used_clips
    generator = torch.Generator().manual_seed(0)
    shelf = Shelf(len(clips), Room(HOW[request.param], tmp_path_factory.mktemp("bank")))
    for start in range(0, len(clips), CHUNK):
        count = len(clips[start : start + CHUNK])
        shelf.put(VideoFeatures(frames=torch.randn(count, *KINDS[kind][0], generator=generator)), count)
    features = shelf.features()
    row = np.full(clips.max() + 1, -1)
    row[clips] = np.arange(len(clips))
    return FeatureBank(row, features, features, 0.0, is_mapped=shelf.is_mapped)


def test_gathers(benchmark, bank_somewhere, plan, kind):
    benchmark.group = f"gathers, {kind}"
    episodes = KINDS[kind][1]
    first = replace(plan, classes=plan.classes[:1000], support=plan.support[:1000], query=plan.query[:1000])
    starts = iter(range(0, 10**9, episodes))

    def gather() -> VideoFeatures:
        start = next(starts) % len(first)
        return bank_somewhere.episodes(first, slice(start, start + episodes))[1]

    assert benchmark.pedantic(gather, rounds=20, warmup_rounds=4).leading(1) == (episodes,)
