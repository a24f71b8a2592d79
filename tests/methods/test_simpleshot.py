"""SimpleShot: its three transforms, and statistics that come from the train split alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.simpleshot import SimpleShot


def make(centering: str, train_mean: torch.Tensor | None = None, width: int = 16) -> SimpleShot:
    method = SimpleShot(GivenFeatures(width), centering=centering).eval()
    if train_mean is not None:
        method.learn_from_bank(VideoFeatures(video=train_mean[None]), torch.zeros(1, dtype=torch.long))
    return method


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double()


@golden("simple_baselines")
def test_golden_simpleshot(arrays):
    for centering in ("un", "l2n", "cl2n"):
        method = make(centering, arrays["train_mean"], arrays["train_mean"].shape[0])
        ours = score_features(method, arrays["support"], arrays["query"]).total[0]
        assert_close(ours, arrays[f"simpleshot_{centering}"], relative=1e-5)


def test_l2n_of_one_shot_ranks_as_the_cosine(case):
    support, query = case[0][:, :1], case[1]
    total = score_features(make("l2n"), support, query).total[0]
    cosine = F.normalize(query.mean(1), dim=-1) @ F.normalize(support[:, 0].mean(1), dim=-1).T
    assert torch.allclose(total, 2 * cosine - 2)


def test_cl2n_moves_with_the_features_and_un_with_scale(case):
    support, query = case
    shift = torch.randn(16, dtype=torch.float64)
    moved = score_features(make("cl2n", shift), support + shift, query + shift).total
    assert torch.allclose(moved, score_features(make("l2n"), support, query).total)
    assert torch.allclose(score_features(make("l2n"), 3 * support, 3 * query).total, moved)
    un = score_features(make("un"), support, query).total
    assert torch.allclose(score_features(make("un"), 3 * support, 3 * query).total, 9 * un)


def test_mean_is_that_of_the_clips(case):
    method = make("cl2n")
    features = method.encode(VideoFeatures(frames=case[1]), None)
    method.learn_from_bank(features, torch.arange(6))
    assert torch.allclose(method.train_mean, case[1].mean((0, 1)))
    assert method.reads_train_bank
    assert "train_mean" in method.state_dict()


def test_scoring_without_the_mean_is_refused_and_others_need_none(case):
    with pytest.raises(ConfigError, match="mean of the train split, which was not learned"):
        score_features(make("cl2n"), *case)
    for centering in ("un", "l2n"):
        assert not make(centering).reads_train_bank
        assert score_features(make(centering), *case).total.shape == (1, 6, 4)


def test_unknown_transform_is_refused():
    with pytest.raises(ConfigError, match=r"method\.centering='zca'"):
        make("zca")
