"""STRM: kernel of the second head, its two forms, patches, enrichment that starts closed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, assert_gradients_close, episode, golden, scores, under
from helpers import AsGiven, GivenFeatures, score_features
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


OFFICIAL = {  # our layers: the official ones
    "matcher.transformers.0.key": "transformers.0.k_linear",
    "matcher.transformers.0.value": "transformers.0.v_linear",
    "matcher.transformers.0.norm": "transformers.0.norm_k",
    "patches.query": "attn_pat.query_proj",
    "patches.key": "attn_pat.key_proj",
    "patches.value": "attn_pat.value_conv",
    "patches.bottleneck.0": "attn_pat.Bot_MLP.inp_fc",
    "patches.bottleneck.2": "attn_pat.Bot_MLP.hid_fc",
    "patches.bottleneck.4": "attn_pat.Bot_MLP.out_fc",
    "frames.tokens.0": "fr_enrich.Tok_MLP.inp_fc",
    "frames.tokens.2": "fr_enrich.Tok_MLP.out_fc",
    "frames.channels.0": "fr_enrich.Bot_MLP.inp_fc",
    "frames.channels.2": "fr_enrich.Bot_MLP.out_fc",
    "projection": "second_head.clsW",
}


def official_name(name: str) -> str:
    """The official name of one of our parameters."""
    layer, _, kind = name.rpartition(".")
    return "attn_pat.gamma" if name == "patches.gate" else f"{OFFICIAL[layer]}.{kind}"


@golden("strm")
def test_golden_logits_losses_and_gradients(arrays):
    T, D = arrays["query"].shape[1:3]
    out = len(arrays["transformers.0.k_linear.bias"])
    matcher = {"type": "TRX", "cardinalities": (2,), "out": out, "position_scale": 0.1}
    method = STRM(AsGiven(D), matcher, frames=T).eval()
    method.load_state_dict({name: arrays[official_name(name)] for name in method.state_dict()})
    episodes = episode(arrays)
    ours = scores(method, episodes)
    for name, logits in {**ours.parts, "total": ours.total}.items():
        assert_close(logits[0], arrays[f"logits.{name}"])
    losses = method.loss(episodes)
    assert_close(losses["loss_frame"], arrays["loss_frame"])
    assert_close(losses["loss_patch"] / method.second_weight, arrays["loss_patch_unweighted"])
    (losses["loss_frame"] + losses["loss_patch"]).backward()
    gradients = {official_name(name): parameter.grad for name, parameter in method.named_parameters()}
    assert_gradients_close(gradients, under(arrays, "total.grad."))


def test_unknown_head_is_refused():
    with pytest.raises(ConfigError, match="second_head='random'"):
        make(second_head="random")
