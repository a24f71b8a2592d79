"""STRM: kernel of the second head, its two forms, patches, enrichment that starts closed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import GivenFeatures, score_features
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.engine.checkpoint import load_best, save_best
from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.strm import STRM, nearest_tuple_distance

MATCHER = {"type": "TRX", "cardinalities": (2,), "out": 12}


def make(**changes) -> STRM:
    torch.manual_seed(0)
    return STRM(GivenFeatures(16), MATCHER, **{"frames": 4, **changes}).double().eval()


def maps(*leading: int, side: int = 5) -> torch.Tensor:
    return torch.randn(*leading, 4, 16, side, side, generator=torch.Generator().manual_seed(1)).double()


@settings(max_examples=25, deadline=None)
@given(M=st.integers(1, 16), L=st.integers(1, 30), seed=st.integers(0, 999))
def test_nearest_tuple_agrees_with_the_slow_loop(M, L, seed):
    rng = np.random.RandomState(seed)
    query, support = rng.randn(2, 3, M, 5), rng.randn(2, 4, L, 5)
    ours = nearest_tuple_distance(torch.from_numpy(query), torch.from_numpy(support)).numpy()
    for e in range(2):
        for q in range(3):
            for n in range(4):
                nearest = [min(np.linalg.norm(x - y) for y in support[e, n]) for x in query[e, q]]
                assert ours[e, q, n] == pytest.approx(np.mean(nearest), rel=1e-6, abs=1e-6)


@torch.no_grad()
def test_projection_is_a_linear_layer_over_pairs():
    projection = make().projection
    frames = torch.randn(3, 4, 16).double()
    rows = [torch.cat([frames[:, i], frames[:, j]], -1) for i, j in combinations(range(4), 2)]
    expected = torch.relu(torch.stack(rows, 1) @ projection.weight.T + projection.bias)
    assert torch.allclose(projection(frames), expected)


@torch.no_grad()
def test_second_head_weighs_a_tenth():
    scores = score_features(make(), maps(3, 2), maps(2), name="maps")
    assert torch.allclose(scores.total, scores.parts["frame"] + 0.1 * scores.parts["patch"])
    assert (scores.parts["frame"] <= 0).all()
    assert (scores.parts["patch"] <= 0).all()


@torch.no_grad()
def test_fixed_head_is_not_trained_but_saved_and_silent_at_test(tmp_path):
    trained, fixed = make(), make(second_head="fixed")
    assert "projection.weight" in dict(trained.named_parameters())
    assert "projection.weight" in dict(fixed.named_buffers())
    save_best(tmp_path / "best.safetensors", fixed)
    torch.manual_seed(9)
    again = STRM(GivenFeatures(16), MATCHER, second_head="fixed", frames=4).double().eval()
    assert not torch.equal(again.projection.weight, fixed.projection.weight)
    load_best(tmp_path / "best.safetensors", again)
    assert torch.equal(again.projection.weight, fixed.projection.weight)
    twice = [score_features(fixed, maps(3, 2), maps(2), name="maps").total for _ in range(2)]
    assert torch.equal(*twice)
    fixed.train()
    twice = [score_features(fixed, maps(3, 2), maps(2), name="maps").total for _ in range(2)]
    assert not torch.equal(*twice)


@torch.no_grad()
def test_gate_starts_closed():
    enrichment = make().patches
    patches = torch.randn(2, 16, 16).double()
    x = enrichment.positions(patches)
    assert torch.equal(enrichment(patches), x + enrichment.bottleneck(x))
    enrichment.gate += 1
    assert not torch.allclose(enrichment(patches), x + enrichment.bottleneck(x))


@torch.no_grad()
@pytest.mark.parametrize("side", [3, 4, 5, 7, 14])
def test_maps_of_any_size_become_sixteen_patches(side):
    features = make().encode(VideoFeatures(maps=maps(2, side=side)), None)
    assert features.patch.shape == features.frame.shape == (2, 4, 16)


def test_unknown_head_is_refused():
    with pytest.raises(ConfigError, match="second_head='random'"):
        make(second_head="random")
