"""ATA: golden arrays of the official code (both paths, losses), the prior, independence and its absence."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.matching.frame_prototypes import appearance, diagonal_prior, similarity, temporal, training_terms
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.ata import ATA


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
    assert_close(5 * temporal(D, method.prior), arrays["temporal_0"], relative=1e-5, terms=10)


@torch.no_grad()
@golden("ata")
def test_golden_scores(arrays):
    support, query = golden_case(arrays)
    T, C = query.shape[1:]
    for key in (key for key in arrays if key.startswith("score_inductive_")):
        method = make(C, T, steps=int(key.split("_")[-1]))
        total = score_features(method, support, query).total[0]
        exact = score_features(method.double(), support.double(), query.double()).total[0]
        # Adam divides by the size of the gradient, which is small at one shot: what rounding alone changes grows with the steps.
        rounding = float((total - exact).abs().max() / exact.abs().max())
        assert rounding < 1e-3
        assert_close(total, arrays[key], relative=max(1e-4, 3 * rounding))
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
    assert_close(means["temporal"], arrays["train_temporal"], relative=1e-5, terms=2)
    method = make(4, D.shape[1])
    total = method.loss_of(terms).mean() - method.temporal_weight * means["temporal"]
    assert_close(total, arrays["train_loss"], relative=1e-5, terms=float(arrays["train_ce"]))


def test_prior():
    prior = diagonal_prior(8)
    assert torch.allclose(prior.sum(1), torch.ones(8).double())
    first = [0.440053, 0.342714, 0.161886, 0.046381, 0.008060, 0.000850, 0.000054, 0.000002]
    assert prior[0].tolist() == pytest.approx(first, abs=1e-6)
    assert prior[4, 6] / prior[4, 4] == pytest.approx(torch.e**-1)
    wide = diagonal_prior(16, sigma=2.0)  # sigma counts in shares of a clip: 8 times the spread of 8 frames
    assert wide[0, 8] / wide[0, 0] == pytest.approx(torch.e**-1)


def by_hand(x: torch.Tensor, w: torch.Tensor, g: float) -> tuple[float, float]:
    """Appearance and temporal similarity of a clip and a class, frame by frame."""
    T, P = len(x), diagonal_prior(len(x))
    a = b = 0.0
    for t in range(T):
        d = torch.stack([g * x[t] @ w[s] for s in range(T)])
        A = d.exp() / d.exp().sum()
        a += float(d.exp().sum().log()) / T
        b -= float(sum(A[s] * (A[s] / P[t, s] + 1e-12).log() for s in range(T))) / T
    return 5 * a, 5 * (2 + b)


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double()


def test_without_steps_scores_are_by_hand_and_need_no_gradient(case):
    support, query = case
    with torch.inference_mode():  # allows no gradient at all
        parts = score_features(make(16, steps=0).double(), support, query).parts
    unit = torch.nn.functional.normalize
    for q in (0, 5):
        for n in (0, 3):
            a, b = by_hand(unit(query[q], dim=-1), unit(support[n], dim=-1).mean(0), 10.0)
            assert parts["appearance"][0, q, n] == pytest.approx(a, rel=1e-6)
            assert parts["temporal"][0, q, n] == pytest.approx(b, rel=1e-6)
            assert b <= 10


@torch.no_grad()
def test_steps_lower_the_loss_of_the_supports_and_keep_episodes_apart(case):
    support = torch.nn.functional.normalize(torch.stack([case[0], 2 * case[0].flip(0, 2) + 0.1]), dim=-1)
    labels = torch.arange(4).repeat_interleave(3)
    losses = []
    for steps in (1, 5, 20):
        method = make(16, steps=steps).double()
        w, g = method.descend(support.mean(2), support, torch.full((2,), 10.0).double())
        alone = [method.descend(s.mean(2), s, torch.full((1,), 10.0).double()) for s in support.split(1)]
        assert torch.equal(w, torch.cat([a[0] for a in alone]))
        assert torch.equal(g, torch.cat([a[1] for a in alone]))
        terms = training_terms(similarity(support.flatten(1, 2), w, g), labels.expand(2, -1), method.prior)
        losses.append(method.loss_of(terms).mean(1))
    assert (losses[0] > losses[1]).all()
    assert (losses[1] > losses[2]).all()


@torch.no_grad()
def test_queries_are_independent_unless_transductive(case):
    support, query = case
    more = torch.cat([query, query[:2]])
    for transductive in (False, True):
        method = make(16, steps=10, transductive=transductive).double()
        together, longer = (score_features(method, support, q).total for q in (query, more))
        assert torch.allclose(together, longer[:, :6]) is not transductive
        permuted = score_features(method, support.flip(0), query).total
        assert torch.allclose(permuted.flip(-1), together)


@torch.no_grad()
def test_a_class_without_queries_keeps_its_supports(case):
    support, query = (torch.nn.functional.normalize(x, dim=-1)[None] for x in case)
    method = make(16, steps=3, transductive=True).double()
    prototypes = support.mean(2)
    method.shares = lambda parts: torch.tensor([1.0, 0.5, 0.0, 1e-320]).double().expand(parts["temporal"].shape)
    refined = method.refine(prototypes, query, torch.full((1,), 10.0).double())
    mean = query.mean(1, keepdim=True)
    for n, expected in ((0, prototypes[:, 0] + mean[:, 0]), (1, prototypes[:, 1] + mean[:, 0]), (2, prototypes[:, 2])):
        assert torch.allclose(refined[:, n], torch.nn.functional.normalize(expected, dim=-1))
    assert torch.isfinite(refined).all()


@torch.no_grad()
def test_only_the_temporal_part_sees_the_order_of_a_class(case):
    support, query = case
    method = make(16, steps=0).double()
    parts, shuffled = (score_features(method, s, query).parts for s in (support, support.flip(2)))
    assert torch.allclose(parts["appearance"], shuffled["appearance"])
    assert not torch.allclose(parts["temporal"], shuffled["temporal"])


def test_a_frozen_backbone_leaves_nothing_to_train():
    tuned, frozen = ATA(GivenFeatures(16), frames=4), make(16)
    assert tuned.traits.trainable
    assert not frozen.traits.trainable
    for method in (tuned, frozen):
        method.prepare(torch.zeros(7, 0))
    assert tuned.classifier.weight.shape == (4 * 7, 16)
    assert frozen.parameter_counts() == {"trainable": 0, "total": 0}


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.steps=-1 must be 0 or more"):
        make(16, steps=-1)
