"""Tip-Adapter: its limits, and weights chosen on val."""

from __future__ import annotations

import pytest
import torch
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.methods.tip_adapter import ALPHAS, BETAS, TipAdapter
from fsar_bench.methods.zero_shot import ZeroShot


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double(), torch.randn(4, 16).double()


def make(**changes) -> TipAdapter:
    return TipAdapter(GivenFeatures(16), **changes).eval()


def by_hand(support, query, text, alpha: float, beta: float) -> torch.Tensor:
    """Scores `[Q, N]`, video by video."""

    def unit(x):
        return x / x.norm()

    def video(frames):
        return unit(torch.stack([unit(f) for f in frames]).mean(0))

    rows = []
    for q in query:
        v = video(q)
        row = []
        for shots, t in zip(support, text, strict=True):
            vote = sum(torch.exp(-beta * (1 - v @ video(shot))) for shot in shots)
            row.append(100 * v @ unit(t) + alpha * vote)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_scores_by_hand(case):
    for alpha, beta in ((1.0, 5.5), (3.0, 0.7)):
        ours = score_features(make(alpha=alpha, beta=beta), *case).total[0]
        assert torch.allclose(ours, by_hand(*case, alpha, beta))


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({}, False),
        ({"alpha": 0.0}, True),
        ({"beta": 0.0}, True),
        ({"alpha": 0.0, "weights": "val"}, False),  # val may choose another alpha
    ],
)
def test_supports_are_ignored_where_their_vote_tells_no_class(case, settings, ignored):
    support, query, text = case
    method = make(**settings)
    assert method.traits.ignores_supports is ignored
    first, other = (score_features(method, s, query, text).total for s in (support, support.flip(0)))
    assert torch.equal(first, other) is (0.0 in settings.values())


def test_limits(case):
    support, query, text = case
    zero = ZeroShot(GivenFeatures(16))
    only_text = score_features(zero, *case).total
    assert torch.allclose(score_features(make(alpha=0.0), *case).total, only_text)
    flat = score_features(make(alpha=2.0, beta=0.0), *case)
    assert torch.allclose(flat.total, only_text + 2.0 * support.shape[1])
    assert torch.equal(flat.total.argmax(-1), only_text.argmax(-1))
    same = support.clone()
    same[2, 1] = query[3]
    sharp = score_features(make(beta=1e8), same, query, text).parts["cache"][0]
    assert sharp[3].round(decimals=4).tolist() == [0, 0, 1, 0]
    assert sharp[:3].abs().max() == 0


def test_shots_are_summed_whatever_their_order(case):
    support, query, text = case
    plain = score_features(make(), *case)
    assert torch.allclose(score_features(make(), support[:, [2, 0, 1]], query, text).total, plain.total)
    twice = score_features(make(), support.repeat(1, 2, 1, 1), query, text)
    assert torch.allclose(twice.parts["cache"], 2 * plain.parts["cache"])


def test_fit_leaves_the_best_of_the_grid():
    method = make(weights="val")
    assert method.fits
    assert not make().fits
    chosen = method.fit(lambda: 50.0 - abs(method.alpha - 3.0) - abs(method.beta - 10.0))
    assert chosen == {"alpha": 3.0, "beta": 10.0}
    assert (method.alpha, method.beta) == (3.0, 10.0)
    assert method.fit(lambda: 1.0) == {"alpha": ALPHAS[0], "beta": BETAS[0]}


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.weights='test'"):
        make(weights="test")
    with pytest.raises(ConfigError, match=r"method\.beta=-1"):
        make(beta=-1.0)
