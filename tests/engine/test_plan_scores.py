"""Scoring a plan: what is refused, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import GivenFeatures

from fsar_bench.engine import scoring
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.scoring import score_plan
from fsar_bench.errors import ProtocolError
from fsar_bench.method import Scores, VideoFeatures
from fsar_bench.methods.clip_fsar import CLIPFSAR
from fsar_bench.methods.hyrsm import HyRSM
from fsar_bench.methods.metric import MetricMethod
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


TRX = {"type": "TRX", "out": 5}
INDEXED = {
    "trx": lambda: MetricMethod(GivenFeatures(8), TRX, tune="visual"),
    "clip_fsar, trx": lambda: CLIPFSAR(GivenFeatures(8), TRX),
    "hyrsm": lambda: HyRSM(GivenFeatures(8), {"type": "BiMHM", "epsilon": 0.01}),
    "hyrsm, dtw": lambda: HyRSM(GivenFeatures(8), {"type": "DTW"}),
}


@pytest.mark.parametrize("shot", [1, 2])
@pytest.mark.parametrize("name", INDEXED)
def test_what_is_computed_once_a_video_changes_no_score(name, shot, monkeypatch):
    """Kept for all clips, made for those of each batch where memory is short, or not at all; the roles have other features."""
    torch.manual_seed(0)
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(4)])
    plan = EpisodePlan.sample(clips, way=5, shot=shot, query=1, episodes=20, seed=0, purpose="test")
    method, text = INDEXED[name]().double().eval(), torch.randn(5, 8).double()
    with torch.no_grad():
        query, support = (method.encode(VideoFeatures(frames=torch.randn(20, 4, 8).double()), None) for _ in range(2))
    bank = FeatureBank(np.random.default_rng(0).permutation(20), query, support, 0.0)
    kept = score_plan(method, bank, plan, text, batch=7)
    monkeypatch.setattr(scoring, "INDEXED", 0)
    batches = score_plan(method, bank, plan, text, batch=7)
    monkeypatch.setattr(type(method), "index", lambda self, features: features)
    plain = score_plan(method, bank, plan, text, batch=7)
    assert np.allclose(kept.total, plain.total, rtol=1e-5)
    assert np.allclose(batches.total, plain.total, rtol=1e-5)


def test_what_a_set_changes_is_not_indexed_before(monkeypatch):
    """A set-wise method that changes all features of its videos: an index of the features before would tell of others."""

    class Turned(MetricMethod):
        def encode_set(self, features, class_text):
            return VideoFeatures(
                **{name: tensor.flip(2) if tensor.ndim > 3 else tensor for name, tensor in features.items()}
            )

    torch.manual_seed(0)
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(4)])
    plan = EpisodePlan.sample(clips, way=5, shot=1, query=1, episodes=6, seed=0, purpose="test")
    method = Turned(GivenFeatures(8), TRX, tune="visual").double().eval()
    features = VideoFeatures(frames=torch.randn(20, 4, 8).double())
    bank, text = FeatureBank(np.arange(20), features, features, 0.0), torch.zeros(5, 0)
    scores = score_plan(method, bank, plan, text, batch=6)
    monkeypatch.setattr(Turned, "index", lambda self, features: features)
    assert np.allclose(scores.total, score_plan(method, bank, plan, text, batch=6).total, rtol=1e-6)
