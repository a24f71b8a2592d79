"""MoLo: factors of the decoder, motion maps, contrast and reconstruction by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_arrays import Arrays, assert_close, assert_gradients_close, episode, golden, scores, under
from helpers import GivenFeatures, score_features

from fsar_bench.backbones.decoder import map_decoder, three_factors
from fsar_bench.matching import bi_mhm, frame_distance
from fsar_bench.method import EpisodeBatch
from fsar_bench.methods.molo import MoLo


@pytest.fixture
def method() -> MoLo:
    torch.manual_seed(0)
    return MoLo(GivenFeatures(16, stride=12), {"type": "BiMHM", "epsilon": 0.01}).double().eval()


def maps(*leading: int) -> torch.Tensor:
    return torch.randn(*leading, 4, 16, 3, 3, generator=torch.Generator().manual_seed(1)).double()


def test_three_factors():
    assert [three_factors(n) for n in (32, 16, 12, 14, 8, 7)] == [
        (2, 4, 4), (2, 2, 4), (2, 2, 3), (1, 2, 7), (2, 2, 2), (1, 1, 7),
    ]  # fmt: skip
    assert map_decoder(4, 32)(torch.randn(2, 4, 7, 7)).shape == (2, 3, 224, 224)


@torch.no_grad()
def test_motion_is_a_convolved_map_minus_the_one_before(method):
    one = maps(2)
    motion = method.difference(one).unflatten(0, (2, 3))
    reduced = method.reduce(one.transpose(1, 2)).transpose(1, 2)
    for v in range(2):
        for t in range(3):
            expected = method.conv(reduced[v, t + 1][None])[0] - reduced[v, t]
            assert torch.allclose(motion[v, t], expected)


@torch.no_grad()
def test_branches_begin_with_their_class_token_and_score_without_it(method):
    support, query = maps(4, 2), maps(3)
    features = method.encode(_features(query), None)
    assert features.frames.shape == (3, 5, 16)
    assert features.motion.shape == (3, 4, 16)
    assert (features.frames >= 0).all()
    scores = score_features(method, support, query, name="maps")
    encoded = method.encode(_features(support.flatten(0, 1)), None).view(4, 2)
    for part, tensor in (("frames", features.frames), ("motion", features.motion)):
        prototypes = getattr(encoded, part).mean(1)[:, 1:]
        distance = bi_mhm(frame_distance(tensor[None, :, 1:], prototypes[None, :, None], epsilon=0.01))[0, ..., 0]
        assert torch.allclose(scores.parts[part][0], -distance)
    assert torch.allclose(scores.total, scores.parts["frames"] + 0.3 * scores.parts["motion"])


def _features(tensor):
    from fsar_bench.method import VideoFeatures

    return VideoFeatures(maps=tensor)


@torch.no_grad()
def test_contrast_by_hand():
    rng = np.random.RandomState(0)
    support, query = rng.randn(4, 6, 8), rng.randn(3, 6, 8)

    def cosine(x, y):
        return x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 0.01)

    s2q, q2s = MoLo.contrast(torch.from_numpy(support)[None], torch.from_numpy(query)[None], torch.tensor(2.0))
    for q in range(3):
        for n in range(4):
            assert s2q[0, q, n] == pytest.approx(-2 * sum(1 - cosine(query[q, 0], f) for f in support[n, 1:]))
            assert q2s[0, q, n] == pytest.approx(-2 * sum(1 - cosine(support[n, 0], f) for f in query[q, 1:]))


def test_reconstruction_is_of_normalised_frame_differences(method):
    class Normalises(GivenFeatures):
        def normalise(self, frames):
            return frames.flatten(0, 1).double() / 255

    method.backbone = Normalises(16, 12)
    videos = torch.randint(0, 256, (2, 4, 3, 36, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    difference = method.difference(maps(2))
    rebuilt = method.decoder(difference)
    assert rebuilt.shape == (6, 3, 36, 36)
    x = videos.double() / 255
    expected = ((rebuilt.unflatten(0, (2, 3)) - (x[:, 1:] - x[:, :-1])) ** 2).mean()
    assert torch.allclose(method.reconstruction_error(videos, difference), expected)
    odd = F.interpolate(videos.flatten(0, 1).float(), 40).to(torch.uint8).unflatten(0, (2, 4))
    assert torch.isfinite(method.reconstruction_error(odd, difference))


def test_classifier_has_a_row_for_every_training_class(method):
    method.prepare(torch.zeros(9, 0))
    assert method.classifier.weight.shape == (9, 16)


@torch.no_grad()
@pytest.mark.parametrize("matcher", ["OTAM", "BiMHM"])
def test_both_matchers(matcher):
    torch.manual_seed(0)
    method = MoLo(GivenFeatures(16, 12), {"type": matcher}).double().eval()
    assert score_features(method, maps(4, 2), maps(3), name="maps").total.shape == (1, 3, 4)


BRANCHES = {"appearance": "", "motion": "_motion"}  # ours: ending of the official names
LAYERS = {
    **{f"decoder.{4 * i + 1}": f"up{i + 1}.conv.double_conv.0" for i in range(3)},
    **{f"decoder.{4 * i + 2}": f"up{i + 1}.conv.double_conv.1" for i in range(3)},
    "decoder.12": "outc.conv",
    "reduce": "motion_reduce",
    "conv": "motion_conv",
    "expand": "motion_up",
    "classifier": "classification_layer",
}


def to_official(tensors: Arrays) -> Arrays:
    """Tensors by our names (weights, or their gradients) by the official ones."""
    official = {"scale": tensors["scale"].view(1), "scale_motion": tensors["motion_scale"].view(1)}
    for ours, ending in BRANCHES.items():
        block, layer = under(tensors, f"{ours}.block."), f"temporal_atte_before{ending}.layers.0"
        official[f"class_token{ending}"] = tensors[f"{ours}.token"]
        official[f"{layer}.0.fn.to_qkv.weight"] = torch.cat([block[f"to_{x}.weight"] for x in "qkv"])
        for name, theirs in {"norm": "0.norm", "out": "0.fn.to_out.0", "ffn.0": "1.net.0", "ffn.3": "1.net.3"}.items():
            official |= {f"{layer}.{theirs}.{kind}": block[f"{name}.{kind}"] for kind in ("weight", "bias")}
    for ours, theirs in LAYERS.items():
        official |= {f"{theirs}.{kind}": tensor for kind, tensor in under(tensors, f"{ours}.").items()}
    return official


class Maps(GivenFeatures):
    """A stand-in for a backbone: pixels are normalised as in the official code, maps are given, supports first."""

    def __init__(self, maps: torch.Tensor, stride: int) -> None:
        super().__init__(maps.shape[2], stride)
        self.maps = maps

    def encode_maps(self, frames):
        assert len(frames) == len(self.maps)
        return self.maps

    def normalise(self, frames):
        return (frames.flatten(0, 1).float() / 255 - 0.45) / 0.225


def from_golden(arrays: Arrays, pixels: EpisodeBatch, matcher: str) -> MoLo:
    """The official model in eval mode, on its maps."""
    maps = episode(arrays).videos()
    scales = {"input_scale": float(arrays["A"]), "position_scale": float(arrays["B"])}
    backbone = Maps(maps, pixels.query.shape[-1] // maps.shape[-1])
    kinds = {"OTAM": {"type": "OTAM", "smoothing": 0.1}, "BiMHM": {"type": "BiMHM", "epsilon": 0.01}}
    method = MoLo(backbone, kinds[matcher], **scales).eval()
    method.prepare(torch.zeros(len(arrays["classification_layer.weight"]), 0))
    with torch.no_grad():  # what is a part of an official tensor is written through a view of it
        state = method.state_dict(keep_vars=True)
        for name, tensor in to_official({**state}).items():
            if name.endswith("to_qkv.weight"):
                branch = "motion" if "_motion" in name else "appearance"
                for letter, part in zip("qkv", arrays[name].chunk(3), strict=True):
                    state[f"{branch}.block.to_{letter}.weight"].copy_(part)
            else:
                assert tensor.shape == arrays[name].shape, name
                tensor.copy_(arrays[name])
    return method


@golden("molo")
def test_golden_logits_losses_and_gradients(arrays):
    pixels = episode(arrays, "_pixels")
    sides = {side: getattr(pixels, side) for side in ("support", "query")}
    pixels = replace(
        pixels, **{side: x.repeat_interleave(32, -1).repeat_interleave(32, -2) for side, x in sides.items()}
    )
    for name, expected in under(arrays, "logits.").items():
        method = from_golden(arrays, pixels, name)
        with torch.no_grad():
            assert_close(scores(method, pixels).total[0], expected)
    method = from_golden(arrays, pixels, "BiMHM")
    method.decoder.train()  # its batch norm uses the batch; all dropouts are off
    losses = method.loss(pixels)
    assert_close(losses["loss_metric"], arrays["loss_metric"])
    assert_close(losses["loss_class"] / method.class_weight, arrays["loss_class_unweighted"])
    assert_close(losses["loss_reconstruction"] / method.reconstruction_weight, arrays["loss_reconstruction_unweighted"])
    assert_close(losses["loss_contrast"] / method.contrast_weight, sum(under(arrays, "loss_contrast.").values()))
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    assert_gradients_close(to_official(gradients), under(arrays, "BiMHM.grad."))
