"""ATA: golden arrays of the official code (both paths, losses), the prior, independence and its absence."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.ata import ATA, appearance, diagonal_prior, similarity, temporal, training_terms


def make(width: int, frames: int = 8, **settings) -> ATA:
    return ATA(GivenFeatures(width), tune="none", frames=frames, **settings).eval()


def golden_case(arrays: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Supports `[N, K, T, C]` and queries `[Q, T, C]`."""
    return arrays["support"].transpose(0, 1), arrays["query"].flatten(0, 1)


@golden("ata")
def test_golden_similarities_before_any_step(arrays):
    support, query = golden_case(arrays)
    T, C = query.shape[1:]
    method = make(C, T)
    assert_close(method.prior, arrays["prior"], relative=1e-6)
    s, q = (method.encode(VideoFeatures(frames=x.flatten(0, -3)), None).frames for x in (support, query))
    D = similarity(q[None], s.unflatten(0, support.shape[:2]).mean(1)[None], torch.tensor([10.0]))[0]
    assert_close(D, arrays["similarity_0"], relative=1e-5)
    assert_close(D.softmax(-2), arrays["attention_0"], relative=1e-5)
    assert_close(5 * appearance(D), arrays["appearance_0"], relative=1e-5)
    assert_close(5 * temporal(D, method.prior), arrays["temporal_0"], relative=1e-5)


@torch.no_grad()
@golden("ata")
def test_golden_scores(arrays):
    support, query = golden_case(arrays)
    T, C = query.shape[1:]
    for key in (key for key in arrays if key.startswith("score_inductive_")):
        total = score_features(make(C, T, steps=int(key.split("_")[-1])), support, query).total[0]
        assert_close(total, arrays[key])
    for key in (key for key in arrays if key.startswith("appearance_transductive_")):
        steps = int(key.split("_")[-1])
        total = score_features(make(C, T, steps=steps, transductive=True), support, query).total[0]
        assert_close(total, arrays[key])
        assert_close(total.softmax(-1), arrays[f"score_transductive_{steps}"])


@golden("ata")
def test_golden_training_loss(arrays):
    D, labels = arrays["train_D"], arrays["train_labels"]
    terms = training_terms(D, labels, diagonal_prior(D.shape[1]).float())
    means = {name: term.mean() for name, term in terms.items()}
    assert_close(means["class"], arrays["train_ce"], relative=1e-5)
    assert_close(means["frame_entropy"], arrays["train_conditional_entropy"], relative=1e-5)
    assert_close(means["mean_entropy"], arrays["train_entropy"], relative=1e-5)
    assert_close(means["temporal"], arrays["train_temporal"], relative=1e-5)
    method = make(4, D.shape[1])
    assert_close(method.loss_of(terms).mean() - method.temporal_weight * means["temporal"], arrays["train_loss"])
