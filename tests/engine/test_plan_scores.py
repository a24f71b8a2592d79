"""Scoring a plan: what is refused, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsar_bench.engine import scoring
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.scoring import score_plan
from fsar_bench.errors import ProtocolError
from fsar_bench.method import Scores, VideoFeatures
from fsar_bench.methods.zero_shot import ZeroShot
from fsar_bench.plan import ClipList, EpisodePlan


@pytest.fixture
def setting():
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(3)])
    plan = EpisodePlan.sample(clips, way=5, shot=1, query=1, episodes=20, seed=0, purpose="test")
    features = VideoFeatures(frames=torch.randn(15, 8, 4))
    return FeatureBank(np.arange(15), features, features, 0.0), plan, torch.randn(5, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda total: total * float("nan"), "not numbers"), (lambda total: total[..., :3], r"shape \(7, 5, 3\), not")],
)
def test_scores_that_are_no_scores_are_refused(setting, spoil, message):
    class Spoilt(ZeroShot):
        def score(self, support, query, class_text):
            return Scores(spoil(super().score(support, query, class_text).total))

    bank, plan, text = setting
    with pytest.raises(ProtocolError, match=message):
        score_plan(Spoilt(torch.nn.Identity()), bank, plan, text, batch=7)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_scores_do_not_depend_on_the_batch(setting, batch):
    bank, plan, text = setting
    method = ZeroShot(torch.nn.Identity())
    whole = score_plan(method, bank, plan, text, batch=20)
    assert np.allclose(score_plan(method, bank, plan, text, batch=batch).total, whole.total, atol=1e-4)


def test_large_features_are_gathered_for_fewer_episodes(setting, monkeypatch):
    """An episode has 10 videos of 8 x 4 floats: 1,280 bytes."""
    bank, plan, text = setting
    sizes = []

    class Counting(ZeroShot):
        def score(self, support, query, class_text):
            sizes.append(len(class_text))
            return super().score(support, query, class_text)

    assert bank.episode_bytes(plan) == 1280
    method = Counting(torch.nn.Identity())
    for most, expected in ((1 << 20, [20]), (10_000, [7, 7, 6]), (1, [1] * 20)):
        monkeypatch.setattr(scoring, "GATHERED", most)
        sizes.clear()
        score_plan(method, bank, plan, text, batch=250)
        assert sizes == expected
