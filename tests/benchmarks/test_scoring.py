"""Scoring 10,000 episodes from a bank, batched, beside one episode at a time on 200 of them: compare ms per episode.

"one by one" takes the same way with batches of one; "naive" gives `score` what `encode` returns, as training does: nothing is
computed once a video (TRX then makes every tuple). `make benchmark` measures the same heads against their floors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fsar_bench.engine.scoring import score_plan
from tools.performance.heads import HEADS, Scene, built, naive

WAYS = {
    "batched": (partial(score_plan, batch=250), 10_000),
    "one by one": (partial(score_plan, batch=1), 200),
    "naive": (None, 200),
}


@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", HEADS)
def test_scoring(benchmark, scene: Scene, name, how):
    method = built(name, scene.sizes, torch.device("cpu"))
    bank = scene.bank(method)
    score, episodes = WAYS[how]

    def run(count: int) -> np.ndarray:
        plan = scene.first(count)
        return score(method, bank, plan, scene.text).total if score else naive(method, bank, scene, plan)

    run(20)
    scores = benchmark.pedantic(run, (episodes,))
    benchmark.extra_info["ms_per_episode"] = round(1000 * benchmark.stats["min"] / episodes, 4)
    other = score_plan(method, bank, scene.first(100), scene.text, batch=17).total
    np.testing.assert_allclose(scores[:100], other, atol=1e-4)
