"""Matching network over frames."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.matching import MatchingNetwork


def slow_probability(query: np.ndarray, support: np.ndarray, temperature: float) -> np.ndarray:
    """P `[Q, N]` of queries `[Q, T, C]` and classes `[N, K, S, C]`: one softmax for each query frame."""
    N = len(support)
    frames, owner = [], []
    for n, shots in enumerate(support):
        for shot in shots:
            frames += list(shot)
            owner += [n] * len(shot)
    out = np.zeros((len(query), N))
    for q, video in enumerate(query):
        for x in video:
            cosine = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 0.01) for y in frames]
            weight = np.exp(temperature * np.array(cosine))
            for n, w in zip(owner, weight / weight.sum(), strict=True):
                out[q, n] += w / len(video)
    return out


@settings(max_examples=30, deadline=None)
@given(
    T=st.integers(1, 16),
    S=st.integers(1, 16),
    K=st.integers(1, 3),
    tau=st.sampled_from([1.0, 20.0]),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_slow_loop_and_sums_to_one(T, S, K, tau, seed):
    rng = np.random.RandomState(seed)
    query, support = rng.randn(2, T, 5), rng.randn(4, K, S, 5)
    matcher = MatchingNetwork(temperature=tau)
    p = (-matcher(torch.from_numpy(query)[None], torch.from_numpy(support)[None])[0]).exp()
    assert np.allclose(p, slow_probability(query, support, tau), rtol=1e-9)
    assert torch.allclose(p.sum(-1), torch.ones(2, dtype=p.dtype))


def test_duplicated_shots_and_shuffled_frames_change_nothing():
    torch.manual_seed(0)
    query, support = torch.randn(2, 3, 8, 6).double(), torch.randn(2, 4, 2, 8, 6).double()
    matcher = MatchingNetwork()
    plain = matcher(query, support)
    assert torch.allclose(matcher(query, support.repeat(1, 1, 3, 1, 1)), plain)
    assert torch.allclose(matcher(query[:, :, torch.randperm(8)], support[:, :, :, torch.randperm(8)]), plain)


def test_sharp_attention_is_a_vote_of_nearest_frames():
    eye = torch.eye(6)
    support = torch.stack([eye[:3], eye[3:]])[None, :, None]  # two classes, one shot, three orthogonal frames each
    query = torch.stack([eye[0], eye[1], eye[4], eye[2]])[None, None]  # three of four frames are of the first class
    p = (-MatchingNetwork(temperature=1000.0)(query, support)).exp()
    assert torch.allclose(p, torch.tensor([[[0.75, 0.25]]]), atol=1e-6)
