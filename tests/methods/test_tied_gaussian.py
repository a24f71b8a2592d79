"""Tied Gaussian: golden arrays, both forms of the inverse, full shrinkage, the covariance of the train split."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.tied_gaussian import TiedGaussian, precision_times, shrunk


def make(width: int = 16, **changes) -> TiedGaussian:
    return TiedGaussian(GivenFeatures(width), **changes).eval()


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double()


def by_hand(support: torch.Tensor, query: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Scores `[Q, N]`, frame by frame, for a covariance that is shrunk already."""
    P = torch.linalg.inv(covariance)
    means = support.flatten(1, 2).mean(1)
    return torch.stack(
        [
            torch.stack([torch.stack([f @ P @ m - m @ P @ m / 2 for f in video]).mean() for m in means])
            for video in query
        ]
    )


@golden("simple_baselines")
def test_golden_tied_gaussian(arrays):
    support, query = arrays["support"], arrays["query"]
    names = [name for name in arrays if name.startswith("tied_gaussian_")]
    assert names
    for name in names:
        method = make(support.shape[-1], shrinkage=float(name.removeprefix("tied_gaussian_")))
        assert_close(score_features(method, support, query).total[0], arrays[name], relative=1e-5)


@pytest.mark.parametrize("C", [5, 20, 60])
@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
def test_both_forms_of_the_inverse_agree(C, shrinkage):
    generator = torch.Generator().manual_seed(C)
    means = torch.randn(2, 3, C, dtype=torch.float64, generator=generator)
    residuals = torch.randn(2, 20, C, dtype=torch.float64, generator=generator)
    covariance = residuals.transpose(1, 2) @ residuals / 20
    expected = means @ torch.linalg.inv(shrunk(covariance, shrinkage))
    assert torch.allclose(precision_times(means, residuals, shrinkage), expected, rtol=1e-9)


def test_scores_by_hand(case):
    support, query = case
    frames = support.flatten(1, 2)
    residuals = (frames - frames.mean(1, keepdim=True)).flatten(0, 1)
    covariance = residuals.T @ residuals / len(residuals)
    expected = by_hand(support, query, 0.7 * covariance + 0.3 * covariance.trace() / 16 * torch.eye(16))
    assert torch.allclose(score_features(make(shrinkage=0.3), support, query).total[0], expected)


def test_full_shrinkage_ranks_as_the_nearest_mean(case):
    support, query = case
    total = score_features(make(shrinkage=1.0), support, query).total[0]
    distance = torch.cdist(query.mean(1), support.mean((1, 2)))
    assert torch.equal(total.argsort(-1, descending=True), distance.argsort(-1))
    order = score_features(make(shrinkage=0.05), support, query).total[0].argsort(-1, descending=True)
    assert not torch.equal(order, distance.argsort(-1))


def test_equal_frames_leave_the_nearest_mean(case):
    """One shot of a still clip has no variance at all."""
    support = case[0][:, :1, :1].expand(-1, -1, 8, -1)
    total = score_features(make(), support, case[1]).total[0]
    assert torch.isfinite(total).all()
    assert torch.equal(total.argmax(-1), torch.cdist(case[1].mean(1), support[:, 0, 0]).argmin(-1))


def test_train_covariance_is_within_classes_each_counting_alike(case):
    support, query = case
    clips = torch.randn(7, 8, 16).double() + torch.arange(7).view(7, 1, 1)
    classes = torch.tensor([0, 2, 2, 5, 5, 5, 0])  # some classes have no clip
    method = make(covariance="train", shrinkage=0.4)
    method.learn_from_bank(VideoFeatures(frames=clips), classes)
    each = []
    for c in (0, 2, 5):
        frames = clips[classes == c].flatten(0, 1)
        each.append(torch.cov(frames.T, correction=0))
    covariance = torch.stack(each).mean(0)
    covariance = 0.6 * covariance + 0.4 * covariance.trace() / 16 * torch.eye(16)
    assert torch.allclose(score_features(method, support, query).total[0], by_hand(support, query, covariance))
    assert method.reads_train_bank
    assert not make().reads_train_bank


def test_scoring_without_the_covariance_is_refused(case):
    with pytest.raises(ConfigError, match="covariance of the train split, which was not learned"):
        score_features(make(covariance="train"), *case)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.shrinkage=0"):
        make(shrinkage=0.0)
    with pytest.raises(ConfigError, match=r"method\.covariance='val'"):
        make(covariance="val")
