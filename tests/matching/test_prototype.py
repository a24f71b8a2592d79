"""Cosine prototypes and Bi-MHM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ConfigError
from fsar_bench.matching import BiMHM, CosinePrototype, bi_mhm, build_matcher, otam


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


@pytest.mark.parametrize("matcher", [CosinePrototype(), BiMHM()])
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
    for matcher in (CosinePrototype(), BiMHM(), build_matcher({"type": "OTAM"})):
        assert torch.allclose(matcher(query, support.expand(-1, -1, 3, -1, -1)), matcher(query, support), atol=1e-4)


def test_unknown_matcher_lists_close_names():
    with pytest.raises(ConfigError, match="Did you mean 'OTAM'"):
        build_matcher({"type": "OTAMM"})
    with pytest.raises(ConfigError, match="smothing"):
        build_matcher({"type": "OTAM", "smothing": 0.1})
