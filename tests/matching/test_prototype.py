"""Prototypes and Bi-MHM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ConfigError
from fsar_bench.matching import BiMHM, CosinePrototype, EuclideanPrototype, MeanCosine, bi_mhm, build_matcher, otam


@settings(max_examples=40, deadline=None)
@given(T=st.integers(1, 16), S=st.integers(1, 16), seed=st.integers(0, 10_000))
def test_bi_mhm_agrees_with_the_slow_loop(T, S, seed):
    distance = np.random.RandomState(seed).rand(T, S)
    slow = sum(min(distance[t]) for t in range(T)) + sum(min(distance[:, s]) for s in range(S))
    assert bi_mhm(torch.from_numpy(distance)).item() == pytest.approx(slow)


@pytest.mark.parametrize("kind", ["5way1shot", "5way5shot"])
def test_bi_mhm_golden(golden, kind):
    arrays = golden[kind]
    assert np.allclose(bi_mhm(torch.from_numpy(arrays["frame_dists"])), arrays["bimhm"], rtol=1e-4)


def test_bi_mhm_bounds_hard_otam_from_below():
    distance = torch.rand(20, 8, 8, dtype=torch.float64)
    hard = otam(distance, 1e-4) + otam(distance.transpose(1, 2), 1e-4)
    assert (bi_mhm(distance) <= hard + 1e-2).all()
    assert bi_mhm(torch.ones(8, 8)).item() == 16


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), T=st.integers(1, 10), S=st.integers(1, 10))
def test_bi_mhm_properties(seed, T, S):
    rng = np.random.RandomState(seed)
    distance = torch.from_numpy(rng.rand(T, S))
    assert bi_mhm(distance) >= 0
    assert torch.isclose(bi_mhm(distance), bi_mhm(distance.T))
    shuffled = distance[rng.permutation(T)][:, rng.permutation(S)]
    assert torch.isclose(bi_mhm(shuffled), bi_mhm(distance))


def test_bi_mhm_of_identical_orthonormal_sequences_is_zero():
    frames = torch.eye(8)[None, None]
    assert torch.allclose(BiMHM()(frames, frames[:, :, None]), torch.zeros(1, 1, 1))
    assert torch.allclose(BiMHM(epsilon=0.01)(frames, frames[:, :, None]), torch.full((1, 1, 1), 16 * (1 - 1 / 1.01)))


@pytest.mark.parametrize("matcher", [CosinePrototype(), EuclideanPrototype(), MeanCosine(), BiMHM()])
def test_blind_to_the_order_of_frames(matcher):
    torch.manual_seed(1)
    query, support = torch.randn(2, 3, 8, 6), torch.randn(2, 4, 2, 8, 6)
    shuffled = matcher(query[:, :, torch.randperm(8)], support[:, :, :, torch.randperm(8)])
    assert torch.allclose(shuffled, matcher(query, support), atol=1e-4)


def test_prototype_by_hand():
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None]  # one query of two frames
    support = torch.tensor([[[[3.0, 0.0], [3.0, 0.0]]], [[[0.0, 1.0], [1.0, 0.0]]]])[None]  # two classes, one shot
    distance = CosinePrototype(temperature=1.0)(query, support)
    assert torch.allclose(distance, torch.tensor([[[0.0, 1 - 0.5**0.5]]]), atol=1e-6)


def test_shot_duplication_changes_nothing():
    torch.manual_seed(2)
    query, support = torch.randn(1, 3, 8, 6), torch.randn(1, 4, 1, 8, 6)
    for matcher in (CosinePrototype(), EuclideanPrototype(), MeanCosine(), BiMHM(), build_matcher({"type": "OTAM"}, 6)):
        assert torch.allclose(matcher(query, support.expand(-1, -1, 3, -1, -1)), matcher(query, support), atol=1e-4)


def test_unknown_matcher_lists_close_names():
    with pytest.raises(ConfigError, match="Did you mean 'OTAM'"):
        build_matcher({"type": "OTAMM"}, 6)
    with pytest.raises(ConfigError, match="smothing"):
        build_matcher({"type": "OTAM", "smothing": 0.1}, 6)


def slow_prototypes(query: np.ndarray, support: np.ndarray) -> dict[type, np.ndarray]:
    """Distances `[Q, N]` of queries `[Q, T, C]` to classes `[N, K, S, C]`, one by one."""
    out = {kind: np.zeros((len(query), len(support))) for kind in (CosinePrototype, MeanCosine, EuclideanPrototype)}

    def unit(x):
        return x / np.linalg.norm(x)

    for i, video in enumerate(query):
        for n, shots in enumerate(support):
            x = unit(np.mean([unit(frame) for frame in video], 0))
            y = unit(np.mean([unit(frame) for shot in shots for frame in shot], 0))
            out[CosinePrototype][i, n] = 100 * (1 - x @ y)
            mean = video.mean(0)
            out[EuclideanPrototype][i, n] = ((mean - np.mean([shot.mean(0) for shot in shots], 0)) ** 2).sum()
            cosines = [
                mean @ shot.mean(0) / (np.linalg.norm(mean) * np.linalg.norm(shot.mean(0)) + 0.01) for shot in shots
            ]
            out[MeanCosine][i, n] = 1 - np.mean(cosines)
    return out


@settings(max_examples=30, deadline=None)
@given(T=st.integers(1, 16), S=st.integers(1, 16), K=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_prototypes_agree_with_the_slow_loop(T, S, K, seed):
    rng = np.random.RandomState(seed)
    query, support = rng.randn(3, T, 5), rng.randn(4, K, S, 5)
    for kind, expected in slow_prototypes(query, support).items():
        ours = kind()(torch.from_numpy(query)[None], torch.from_numpy(support)[None])[0]
        assert np.allclose(ours, expected, rtol=1e-9), kind


def test_euclidean_is_unmoved_by_translation_and_rotation_and_mean_cosine_by_scale():
    torch.manual_seed(3)
    query, support = torch.randn(1, 3, 8, 6).double(), torch.randn(1, 4, 3, 8, 6).double()
    rotation, _ = torch.linalg.qr(torch.randn(6, 6).double())
    shift = torch.randn(6).double()
    euclid, cosine = EuclideanPrototype(), MeanCosine(epsilon=0.0)
    assert torch.allclose(euclid(query @ rotation + shift, support @ rotation + shift), euclid(query, support))
    assert torch.allclose(cosine(3 * query, 0.2 * support), cosine(query, support))
    assert not torch.allclose(cosine(query, support), euclid(query, support))
    assert not torch.allclose(cosine(query, support), cosine(query, support.mean(2, keepdim=True)))


def test_soft_cosine_loss_has_the_known_floor():
    """Five ways, the right class at cosine 1 and the others at -1: cross-entropy ln(1 + 4 e^-2)."""
    x = torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2)
    support = torch.cat([x, -x, -x, -x, -x], 1)[:, :, None]
    logits = -MeanCosine(epsilon=0.0)(x, support)[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(np.log(1 + 4 * np.exp(-2)), abs=1e-6)
