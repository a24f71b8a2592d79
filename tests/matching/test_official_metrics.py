"""OTAM and prototypes against the official code: logits, losses, gradients of both sides."""

from __future__ import annotations

import pytest
from golden_arrays import assert_close, assert_gradients_close, episode, golden, scores
from helpers import AsGiven

from fsar_bench.methods.metric import MetricMethod

METRICS = {  # official name: our matcher, and what its logits have more than ours
    "otam": ({"type": "OTAM", "smoothing": 0.1}, 0),
    "otam_hyrsm": ({"type": "OTAM", "smoothing": 0.1}, 0),
    "mean_cosine": ({"type": "MeanCosine"}, 1),  # the cosine, ours is minus the distance 1 - cosine
    "euclidean_prototype": ({"type": "EuclideanPrototype"}, 0),
}


@golden("metrics")
@pytest.mark.parametrize("name", METRICS)
def test_golden_logits_loss_and_gradients(arrays, name):
    config, more = METRICS[name]
    method = MetricMethod(AsGiven(arrays["query"].shape[-1]), config).eval()
    leaves = {side: arrays[side].requires_grad_() for side in ("support", "query")}
    episodes = episode(arrays)
    assert_close(scores(method, episodes).total[0] + more, arrays[f"{name}.logits"])
    loss = method.loss(episodes)["loss"]
    assert_close(loss, arrays[f"{name}.loss"])
    loss.backward()
    assert_gradients_close(
        {side: leaf.grad for side, leaf in leaves.items()}, {side: arrays[f"{name}.grad.{side}"] for side in leaves}
    )
