"""Linear probe: golden arrays of scikit-learn, the conditions of the minimum, and what duplicates and limits do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods import linear_probe
from fsar_bench.methods.linear_probe import LinearProbe, fit_logistic


def make(width: int = 16, **changes) -> LinearProbe:
    return LinearProbe(GivenFeatures(width), **changes).eval()


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double()


@golden("simple_baselines")
def test_golden_logistic(arrays):
    support, query = arrays["support"], arrays["query"]
    N, K, _, C = support.shape
    names = [name for name in arrays if name.startswith("logistic_C") and name[-1].isdigit()]
    assert names
    for name in names:
        method = make(C, loss_weight=float(name.removeprefix("logistic_C")))
        assert_close(score_features(method, support, query).total[0], arrays[name], relative=1e-5)
        encoded = method.encode(VideoFeatures(frames=support.flatten(0, 1)), None).view(1, N, K)
        coef, intercept = method.fit_episodes(encoded)
        assert_close(coef[0], arrays[f"{name}_coef"], relative=1e-5)
        assert_close(intercept[0], arrays[f"{name}_intercept"], relative=1e-5)


@pytest.mark.parametrize(("M", "D"), [(12, 30), (12, 5), (6, 6)])
@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e3])
def test_gradient_of_the_plain_objective_vanishes(M, D, weight):
    """Where there are more or fewer points than dimensions; checked by autograd on W and b themselves."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3, M, D, dtype=torch.float64, generator=generator)
    labels = torch.arange(M) % 3
    W, b = (x.requires_grad_(True) for x in fit_logistic(points, labels, 3, weight))
    logits = points @ W.transpose(1, 2) + b[:, None]
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(3), reduction="sum")
    (weight * losses + W.square().sum() / 2).backward()
    for gradient in (W.grad, b.grad):
        assert gradient.abs().max() <= 1e-8 * max(1, weight)
    assert b.sum(-1).abs().max() < 1e-9


@pytest.mark.parametrize("on", ["videos", "frames"])
def test_duplicated_supports_double_the_weight_of_the_losses(case, on):
    support, query = case
    twice = score_features(make(on=on), support.repeat(1, 2, 1, 1), query).total
    double = score_features(make(on=on, loss_weight=2.0), support, query).total
    assert torch.allclose(twice, double, atol=1e-8)
    assert not torch.allclose(twice, score_features(make(on=on), support, query).total, atol=1e-3)


def test_no_weight_is_uniform_and_labels_permute(case):
    support, query = case
    flat = score_features(make(loss_weight=1e-9), support, query).total
    assert flat.abs().max() < 1e-7
    order = [2, 0, 3, 1]
    total = score_features(make(), support, query).total
    assert torch.allclose(score_features(make(), support[order], query).total, total[..., order], atol=1e-9)


def test_small_weight_on_one_shot_compares_with_centred_prototypes(case):
    """Total / weight tends to (x_n - m) . (q - m), with m the mean of the supports, as the bias is free."""
    support, query = case[0][:, :1], case[1]
    total = score_features(make(loss_weight=1e-6), support, query).total[0]
    x, y = F.normalize(query.mean(1), dim=-1), F.normalize(support[:, 0].mean(1), dim=-1)
    assert torch.allclose(total / 1e-6, (x - y.mean(0)) @ (y - y.mean(0)).T, atol=1e-4)


def test_frames_average_their_logits(case):
    support, query = case
    method = make(on="frames")
    total = score_features(method, support, query).total[0]
    single = [score_features(method, support, query[:, t : t + 1]).total[0] for t in range(8)]
    assert torch.allclose(total, torch.stack(single).mean(0), atol=1e-9)
    assert not torch.allclose(total, score_features(make(), support, query).total[0], atol=1e-2)


def test_chunks_of_episodes_change_nothing(case, monkeypatch):
    support = VideoFeatures(points=torch.randn(5, 4, 3, 2, 16).double())
    whole = make().fit_episodes(support)
    monkeypatch.setattr(linear_probe, "CHUNK", 1)
    for ours, theirs in zip(make().fit_episodes(support), whole, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.on='clips'"):
        make(on="clips")
    with pytest.raises(ConfigError, match=r"method\.loss_weight=0 must be above 0"):
        make(loss_weight=0.0)


def test_sets_that_are_solved_early_stay_beside_others():
    """A set of equal points is solved at once: no step of its neighbours may move it, and all meet the optimality condition."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-9, 0, 60, dtype=torch.float64)[:, None, None]
    points = F.normalize(
        torch.ones(60, 40, 16) + spread * torch.randn(60, 40, 16, generator=generator), dim=-1
    ).double()
    labels = torch.arange(5).repeat_interleave(8)
    W, b = fit_logistic(points, labels, 5, 10.0)
    p = (points @ W.transpose(1, 2) + b[:, None]).softmax(-1)
    off = 10 * (p - F.one_hot(labels, 5)).transpose(1, 2)
    assert float((off @ points + W).abs().max()) < 1e-8
    assert float(off.sum(-1).abs().max()) < 1e-8
