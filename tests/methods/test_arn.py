"""ARN: golden attention, matrices and relations; batch norm in both modes; chunks; its size."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden, under
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.arn import ARN, Relation, SpatialAttention, second_order


def make(width: int = 5, **changes) -> ARN:
    torch.manual_seed(0)
    return ARN(GivenFeatures(width), **changes).double().eval()


def maps(*leading: int, width: int = 5, time: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(*leading, time, width, 3, 2, generator=torch.Generator().manual_seed(seed)).double()


def from_golden(arrays) -> ARN:
    method = ARN(GivenFeatures(64), frames=arrays["query_maps"].shape[2]).eval()
    attention = {f"shrink.{i}": f"sd1.{i}" for i in (0, 1, 4, 5)} | {"out": "sd1.8"}
    relation = {f"layers.{i}.{j}": f"layer{i + 1}.{j}" for i in range(4) for j in (0, 1)}
    relation |= {"head.0": "fc1", "head.2": "fc2"}
    for module, names, prefix in (
        (method.attention, attention, "spatial."),
        (method.relation, relation, "relation."),
    ):
        state = {
            f"{ours}.{kind}": array
            for ours, theirs in names.items()
            for kind, array in under(arrays, f"{prefix}{theirs}.").items()
        }
        module.load_state_dict({**module.state_dict(), **state})
    with torch.no_grad():  # the maps are of 64 channels already
        method.reduce.weight.copy_(torch.eye(64)[..., None, None])
        method.reduce.bias.zero_()
    return method


@golden("arn")
@torch.no_grad()
def test_golden_attention_matrices_and_relations(arrays):
    method, queries = from_golden(arrays), arrays["query_maps"]
    N = arrays["relation"].shape[1]
    assert_close(method.attention(queries), arrays["attention_query"], relative=1e-5)
    assert_close(method.pool(queries)[:, None], arrays["second_order_query"], relative=1e-5)
    support, query = (x.transpose(1, 2) for x in (arrays["support_maps"], queries))
    scores = score_features(method, support.unflatten(0, (N, -1)), query, name="maps")
    assert_close(scores.parts["relation"][0], arrays["relation"], relative=1e-5)


def test_second_order_statistics_by_hand():
    x = torch.randn(3, 2, 1, 2, generator=torch.Generator().manual_seed(0)).double()  # three channels at four places
    R = sum(torch.outer(x[:, t, 0, w], x[:, t, 0, w]) for t in range(2) for w in range(2)) / 4
    expected = torch.tanh(50 * R / R.trace())  # 2 sigmoid(z) - 1 = tanh(z / 2)
    assert torch.allclose(second_order(x[None])[0], expected)
    assert torch.allclose(second_order(7 * x[None])[0], expected)
    assert not second_order(torch.zeros(1, 3, 2, 1, 2)).any()


@pytest.mark.parametrize("time", [4, 7, 8, 16])
@torch.no_grad()
def test_attention_is_one_map_for_any_time(time):
    attention = SpatialAttention(0.1).eval()
    weights = attention(torch.randn(2, 64, time, 3, 2))
    assert weights.shape == (2, 1, 1, 3, 2)
    assert ((weights > 0) & (weights < 1)).all()


@torch.no_grad()
def test_evaluation_scores_pairs_independently_and_in_chunks(monkeypatch):
    method = make()
    support, query = maps(3, 2), maps(4, seed=1)
    total = score_features(method, support, query, name="maps").total
    alone = [score_features(method, support, query[i : i + 1], name="maps").total for i in range(4)]
    assert torch.allclose(torch.cat(alone, 1), total)
    monkeypatch.setattr("fsar_bench.methods.arn.CHUNK", 5)
    assert torch.allclose(score_features(method, support, query, name="maps").total, total)


@torch.no_grad()
def test_batch_norm_follows_the_episode_in_training_alone():
    method, features = make(momentum=1.0), VideoFeatures(maps=maps(6))
    statistics = method.attention.shrink[1].running_mean
    method.encode(features, None)
    assert not statistics.any()
    method.train().encode(features, None)
    reduced = method.reduce(features.maps.flatten(0, 1)).unflatten(0, (6, 4)).transpose(1, 2)
    assert torch.allclose(
        statistics, method.attention.shrink[0](reduced).mean((0, 2, 3, 4))
    )  # momentum 1: this call alone


@torch.no_grad()
def test_reversed_frames_change_the_scores():
    method, support, query = make(), maps(3, 2), maps(4, seed=1)
    backward = score_features(method, support, query.flip(1), name="maps").total
    assert not torch.allclose(score_features(method, support, query, name="maps").total, backward, rtol=1e-6)


def test_number_of_parameters():
    counts = [sum(p.numel() for p in module(0.1).parameters()) for module in (SpatialAttention, Relation)]
    assert counts == [34_673, 120_721]


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.0), ("momentum", 2.0), ("frames", 3)])
def test_settings_outside_their_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        make(**{name: value})
