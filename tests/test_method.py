"""The base class of methods and the values that it exchanges with the engine."""

from __future__ import annotations

import pytest
import torch
from helpers import GivenFeatures
from mmengine.model import BaseModel
from torch import nn

from fsar_bench.backbones import Backbone
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, FewShotMethod, VideoFeatures, check_share


class ResetsItself(nn.Module):
    """A layer that MMEngine's `init_weights` would reset."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def init_weights(self):
        nn.init.zeros_(self.weight)


def test_init_weights_of_mmengine_leaves_a_method_as_it_was_built():
    method = FewShotMethod(GivenFeatures(8))
    method.layer = ResetsItself()
    method.init_weights()
    assert method.layer.weight.tolist() == [1, 1, 1]
    BaseModel.init_weights(method)  # what the method protects itself from
    assert method.layer.weight.tolist() == [0, 0, 0]


def test_choose_takes_the_first_of_the_best_points_and_leaves_it_set():
    method, tried = FewShotMethod(GivenFeatures(8)), []

    def accuracy() -> float:
        tried.append((method.a, method.b))
        return {(1, 20): 70.0, (2, 10): 70.0}.get(tried[-1], 50.0)

    assert method.choose(accuracy, a=(0, 1, 2), b=(10, 20)) == {"a": 1, "b": 20}
    assert tried == [(0, 10), (0, 20), (1, 10), (1, 20), (2, 10), (2, 20)]
    assert (method.a, method.b) == (1, 20)


def test_videos_of_a_batch_are_split_into_supports_and_queries_again():
    E, N, K, Q = 2, 3, 2, 4
    clips = torch.arange(E * (N * K + Q)).view(-1, 1, 1, 1, 1)
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    batch = EpisodeBatch(
        support=clips[: E * N * K].unflatten(0, (E, N, K)),
        query=clips[E * N * K :].unflatten(0, (E, Q)),
        labels=labels,
        classes=torch.tensor([[7, 3, 5], [1, 7, 2]]),
        class_text=torch.zeros(E, N, 0),
    )
    support, query = batch.split(VideoFeatures(frames=batch.videos()))
    assert torch.equal(support.frames, batch.support)
    assert torch.equal(query.frames, batch.query)
    classes, of_query = VideoFeatures(number=batch.video_classes()), [[7, 3, 5, 7], [2, 2, 7, 1]]
    support, query = batch.split(classes)
    assert support.number.tolist() == [[[7, 7], [3, 3], [5, 5]], [[1, 1], [7, 7], [2, 2]]]
    assert query.number.tolist() == of_query


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", None])
def test_shares_outside_their_range_are_refused(value):
    check_share("alpha", 0)
    check_share("alpha", 1.0)
    with pytest.raises(ConfigError, match=rf"^method\.alpha={value} must be a number from 0 to 1\.$"):
        check_share("alpha", value)


def test_a_backbone_needs_an_encoder_of_frames_and_nothing_else():
    parts = {"encode_frames": lambda self, frames: frames}
    assert type("Whole", (Backbone,), parts)(crop=8).crop == 8
    with pytest.raises(TypeError, match=r"abstract.*encode_frames"):
        type("Partial", (Backbone,), {})()
