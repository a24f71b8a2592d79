"""Scoring 10,000 episodes from a bank, batched, beside one episode at a time on 200 of them: compare ms per episode.

"one by one" takes the same way with batches of one; "naive" gives `score` what `encode` returns, as training does: nothing is
computed once a video (TRX then makes every tuple). `make benchmark` prints all in one table.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import GivenFeatures

from fsar_bench.engine.scoring import PlanScores, score_plan
from fsar_bench.methods.clip_fsar import CLIPFSAR
from fsar_bench.methods.hyrsm import HyRSM
from fsar_bench.methods.ma_clip import MACLIP
from fsar_bench.methods.metric import MetricMethod


def metric(kind: str, **settings) -> MetricMethod:
    tune = "visual" if kind == "TRX" else "none"
    return MetricMethod(GivenFeatures(512), {"type": kind, **settings}, tune=tune)


METHODS = {
    "prototype": lambda: metric("CosinePrototype"),
    "matching_net": lambda: metric("MatchingNetwork"),
    "otam": lambda: metric("OTAM"),
    "bi_mhm": lambda: metric("BiMHM"),
    "trx": lambda: metric("TRX"),
    "trx, pairs": lambda: metric("TRX", cardinalities=(2,)),
    "hyrsm": lambda: HyRSM(GivenFeatures(512), {"type": "BiMHM"}),
    "clip_fsar": lambda: CLIPFSAR(GivenFeatures(512), {"type": "OTAM", "smoothing": 0.5}, mode="ensemble"),
    "ma_clip": lambda: MACLIP(
        GivenFeatures(512), {"type": "OTAM"}, multimodal=False, temporal=False, joint=False, temperature=100.0
    ),
}


def first(plan, count: int):
    return replace(plan, classes=plan.classes[:count], support=plan.support[:count], query=plan.query[:count])


def naive(method, bank, plan, class_text) -> PlanScores:
    """One episode at a time, as in training."""
    totals = []
    for episode in range(len(plan)):
        text = class_text[torch.from_numpy(plan.classes[episode : episode + 1].astype(int))]
        support, query = bank.episodes(plan, slice(episode, episode + 1))
        totals.append(method.score(support, query, text).total.detach())
    return PlanScores(torch.cat(totals).numpy(), {}, 0.0)


WAYS = {
    "batched": (partial(score_plan, batch=250), 10_000),
    "one by one": (partial(score_plan, batch=1), 200),
    "naive": (naive, 200),
}


@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_scoring(benchmark, bank, plan, class_text, name, how):
    method, (score, episodes) = METHODS[name]().eval(), WAYS[how]
    part = first(plan, episodes)
    score(method, bank, first(plan, 20), class_text)
    scores = benchmark.pedantic(score, (method, bank, part, class_text))
    benchmark.extra_info["ms_per_episode"] = round(1000 * benchmark.stats["min"] / episodes, 4)
    other = score_plan(method, bank, first(plan, 100), class_text, batch=17)
    assert torch.allclose(torch.from_numpy(scores.total[:100]), torch.from_numpy(other.total), atol=1e-4)
