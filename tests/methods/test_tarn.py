"""TARN: golden scores of the three comparisons, attention, supports one by one, its size."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden, under
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.methods.tarn import TARN

C, HIDDEN = 6, 4


def make(**changes) -> TARN:
    torch.manual_seed(0)
    return TARN(GivenFeatures(C), **{"hidden": HIDDEN, **changes}).double().eval()


def frames(*leading: int, seed: int = 0, time: int = 5) -> torch.Tensor:
    return torch.randn(*leading, time, C, generator=torch.Generator().manual_seed(seed)).double()


def from_golden(arrays, kind: str, compare: str) -> tuple[TARN, torch.Tensor]:
    """The method with golden weights, and the bias of the last layer, which we leave out."""
    weights = under(arrays, f"{kind}.w.")
    hidden = weights["dml_fc.weight"].shape[1]
    method = TARN(
        GivenFeatures(arrays["query"].shape[-1]), hidden=hidden, compare=compare, attention_over="query"
    ).eval()
    method.gru.load_state_dict(under(weights, "feats_gru."))
    method.pairs.load_state_dict(
        {
            "align.weight": weights["W.weight"],
            "align.bias": weights["bias"],
            "head.weight": weights["dml_fc.weight"],
            **{f"gru.{name}": array for name, array in under(weights, "dml_gru.").items()},
        }
    )
    return method, weights["dml_fc.bias"]


@golden("tarn")
@pytest.mark.parametrize(("kind", "compare"), [("EucCos", "cos_euclid"), ("Mult", "product"), ("Subt", "difference")])
@torch.no_grad()
def test_golden_scores_of_pairs(arrays, kind, compare):
    method, bias = from_golden(arrays, kind, compare)
    logits = [
        score_features(method, support[None, None], query[None]).total.flatten()
        for support, query in zip(arrays["support"], arrays["query"], strict=True)
    ]
    assert_close((torch.cat(logits) + bias).sigmoid(), arrays[f"{kind}.score"], relative=1e-5)


@torch.no_grad()
def test_attention_over_support_time_averages_the_support():
    pairs = make().pairs
    query, constant = torch.randn(1, 3, 2 * HIDDEN).double(), torch.randn(1, 1, 2 * HIDDEN).double()
    retimed = pairs.retime(query, constant.expand(-1, 5, -1))
    assert torch.allclose(retimed, constant.expand(-1, 3, -1))
    pairs.align.weight.zero_()
    support = torch.randn(1, 5, 2 * HIDDEN).double()
    assert torch.allclose(pairs.retime(query, support), support.mean(1, keepdim=True).expand(-1, 3, -1))


@torch.no_grad()
def test_attention_over_query_time_divides_every_support_step():
    pairs = make(attention_over="query").pairs
    pairs.align.weight.zero_()
    pairs.align.bias.zero_()
    support = torch.randn(1, 5, 2 * HIDDEN).double()
    retimed = pairs.retime(torch.randn(1, 3, 2 * HIDDEN).double(), support)
    assert torch.allclose(retimed, support.sum(1, keepdim=True).expand(-1, 3, -1) / 3)


@pytest.mark.parametrize("compare", ["cos_euclid", "product", "difference"])
@torch.no_grad()
def test_scores_are_means_over_pairs_scored_alone(compare, monkeypatch):
    method, support, query = make(compare=compare), frames(3, 2), frames(4, seed=1)
    total = score_features(method, support, query).total[0]
    for q in range(4):
        for n in range(3):
            alone = [score_features(method, shot[None, None], query[q : q + 1]).total.item() for shot in support[n]]
            assert total[q, n].item() == pytest.approx(sum(alone) / 2)
    monkeypatch.setattr("fsar_bench.methods.tarn.CHUNK", 1)
    assert torch.allclose(score_features(method, support, query).total[0], total)


@torch.no_grad()
def test_reversed_frames_change_the_scores():
    method, support, query = make(), frames(3, 2), frames(4, seed=1)
    backward = score_features(method, support, query.flip(1)).total
    assert not torch.allclose(score_features(method, support, query).total, backward, rtol=1e-3)


@pytest.mark.parametrize(("compare", "parameters"), [("cos_euclid", 1_644_800), ("product", 2_036_480)])
def test_number_of_parameters_at_512_channels(compare, parameters):
    with torch.device("meta"):
        method = TARN(GivenFeatures(512), compare=compare)
    assert method.parameter_counts()["trainable"] == parameters


@pytest.mark.parametrize("wrong", [{"compare": "euclid"}, {"attention_over": "time"}])
def test_unknown_words_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make(**wrong)
