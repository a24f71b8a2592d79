"""kNN of frames: votes, and ties that the similarity decides without overruling a vote."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.methods.frame_knn import FrameKNN


def make(k: int = 1, width: int = 16) -> FrameKNN:
    return FrameKNN(GivenFeatures(width), k=k).eval()


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 16).double(), torch.randn(6, 8, 16).double()


@golden("simple_baselines")
def test_golden_frame_knn(arrays):
    support, query = arrays["support"], arrays["query"]
    names = [name for name in arrays if name.startswith("knn_frames_")]
    assert names
    for name in names:
        parts = score_features(make(int(name.removeprefix("knn_frames_")), support.shape[-1]), support, query).parts
        assert_close(parts["votes"][0], arrays[name], relative=1e-5)
        assert_close(parts["similarity"][0], arrays["nbnn"], relative=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_similarity_decides_ties_and_no_more(case, k):
    scores = score_features(make(k), *case)
    votes, similarity, total = scores.parts["votes"][0], scores.parts["similarity"][0], scores.total[0]
    assert torch.allclose(votes.sum(-1), torch.ones(6, dtype=torch.float64))
    tied = 0
    for q in range(6):
        for a in range(4):
            for b in range(4):
                if votes[q, a] > votes[q, b] + 1e-9:
                    assert total[q, a] > total[q, b]
                elif a != b and abs(votes[q, a] - votes[q, b]) < 1e-9:
                    tied += 1
                    assert (total[q, a] > total[q, b]) == (similarity[q, a] > similarity[q, b])
    assert tied


def test_all_support_frames_vote_where_k_is_large(case):
    scores = score_features(make(1000), *case)
    assert torch.allclose(scores.parts["votes"], torch.full((1, 6, 4), 0.25, dtype=torch.float64))


def test_k_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"method\.k=0"):
        make(0)
