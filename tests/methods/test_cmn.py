"""CMN: golden embedding and scores, frames as a set, saliency vectors that start equal and stay equal, its size."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.layers import query_cross_entropy
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.cmn import CMN, MultiSaliency


def make(**changes) -> CMN:
    torch.manual_seed(0)
    return CMN(GivenFeatures(6), **changes).double().eval()


def videos(*leading: int) -> torch.Tensor:
    return torch.randn(*leading, 5, 6, generator=torch.Generator().manual_seed(1)).double()


@golden("cmn")
@torch.no_grad()
def test_golden_embedding_and_logits(arrays):
    clips = arrays["videos"]  # [N, K + 1, T, C]: the last of each class is its query
    method = CMN(GivenFeatures(clips.shape[-1]), saliencies=len(arrays["h"])).eval()
    method.embedding.load_state_dict(
        {"saliency": arrays["h"], "merge.weight": arrays["fc.weight"], "merge.bias": arrays["fc.bias"]}
    )
    encoded = method.encode(VideoFeatures(frames=clips.flatten(0, 1)), None).video
    assert_close(encoded.unflatten(0, clips.shape[:2]), arrays["embedding"], relative=1e-5)
    assert_close(score_features(method, clips[:, :-1], clips[:, -1]).total[0], arrays["logits"], relative=1e-5)


@torch.no_grad()
def test_frames_are_a_set():
    method, clips = make(saliency_std=1.0), videos(4)
    forward = method.encode(VideoFeatures(frames=clips), None).video
    backward = method.encode(VideoFeatures(frames=clips.flip(1)), None).video
    assert torch.allclose(forward, backward)


@torch.no_grad()
def test_without_saliency_every_part_is_the_direction_of_the_mean_frame():
    method, clips = make(), videos(4)
    method.embedding.saliency.zero_()
    expected = 8 * torch.nn.functional.normalize(clips.mean(1), dim=-1)  # the layer starts as the sum of eight parts
    assert torch.allclose(method.encode(VideoFeatures(frames=clips), None).video, expected)


@pytest.mark.parametrize(("std", "equal"), [(0.0, True), (0.1, False)])
def test_vectors_that_start_equal_get_equal_gradients(std, equal):
    method = make(saliency_std=std)
    total = score_features(method, videos(3, 2), videos(4)).total
    query_cross_entropy(total, torch.tensor([[0, 1, 2, 0]])).backward()
    saliency, merge = method.embedding.saliency.grad, method.embedding.merge.weight.grad.unflatten(1, (8, -1))
    assert saliency.abs().max() > 1e-6
    assert torch.allclose(saliency, saliency[:1].expand_as(saliency)) is equal
    assert torch.allclose(merge, merge[:, :1].expand_as(merge)) is equal


@pytest.mark.parametrize(("width", "weights"), [(512, 2_097_664), (2048, 33_556_480)])
def test_number_of_weights(width, weights):
    with torch.device("meta"):
        embedding = MultiSaliency(width, saliencies=8, std=0.0)
    assert sum(p.numel() for p in embedding.merge.parameters()) == weights
    assert embedding.saliency.numel() == 8 * width


@pytest.mark.parametrize("wrong", [{"saliencies": 0}, {"saliency_std": -0.1}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"method.{next(iter(wrong))}"):
        make(**wrong)
