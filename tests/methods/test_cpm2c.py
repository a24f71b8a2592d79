"""CLIP-CPM2C: golden arrays without the label leak, what a query can see, closed forms of the motion, parameter counts."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import Arrays, assert_close, golden
from helpers import GivenFeatures, score_features
from torch import Tensor

from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods.cpm2c import CPM2C

OTAM = {"type": "OTAM", "smoothing": 0.5, "epsilon": 0.01}
BLOCK = {
    "norm": "0.0.norm", "to_q": "0.0.fn.to_q", "to_k": "0.0.fn.to_k", "to_v": "0.0.fn.to_v", "out": "0.0.fn.to_out.0",
    "ffn.0": "0.1.net.0", "ffn.3": "0.1.net.3",
}  # fmt: skip


def from_golden(arrays: Arrays, **settings: str) -> CPM2C:
    hidden, C = arrays["w.context2.layers.0.1.net.0.weight"].shape
    method = CPM2C(GivenFeatures(C), OTAM, ffn_width=hidden, **settings).eval()
    state = {"scale": arrays["w.scale"][0]}
    state |= {"frames_token": arrays["w.class_token"], "motion_token": arrays["w.class_token_motion"]}
    names = {f"modulation.{ours}": f"context2.layers.{theirs}" for ours, theirs in BLOCK.items()}
    names |= {"motion_convs.0": "motion_conv1", "motion_convs.1": "motion_conv2"}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            if f"w.{theirs}.{kind}" in arrays:
                state[f"{ours}.{kind}"] = arrays[f"w.{theirs}.{kind}"]
    method.load_state_dict(state)
    method.prepare(arrays["texts"])
    return method


def texts_of_classes(arrays: Arrays) -> Tensor:
    N, K = arrays["support"].shape[:2]
    return arrays["texts"][arrays["support_class"].view(N, K)[:, 0]]


@golden("cpm2c")
@torch.no_grad()
def test_golden_logits_without_the_leak(arrays: Arrays):
    scores = score_features(from_golden(arrays), arrays["support"], arrays["query"], texts_of_classes(arrays))
    assert_close(scores.total[0], arrays["clean.logits_local"], relative=1e-5)
    assert_close(scores.parts["global"][0], arrays["clean.logits_global"], relative=1e-5)


@golden("cpm2c")
@torch.no_grad()
def test_golden_motion_and_losses(arrays: Arrays):
    method = from_golden(arrays, consistency="released")
    support, query = arrays["support"].flatten(0, 1), arrays["query"]
    assert_close(method.motion(query), arrays["motion_query"], relative=1e-5)
    videos = torch.cat([support, query]).mean(1)
    assert_close(method.class_logits(videos, arrays["texts"]), arrays["class_logits"], relative=1e-5)
    own = [arrays["texts"][arrays[f"{role}_class"]] for role in ("support", "query")]
    assert_close(method.consistency_distance(support, query, *own), arrays["consistency_distance"], relative=1e-5)


def build(width: int = 16, **settings: float | str) -> CPM2C:
    torch.manual_seed(0)
    method = CPM2C(GivenFeatures(width), OTAM, ffn_width=24, **settings).double().eval()
    method.prepare(torch.randn(5, width).double())
    return method


@torch.no_grad()
def test_a_query_sees_no_text():
    method = build()
    support, query, text = (torch.randn(*shape, 16).double() for shape in ((3, 2, 6), (4, 6), (3,)))
    before = score_features(method, support, query, text).total
    encoded = method.encode(VideoFeatures(frames=query), None)
    method.prepare(torch.randn(5, 16).double())  # other texts of training classes
    again = method.encode(VideoFeatures(frames=query), None)
    assert all(torch.equal(tensor, getattr(again, name)) for name, tensor in encoded.items())
    other = text.clone()
    other[1] = -text[1]
    after = score_features(method, support, query, other).total
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]])  # a text moves the supports of its class alone
    assert not torch.allclose(before[..., 1], after[..., 1])


@torch.no_grad()
def test_motion_of_constant_frames_is_zero_if_the_convolutions_are_the_identity():
    method = build()
    for conv in method.motion_convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
        conv.weight[:, :, 1] = torch.eye(16)
    assert torch.equal(method.motion(torch.randn(2, 1, 16).double().expand(-1, 6, -1)), torch.zeros(2, 5, 16))
    ramp = torch.arange(6.0).double()[None, :, None].expand(2, -1, 16)
    assert torch.allclose(method.motion(ramp), torch.zeros(1).double())  # both directions of time cancel
    method.motion_convs[1].bias.fill_(0.5)
    assert torch.allclose(method.motion(ramp), torch.full((1,), 0.5).double())


def test_one_frame_has_no_motion():
    with pytest.raises(ConfigError, match="Motion needs at least 2 frames per clip, not 1: set frames=2 or more"):
        build().encode(VideoFeatures(frames=torch.zeros(1, 1, 16).double()), None)


class Frames(GivenFeatures):
    """A backbone whose features are the first pixels of the frames."""

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames.flatten(2)[..., : self.embedding_width].double() / 255


@torch.no_grad()
def test_the_leak_of_the_training_code_reaches_no_score():
    """Only the consistency loss knows a query's class."""
    losses = []
    for consistency in ("clean", "released"):
        torch.manual_seed(0)
        method = CPM2C(Frames(16), OTAM, ffn_width=24, consistency=consistency).double().eval()
        method.prepare(torch.randn(5, 16).double())
        pixels = torch.randint(0, 256, (2, 3 * 2 + 3, 6, 3, 4, 4), dtype=torch.uint8)
        classes, labels = torch.tensor([[4, 1, 0], [2, 3, 1]]), torch.tensor([[0, 1, 2], [2, 2, 0]])
        support, query = pixels[:, :6].unflatten(1, (3, 2)), pixels[:, 6:]
        losses.append(method.loss(EpisodeBatch(support, query, labels, classes, method.train_text[classes])))
    clean, released = losses
    assert all(torch.equal(clean[name], released[name]) for name in ("loss_metric", "loss_class"))
    assert not torch.allclose(clean["loss_consistency"], released["loss_consistency"])


def test_parameter_counts():
    with torch.device("meta"):
        method = CPM2C(GivenFeatures(512), OTAM)
    parts = {
        name: sum(p.numel() for p in getattr(method, name).parameters()) for name in ("modulation", "motion_convs")
    }
    assert parts == {"modulation": 3_149_824, "motion_convs": 1_573_888}
    assert method.parameter_counts()["trainable"] == 3_149_824 + 1_573_888 + 1_024 + 1
