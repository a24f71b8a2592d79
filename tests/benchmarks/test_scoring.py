"""Scoring 10,000 episodes from a bank, batched, beside one episode at a time on 500 of them: compare seconds per episode.

`make benchmark` prints both in one table; `extra_info.episodes` divides each time.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fsar_bench.method import MetricMethod
from fsar_bench.methods.clip_fsar import CLIPFSAR
from fsar_bench.methods.ma_clip import MACLIP
from fsar_bench.scoring import score_plan


class Given(nn.Module):
    """A stand-in for a backbone: features are given, the tower is the smallest that MA-CLIP can adapt."""

    embedding_width, name, logit_scale = 512, "given", 100.0

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1, self.visual.transformer = nn.Conv2d(3, 8, 1), nn.Module()
        self.visual.transformer.resblocks = nn.ModuleList()

    def tune_visual(self) -> None:
        """Nothing to tune."""


METHODS = {
    "otam": lambda: MetricMethod(Given(), {"type": "OTAM"}),
    "clip_fsar": lambda: CLIPFSAR(Given(), {"type": "OTAM", "smoothing": 0.5}, mode="ensemble"),
    "ma_clip": lambda: MACLIP(Given(), {"type": "OTAM"}),
}


def first(plan, count: int):
    return replace(plan, classes=plan.classes[:count], support=plan.support[:count], query=plan.query[:count])


@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize(("how", "batch", "episodes"), [("batched", 250, 10_000), ("one by one", 1, 500)])
@pytest.mark.parametrize("name", METHODS)
def test_scoring(benchmark, bank, plan, class_text, name, how, batch, episodes):
    method = METHODS[name]()
    part = first(plan, episodes)
    benchmark.extra_info["episodes"] = episodes
    scores = benchmark.pedantic(
        score_plan, (method, bank, part, class_text), {"batch": batch}, rounds=2, warmup_rounds=1
    )
    benchmark.extra_info["ms_per_episode"] = round(1000 * benchmark.stats["min"] / episodes, 4)
    other = score_plan(method, bank, first(plan, 100), class_text, batch=17)
    assert torch.allclose(torch.from_numpy(scores.total[:100]), torch.from_numpy(other.total), atol=1e-4)
