"""DTW and soft-DTW against a slow loop, counted paths and golden arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ConfigError
from fsar_bench.matching import DTW, dtw, frame_distance, otam


def slow_dtw(distance: np.ndarray, smoothing: float) -> float:
    """Cell by cell."""
    cost = {(-1, -1): 0.0}
    for i, row in enumerate(distance):
        for j, value in enumerate(row):
            before = [cost[p] for p in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if p in cost]
            soft = smoothing and -smoothing * math.log(sum(math.exp(-x / smoothing) for x in before))
            cost[i, j] = value + (soft if smoothing else min(before))
    return cost[len(distance) - 1, len(distance[0]) - 1]


@settings(max_examples=25, deadline=None)
@given(T=st.integers(1, 9), S=st.integers(1, 9), smoothing=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 999))
def test_dtw_agrees_with_the_slow_loop(T, S, smoothing, seed):
    distance = np.random.RandomState(seed).rand(2, T, S)
    ours = dtw(torch.from_numpy(distance), smoothing)
    assert ours.tolist() == pytest.approx([slow_dtw(d, smoothing) for d in distance], rel=1e-9, abs=1e-9)


def delannoy(m: int, n: int) -> int:
    """Number of paths of steps (1, 0), (0, 1) and (1, 1)."""
    return sum(math.comb(m, k) * math.comb(n, k) * 2**k for k in range(min(m, n) + 1))


@pytest.mark.parametrize(("T", "S"), [(1, 1), (2, 2), (8, 8), (5, 8), (16, 16)])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_zeros_count_the_paths(T, S, smoothing):
    expected = -smoothing * math.log(delannoy(T - 1, S - 1))
    assert dtw(torch.zeros(T, S, dtype=torch.float64), smoothing).item() == pytest.approx(expected, abs=1e-9)


def test_eight_frames_have_48639_paths():
    assert delannoy(7, 7) == 48_639
    assert dtw(torch.zeros(8, 8), 0.1).item() == pytest.approx(-0.1 * math.log(48_639), abs=1e-5)
    assert dtw(torch.zeros(8, 8), 0.0).item() == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(2, 8))
def test_properties(seed, T):
    distance = torch.from_numpy(np.random.RandomState(seed).rand(T, T))
    raised = distance.clone()
    raised[seed % T, -1 - seed % T] += 0.3
    hard = dtw(distance, 0.0)
    for smoothing in (0.0, 0.1):
        assert dtw(raised, smoothing) >= dtw(distance, smoothing) - 1e-12
        assert torch.isclose(dtw(distance.T, smoothing), dtw(distance, smoothing))
    assert hard <= distance.diagonal().sum() + 1e-12
    assert hard - 0.1 * math.log(delannoy(T - 1, T - 1)) - 1e-9 <= dtw(distance, 0.1) <= hard
    assert torch.isclose(dtw(3 * distance, 0.3), 3 * dtw(distance, 0.1))


def test_ends_are_fixed_where_those_of_otam_are_free():
    """Costs in the first frame of the query at all but the last frame of the support: only OTAM begins behind them."""
    distance = torch.zeros(4, 4, dtype=torch.float64)
    distance[:, 0] = 1.0
    assert dtw(distance, 0.0).item() == 1.0
    distance = torch.zeros(4, 4, dtype=torch.float64)
    distance[0, 0] = distance[3, 3] = 5.0
    assert dtw(distance, 0.0).item() == 10.0
    assert otam(distance, 1e-4).item() == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_shares_of_paths(smoothing):
    distance = torch.rand(3, 6, 5, dtype=torch.float64, requires_grad=True)
    dtw(distance, smoothing).sum().backward()
    assert (distance.grad >= 0).all()
    assert torch.allclose(distance.grad[:, [0, -1], [0, -1]], torch.ones(3, 2, dtype=torch.float64))
    per_row = distance.grad.sum(-1)
    assert (per_row >= 1 - 1e-9).all()
    assert torch.isfinite(distance.grad).all()


def test_finite_for_tiny_smoothing_in_float32():
    distance = torch.full((16, 16), 1.6)
    assert dtw(distance, 1e-3).item() == pytest.approx(16 * 1.6, abs=1e-2)


@golden("simple_baselines")
def test_golden_dtw(arrays):
    support, query = arrays["support"], arrays["query"]
    distance = frame_distance(query[None], support[None], epsilon=0.0)
    assert_close(distance[0], arrays["frame_distance"], relative=1e-5)
    names = [name for name in arrays if name.startswith("dtw_gamma")]
    assert names
    for name in names:
        smoothing = float(name.removeprefix("dtw_gamma"))
        assert_close(dtw(distance, smoothing)[0], arrays[name], relative=1e-5)
        ours = DTW(smoothing=smoothing)(query[None], support[None])[0]
        assert_close(ours, arrays[name].mean(-1), relative=1e-5)


def test_negative_smoothing_is_refused():
    with pytest.raises(ConfigError, match="smoothing=-1 of DTW"):
        DTW(smoothing=-1.0)
