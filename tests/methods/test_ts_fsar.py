"""TS-FSAR: golden arrays of side network, correlations and probabilities, closed forms, starting weights, parameter counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_arrays import Arrays, assert_close, by_class, golden, share_of, under
from helpers import GivenFeatures
from torch import Tensor, nn

from fsar_bench.backbones import ViTBlock
from fsar_bench.backbones.side import SideNetwork, reduced
from fsar_bench.config.files import load
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.ts_fsar import TSFSAR, correlation_matrix
from fsar_bench.registry import BACKBONES

SIDE = {
    "norm1": "norm1", "norm2": "norm2", "attn.q": "attn.q_linear", "attn.k": "attn.k_linear", "attn.v": "attn.v_linear",
    "attn.out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}  # fmt: skip


class StubTower(GivenFeatures):
    """The tower of the golden arrays, x + tanh(Linear x) per layer; its "frames" are tokens `[V, T, 1 + P, D]`."""

    def __init__(self, arrays: Arrays) -> None:
        C, D = arrays["lsn.projection.weight"].shape
        super().__init__(C)
        self.map_width, self.arrays = D, under(arrays, "lsn.")
        self.depth = sum(name.endswith(".f.weight") for name in self.arrays)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"])

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        return self._norm(frames.flatten(0, 1), "pre_layernorm")

    def blocks(self) -> list[ViTBlock]:
        def attend(n: int, x: Tensor) -> Tensor:
            layer = self.arrays[f"layers.{n}.f.weight"], self.arrays[f"layers.{n}.f.bias"]
            return torch.tanh(nn.functional.linear(x, *layer))

        return [
            ViTBlock(nn.Identity(), nn.Identity(), lambda x, rows, n=n: attend(n, x), torch.zeros_like)
            for n in range(self.depth)
        ]

    def read_tokens(self, tokens: Tensor) -> Tensor:
        return self._norm(tokens[:, 0], "post_layernorm") @ self.arrays["projection.weight"].T


def from_golden(arrays: Arrays) -> TSFSAR:
    (sizes,) = under(arrays, "sizes_").items()
    T, temporal = int(sizes[1][3]), sizes[1][4:].tolist()
    hidden, W = arrays["lsn.side_transformer.0.mlp.fc1.weight"].shape
    tower = StubTower(arrays)
    method = TSFSAR(
        tower, frames=T, powers=(0.15, 0.8, 0.05), temperature=50.0, adapter_share=0.4, side_start="random", side_width=W,
        side_heads=max(W // 64, 1), temporal_layers=temporal, mlp_ratio=share_of(hidden, W),
    ).eval()  # fmt: skip
    names = {"adapter.norm": "Adapter.norm1", "side_norm": "up_ln"}
    names |= {f"adapter.attn.{ours}": f"Adapter.attn.{ours}_linear" for ours in "qkv"}
    names |= {"adapter.attn.out": "Adapter.attn.proj", "side_up": "up_linear"}
    for n in range(tower.depth + 1):
        names |= {f"side.norms.{n}": f"side_LN.{n}", f"side.downs.{n}": f"side_downsample.{n}"}
    for n in range(tower.depth):
        names |= {f"side.blocks.{n}.{ours}": f"side_transformer.{n}.{theirs}" for ours, theirs in SIDE.items()}
    state = {
        f"{ours}.{kind}": arrays[f"lsn.{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
        if f"lsn.{theirs}.{kind}" in arrays
    }
    state |= {f"side.gates.{n}": arrays[f"lsn.side_gate_params.{n}"] for n in range(tower.depth)}
    method.load_state_dict(state | {"generator.weight": arrays["dcm.generator.weight"]})
    return method


def episode(arrays: Arrays, method: TSFSAR) -> tuple[VideoFeatures, VideoFeatures, VideoFeatures]:
    """The embedded videos in the order of the arrays, and the encoded supports `[1, N, K]` and queries `[1, Q]`."""
    (sizes,) = under(arrays, "sizes_").values()
    N, K, T = int(sizes[0]), int(sizes[1]), int(sizes[3])
    embedded = method.embed(arrays["tokens"].unflatten(0, (-1, T)), None)
    encoded = method.encode(embedded, None)
    support = VideoFeatures(**{name: by_class(arrays, tensor[: N * K]) for name, tensor in encoded.items()})
    return embedded, support[None], encoded[N * K :][None]


@golden("ts_fsar")
@torch.no_grad()
def test_golden_side_network(arrays: Arrays):
    embedded, _, _ = episode(arrays, from_golden(arrays))
    assert_close(embedded.side[0], arrays["side_first_video"], relative=1e-5)
    assert_close(embedded.frames.flatten(0, 1), arrays["clip_class_tokens"], relative=1e-5)


@golden("ts_fsar")
@torch.no_grad()
def test_golden_correlations(arrays: Arrays):
    matrix = correlation_matrix(arrays["dc_in"], 0.4)
    assert_close(matrix, arrays["dc_alpha_matrix"], relative=1e-5)
    row, column = torch.triu_indices(*matrix.shape[1:])
    assert_close(matrix[:, row, column], arrays["dc_vector"], relative=1e-5)


@golden("ts_fsar")
@torch.no_grad()
def test_golden_probabilities(arrays: Arrays):
    method = from_golden(arrays)
    _, support, query = episode(arrays, method)
    scores = method.score(support, query, arrays["texts"][None])
    assert_close(scores.parts["matching"][0], arrays["score"], relative=1e-5)
    assert_close(scores.parts["clip"][0].softmax(-1), arrays["p_clip"], relative=2e-5)
    assert_close(scores.parts["side"][0].softmax(-1), arrays["p_side"], relative=2e-5)
    assert_close(scores.total[0].exp(), arrays["fused"], relative=2e-5)


def test_equal_channels_have_no_correlations_and_others_are_centred():
    equal = correlation_matrix(torch.randn(4, 1, 9).double().expand(-1, 6, -1), 0.4)
    assert torch.allclose(equal, torch.zeros(1).double(), atol=1e-12)
    x = torch.randn(4, 6, 9).double()
    matrix = correlation_matrix(x, 0.4)
    assert torch.allclose(matrix, matrix.transpose(1, 2))
    assert torch.allclose(matrix.sum(-1), torch.zeros(1).double(), atol=1e-12)
    distance = torch.stack([((x[:, i] - x[:, j]) ** 2).sum(-1) / 18 for i in range(6) for j in range(6)], -1)
    power = (distance + 1e-5).pow(0.4).view(4, 6, 6)
    centred = power - power.mean(1, keepdim=True) - power.mean(2, keepdim=True) + power.mean((1, 2), keepdim=True)
    assert torch.allclose(matrix, centred)


def tiny(**settings: object) -> TSFSAR:
    torch.manual_seed(0)
    backbone = BACKBONES.build(dict(load("backbones", "tiny_clip").values["backbone"]))
    backbone.requires_grad_(False)
    return TSFSAR(backbone, frames=3, **settings).eval()


@torch.no_grad()
def test_prediction_is_a_product_of_powers_and_matching_alone_needs_no_text():
    frames = torch.randint(0, 256, (8, 3, 3, 32, 32), dtype=torch.uint8)
    text = torch.randn(1, 2, 24)
    totals = {}
    for powers in ((0.15, 0.8, 0.05), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5)):
        method = tiny(powers=powers)
        encoded = method.encode(method.embed(frames, None), None)
        scores = method.score(encoded[:4].view(1, 2, 2), encoded[4:].view(1, 4), text)
        totals[powers] = scores.total
        product = 1.0
        for power, logits in zip(powers, scores.parts.values(), strict=True):
            product = product * logits.softmax(-1) ** power
        assert torch.allclose(scores.total.exp(), product, rtol=1e-4)
        traits = method.traits
        assert (traits.uses_class_names, traits.ignores_supports) == (any(powers[1:]), powers[0] == 0)
    matching = scores.parts["matching"]
    assert torch.equal(totals[1.0, 0.0, 0.0].argmax(-1), matching.argmax(-1))
    method.generator.weight.mul_(3)  # the matching is linear in the matrix of the task
    assert torch.allclose(method.match(encoded[:4].view(1, 2, 2), encoded[4:].view(1, 4)), 3 * matching, rtol=1e-4)


def test_reduction_of_weights_is_that_of_principal_components():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(12, 7))
    u, s, axes = np.linalg.svd(weight - weight.mean(0), full_matrices=False)
    signs = np.sign(axes[np.arange(7), np.abs(axes).argmax(1)])
    components = u * s * signs
    tall, wide = reduced(torch.from_numpy(weight), (9, 4)), reduced(torch.from_numpy(weight.T.copy()), (4, 9))
    assert np.allclose(tall, components[:9, :4])
    assert np.allclose(wide, components[:9, :4].T)
    ramp = reduced(torch.arange(12.0), (4,))
    assert torch.allclose(ramp, torch.tensor([1.0, 4.0, 7.0, 10.0]), atol=0.2)
    with pytest.raises(
        ConfigError, match=r"A weight of \(12, 7\) cannot be reduced to \(9, 8\): lower method\.side_width"
    ):
        reduced(torch.from_numpy(weight), (9, 8))


def test_side_network_starts_from_clip():
    method, other = tiny(), tiny(side_start="random")
    block = method.backbone.clip.visual.transformer.resblocks[1]
    ours = method.side.blocks[1]
    W = method.side.width
    assert torch.equal(ours.attn.k.weight, reduced(block.attn.in_proj_weight.chunk(3)[1], (W, W)))
    assert torch.equal(ours.fc2.weight, reduced(block.mlp.c_proj.weight, (W, 4 * W)))
    assert torch.equal(ours.norm1.bias, reduced(block.ln_1.bias, (W,)))
    assert torch.equal(method.adapter.attn.out.weight, reduced(block.attn.out_proj.weight, (24, 24)))
    assert not torch.equal(other.side.blocks[1].fc2.weight, ours.fc2.weight)


def test_layers_over_time_alone_pass_between_frames():
    torch.manual_seed(0)
    tower = tiny(side_start="random").backbone
    frames = torch.randint(0, 256, (1, 3, 3, 32, 32), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, 0] = 255 - changed[:, 0]
    for temporal in ([], [1]):
        side = SideNetwork(tower, temporal_layers=temporal)
        same = torch.allclose(side(tower, frames)[0][1:], side(tower, changed)[0][1:])
        assert same == (not temporal)


class Tower(GivenFeatures):
    """A tower of CLIP's shape that runs nothing."""

    def __init__(self, depth: int, width: int, embedding_width: int) -> None:
        super().__init__(embedding_width)
        self.map_width, self.depth = width, depth

    def blocks(self) -> list[ViTBlock]:
        return [ViTBlock(nn.LayerNorm(self.map_width), nn.LayerNorm(self.map_width), max, max)] * self.depth


def test_shape_of_the_side_network_and_parameter_counts():
    with torch.device("meta"):
        method = TSFSAR(Tower(12, 768, 512), side_start="random")
        shallow = SideNetwork(Tower(6, 192, 128))
    assert [n for n, block in enumerate(method.side.blocks) if block.over_time] == [6, 8, 10]
    assert (method.side.width, method.side.blocks[0].attn.heads) == (256, 4)
    assert method.parameter_counts()["trainable"] == 13_236_236 + 16_384
    method.prepare(torch.zeros(64, 512))
    assert method.classifier.weight.numel() == 2_105_344
    assert (shallow.width, shallow.blocks[0].attn.heads) == (64, 1)
    assert [n for n, block in enumerate(shallow.blocks) if block.over_time] == [3, 5]


def test_wrong_shapes_are_named():
    with pytest.raises(ConfigError, match=r"temporal_layers=\[2, 5\] must be numbers of the 3 blocks, 0 to 2"):
        SideNetwork(Tower(3, 192, 128), temporal_layers=[2, 5])
    with pytest.raises(ConfigError, match="heads=3 does not divide the width 64"):
        SideNetwork(Tower(3, 192, 128), heads=3)
    with pytest.raises(NotApplicableError, match=r"choose a CLIP ViT with backbone=, or method\.side_start=random"):
        TSFSAR(Tower(3, 192, 128))
