"""Scoring 10,000 episodes from a bank, batched, beside one episode at a time on 500 of them: compare seconds per episode.

`make benchmark` prints both in one table; `extra_info.episodes` divides each time.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import GivenFeatures

from fsar_bench.engine.scoring import score_plan
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
    "trx, pairs": lambda: metric("TRX", cardinalities=(2,)),
    "hyrsm": lambda: HyRSM(GivenFeatures(512), {"type": "BiMHM"}),
    "clip_fsar": lambda: CLIPFSAR(GivenFeatures(512), {"type": "OTAM", "smoothing": 0.5}, mode="ensemble"),
    "ma_clip": lambda: MACLIP(
        GivenFeatures(512), {"type": "OTAM"}, multimodal=False, temporal=False, joint=False, temperature=100.0
    ),
}


def first(plan, count: int):
    return replace(plan, classes=plan.classes[:count], support=plan.support[:count], query=plan.query[:count])


@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize(("how", "batch", "episodes"), [("batched", 250, 10_000), ("one by one", 1, 500)])
@pytest.mark.parametrize("name", METHODS)
def test_scoring(benchmark, bank, plan, class_text, name, how, batch, episodes):
    method = METHODS[name]().eval()
    part = first(plan, episodes)
    benchmark.extra_info["episodes"] = episodes
    scores = benchmark.pedantic(
        score_plan, (method, bank, part, class_text), {"batch": batch}, rounds=2, warmup_rounds=1
    )
    benchmark.extra_info["ms_per_episode"] = round(1000 * benchmark.stats["min"] / episodes, 4)
    other = score_plan(method, bank, first(plan, 100), class_text, batch=17)
    assert torch.allclose(torch.from_numpy(scores.total[:100]), torch.from_numpy(other.total), atol=1e-4)
