"""OTAM against closed forms, a slow loop and golden arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.matching import OTAM, frame_distance, otam


def slow_otam(distance: np.ndarray, smoothing: float) -> float:
    """The recurrence of the docstring of `otam`, cell by cell, in float64."""
    T, S = distance.shape

    def smin(*values: float) -> float:
        low = min(values)
        return low - smoothing * math.log(sum(math.exp((low - v) / smoothing) for v in values))

    d = np.pad(distance, ((0, 0), (1, 1)))
    G = np.zeros((T, S + 2))
    for m in range(1, S + 2):
        G[0, m] = d[0, m] + G[0, m - 1]
    for row in range(1, T):
        G[row, 1] = d[row, 1] + smin(G[row - 1, 0], G[row - 1, 1], G[row, 0])
        for m in range(2, S + 1):
            G[row, m] = d[row, m] + smin(G[row - 1, m - 1], G[row, m - 1])
        G[row, S + 1] = smin(G[row - 1, S], G[row - 1, S + 1], G[row, S])
    return G[T - 1, S + 1]


def cost(distance, smoothing: float, dtype=torch.float64) -> float:
    return otam(torch.as_tensor(np.asarray(distance), dtype=dtype), smoothing).item()


@settings(max_examples=80, deadline=None)
@given(
    T=st.integers(1, 16),
    S=st.integers(1, 16),
    seed=st.integers(0, 10_000),
    smoothing=st.sampled_from([0.05, 0.1, 0.5, 2.0]),
)
def test_agrees_with_the_slow_loop(T, S, seed, smoothing):
    distance = np.random.RandomState(seed).rand(T, S) * 2
    assert cost(distance, smoothing) == pytest.approx(slow_otam(distance, smoothing), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("T", [2, 4, 8, 12])
def test_zeros_count_the_paths(T, smoothing):
    paths = T * (T + 1) * 2 ** (T - 2)
    assert cost(np.zeros((T, T)), smoothing) == pytest.approx(-smoothing * math.log(paths), abs=1e-9)


eye = np.eye(8)
CASES = [
    (1 - eye, -0.000023, -0.373293),
    (1 - eye / 1.01, 0.079183, -0.301435),
    (np.ones((8, 8)), 7.250832, 4.203567),
    (1 - eye[::-1], 6.286745, 3.353996),
    ([[0.1, 0.7], [0.9, 0.2]], 0.2985830632, -0.1175079742),
    (np.array([[0.1, 0.7], [0.9, 0.2]]).T, 0.2992336291, -0.1255409137),
    (np.random.RandomState(0).rand(8, 8), 1.5711722501, -0.8114080190),
    (np.random.RandomState(0).rand(8, 8).T, 2.2174186539, -0.0009616934),
    ([[0.37]], 0.37, 0.37),
]


@pytest.mark.parametrize(("distance", "tight", "loose"), CASES)
def test_known_values(distance, tight, loose):
    assert cost(distance, 0.1) == pytest.approx(tight, abs=1e-6)
    assert cost(distance, 0.5) == pytest.approx(loose, abs=1e-6)


@pytest.mark.parametrize(("value", "T", "expected"), [(1.6, 8, 12.050835), (1.0, 16, 14.620155)])
def test_finite_where_plain_exponentials_overflow(value, T, expected):
    assert cost(np.full((T, T), value), 0.1, torch.float32) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), T=st.integers(2, 8))
def test_properties(seed, T):
    rng = np.random.RandomState(seed)
    distance = rng.rand(T, T)
    raised = distance.copy()
    raised[rng.randint(T), rng.randint(T)] += 0.3
    assert cost(raised, 0.1) >= cost(distance, 0.1) - 1e-12
    assert cost(3 * distance, 0.1) == pytest.approx(3 * cost(distance, 0.1 / 3), rel=1e-9)
    hard, paths = cost(distance, 1e-4), T * (T + 1) * 2 ** (T - 2)
    assert hard + 1e-2 >= cost(distance, 0.1) >= hard - 0.1 * math.log(paths) - 1e-2


@pytest.mark.parametrize("bidirectional", [True, False])
def test_matcher_adds_the_reverse_direction_if_bidirectional(bidirectional):
    """Against the slow loop; only the sum of both directions treats query and support alike."""
    torch.manual_seed(1)
    query, support = torch.randn(6, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    x, y = query / query.norm(dim=1, keepdim=True), support / support.norm(dim=1, keepdim=True)
    distance = (1 - x @ y.T).numpy()
    matcher = OTAM(smoothing=0.3, bidirectional=bidirectional, epsilon=0.0)

    def between(a, b):
        return matcher(a[None, None], b[None, None, None]).item()

    reverse = slow_otam(distance.T, 0.3) if bidirectional else 0.0
    assert between(query, support) == pytest.approx(slow_otam(distance, 0.3) + reverse, rel=1e-9)
    assert (between(query, support) == pytest.approx(between(support, query), rel=1e-9)) == bidirectional


@pytest.mark.parametrize("kind", ["5way1shot", "5way5shot"])
@pytest.mark.parametrize(("name", "smoothing"), [("l01", 0.1), ("l05", 0.5)])
def test_golden(golden, kind, name, smoothing):
    arrays = golden[kind]
    distance = torch.from_numpy(arrays["frame_dists"])
    assert np.allclose(otam(distance, smoothing), arrays[f"otam_{name}_q2s"], rtol=1e-4, atol=1e-5)
    assert np.allclose(otam(distance.transpose(-1, -2), smoothing), arrays[f"otam_{name}_s2q"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["5way1shot", "5way5shot"])
def test_golden_frame_distances(golden, kind):
    arrays = golden[kind]
    support, query = torch.from_numpy(arrays["support"]), torch.from_numpy(arrays["query"])
    ours = frame_distance(query[None], support[None, :, None], epsilon=0.01)[0, :, :, 0]
    assert np.allclose(ours, arrays["frame_dists"], rtol=1e-4, atol=1e-6)


def test_matcher_averages_shots_and_sees_order():
    torch.manual_seed(0)
    query, support = torch.randn(2, 3, 8, 6), torch.randn(2, 4, 2, 8, 6)
    matcher = OTAM()
    single = [matcher(query, support[:, :, k : k + 1]) for k in range(2)]
    assert torch.allclose(matcher(query, support), (single[0] + single[1]) / 2, atol=1e-6)
    assert not torch.allclose(matcher(query.flip(2), support), matcher(query, support), atol=1e-3)


def test_gradients_are_finite():
    distance = torch.rand(5, 8, 8, requires_grad=True)
    otam(distance * 3, 0.05).sum().backward()
    assert torch.isfinite(distance.grad).all()
    assert (distance.grad >= 0).all()
