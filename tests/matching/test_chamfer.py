"""The Chamfer family against slow loops, identities and golden arrays."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ConfigError
from fsar_bench.matching import AllPairs, BiMHM, Chamfer, Diagonal, LinearPairs, NearestPair, TupleChamfer, chamfer
from fsar_bench.matching.chamfer import frame_tuples

DIRECTIONS = ("both", "query", "support")


def episode(*, K: int = 1, T: int = 8, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, T, width, generator=generator, dtype=torch.float64)
    return query, torch.randn(2, 4, K, T, width, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(T=st.integers(1, 9), S=st.integers(1, 9), seed=st.integers(0, 999))
def test_chamfer_agrees_with_the_slow_loop(T, S, seed):
    distance = np.random.RandomState(seed).rand(T, S)
    of_query = np.mean([min(row) for row in distance])
    of_support = np.mean([min(column) for column in distance.T])
    expected = {"query": of_query, "support": of_support, "both": (of_query + of_support) / 2}
    for direction in DIRECTIONS:
        assert chamfer(torch.from_numpy(distance), direction).item() == pytest.approx(expected[direction])


@pytest.mark.parametrize("T", [1, 5, 8])
def test_bi_mhm_is_a_multiple_of_chamfer(T):
    """2T (1 - similarity) with the plain cosine, at any number of shots where both average over them."""
    for K in (1, 3):
        pair = episode(K=K, T=T)
        assert torch.allclose(BiMHM()(*pair), 2 * T * Chamfer(epsilon=0.0)(*pair))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_joint_of_copies_is_one_shot_and_of_others_is_no_average(direction):
    query, support = episode(K=3)
    joint, averaged = Chamfer(direction=direction, joint=True), Chamfer(direction=direction)
    single = support[:, :, :1]
    assert torch.allclose(joint(query, single.expand(-1, -1, 3, -1, -1)), joint(query, single))
    assert torch.equal(joint(query, single), averaged(query, single))
    assert torch.allclose(
        averaged(query, support), sum(averaged(query, support[:, :, k : k + 1]) for k in range(3)) / 3
    )
    gap = (joint(query, support) - averaged(query, support)).abs()
    assert (gap.max() < 1e-12) == (direction == "support")  # one term per frame of a support, joined or not


def test_reductions_by_hand():
    """One query of frames e1, e2 and a class of frames e1, e1: cosines [[1, 1], [0, 0]]."""
    query = torch.eye(2, dtype=torch.float64)[None, None]
    support = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)[None, None, None]
    expected = {AllPairs: 1.0, NearestPair: 0.0, Diagonal: 0.5}
    for kind, value in expected.items():
        assert kind(epsilon=0.0)(query, support).item() == pytest.approx(value)
    values = {d: Chamfer(direction=d, epsilon=0.0)(query, support).item() for d in DIRECTIONS}
    assert values == {"query": 0.5, "support": 0.0, "both": 0.25}


def test_linear_starts_as_the_mean_and_can_be_the_diagonal():
    query, support = episode(K=2, T=5)
    linear = LinearPairs(6, frames=5, epsilon=0.01).double()
    assert torch.allclose(linear(query, support), AllPairs(epsilon=0.01)(query, support))
    linear.weight.data = torch.eye(5, dtype=torch.float64) / 5
    assert torch.allclose(linear(query, support), Diagonal(epsilon=0.01)(query, support))
    assert sum(p.numel() for p in LinearPairs(6, frames=8).parameters()) == 64


def test_linear_resizes_its_grid_and_keeps_the_sum():
    linear = LinearPairs(6, frames=8)
    linear.weight.data = torch.rand(8, 8)
    blocks = linear.weight.unflatten(0, (4, 2)).unflatten(2, (4, 2)).sum((1, 3))
    assert torch.allclose(linear.grid((4, 4)), blocks)
    assert torch.allclose(linear.grid((16, 16)).sum(), linear.weight.sum())
    assert linear.grid((8, 8)) is linear.weight


def test_tuples_are_all_ordered_ones():
    frames = torch.randn(2, 5, 3)
    expected = torch.stack([frames[:, list(c)].flatten(1) for c in combinations(range(5), 3)], 1)
    assert torch.equal(frame_tuples(frames, 3), expected)
    with pytest.raises(ConfigError, match="tuples=6 makes tuples of 6 frames, but a video has 5"):
        frame_tuples(frames, 6)


@torch.no_grad()
def test_tuple_chamfer_is_chamfer_of_projected_tuples():
    query, support = episode(K=2, T=5)
    torch.manual_seed(1)
    matcher = TupleChamfer(6, tuples=3, out=7, temperature=10.0).double()
    matcher.weight.data.fill_(0.5)
    projected = [matcher.project(frame_tuples(x, 3)) for x in (query, support)]
    assert torch.allclose(matcher(query, support), 10 * 0.5 * Chamfer(joint=True)(*projected))
    assert matcher.order_sensitive
    assert not TupleChamfer(6, tuples=1).order_sensitive
    parameters = sum(p.numel() for p in TupleChamfer(512).parameters())
    assert parameters == 3 * 512 * 1152 + 1152 + 2 * 1152 + 1


@torch.no_grad()
@golden("matching_functions")
def test_golden_matching_functions(arrays):
    support, query = arrays["support"], arrays["query"]
    N, K, T, C = support.shape
    cosine = arrays["similarity"]
    linear = LinearPairs(C, frames=T)
    linear.weight.data = arrays["linear.weight"].view(T, T)
    matchers = {
        "chamfer_query": Chamfer(direction="query"),
        "chamfer_support": Chamfer(direction="support"),
        "diagonal": Diagonal(epsilon=0.01),
        "max": NearestPair(epsilon=0.01),
        "mean": AllPairs(epsilon=0.01),
        "linear": linear,
    }
    equal = {"mean": T, "linear": float(arrays["linear.weight"].sum())}  # similarity of equal frames, 1 otherwise
    for name, matcher in matchers.items():
        shots, top = support.reshape(1, N * K, 1, T, C), equal.get(name, 1)
        means = arrays[name].unflatten(1, (N, K)).mean(-1)
        near = {"relative": 1e-5, "terms": abs(top)}
        assert_close(top - matcher(query[None], shots)[0], arrays[name], **near)
        assert_close(top - matcher(query[None], support[None])[0], means, **near)
        assert_close(top - matcher.cost(1 - cosine[:, :, None]), arrays[name], **near)
    both = (arrays["chamfer_query"] + arrays["chamfer_support"]) / 2
    assert_close(1 - Chamfer()(query[None], support.reshape(1, N * K, 1, T, C))[0], both, relative=1e-5)
    assert_close(1 - Chamfer(joint=True)(query[None], support[None])[0], arrays["joint_chamfer"], relative=1e-5)


@golden("simple_baselines")
def test_golden_nbnn(arrays):
    ours = 1 - Chamfer(direction="query", joint=True, epsilon=0.0)(arrays["query"][None], arrays["support"][None])[0]
    assert_close(ours, arrays["nbnn"], relative=1e-5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"matcher\.direction='up'"):
        Chamfer(direction="up")
    with pytest.raises(ConfigError, match=r"matcher\.tuples=0"):
        TupleChamfer(6, tuples=0)
    with pytest.raises(ConfigError, match=r"matcher\.frames=0"):
        LinearPairs(6, frames=0)
