"""D2ST-Adapter: golden adapters of the official code, windows, bounds of the offsets, parameter counts."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from golden_arrays import assert_close, golden, share_of, under
from helpers import vit_b_16_on_meta
from torch import Tensor, nn

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.backbones.deformable import DeformableAdapter, DeformableAttention, Window, windows_of
from fsar_bench.errors import ConfigError
from fsar_bench.methods.d2st import D2ST

T, CROP = 4, 32
BI_MHM = {"type": "BiMHM"}
HEADS = 4  # of the frozen block of the golden arrays
OFFICIAL = windows_of((8, 14, 14))
BRANCHES = {"s_attn": "attentions.spatial", "t_attn": "attentions.temporal"}
LAYERS = {
    "conv_offset.0": "local",
    "conv_offset.1.norm": "norm",
    "conv_offset.3": "offset",
    "proj_q": "to_q",
    "proj_k": "to_k",
    "proj_v": "to_v",
    "proj_out": "out",
}


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's state, from official names; 1 x 1 x 1 convolutions are linear layers here."""
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        branch, _, layer = module.partition(".")
        if branch in BRANCHES:
            module = f"{BRANCHES[branch]}.{LAYERS[layer]}"
        else:
            module = {
                "pos_embed": "position", "s_ln": "norms.spatial", "s_ln.norm": "norms.spatial", "t_ln": "norms.temporal",
                "t_ln.norm": "norms.temporal",
            }.get(module, module)  # fmt: skip
        is_linear = value.ndim == 5 and "local" not in module and "position" not in module
        renamed[f"{module}.{kind}"] = value.flatten(1) if is_linear else value
    return renamed


def kernel_of(state: dict[str, Tensor], branch: str) -> tuple[int, ...]:
    return tuple(state[f"{branch}.conv_offset.0.weight"].shape[2:])


def strides_of(kernel: tuple[int, ...], grid: tuple[int, ...], samples: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All strides that give that many samples, the official one first: no array of a file tells which of them it is."""
    axes = [
        [s for s in range(1, n + 1) if (n - k) // s + 1 == count]
        for k, n, count in zip(kernel, grid, samples, strict=True)
    ]
    return sorted(product(*axes), key=lambda stride: stride != tuple(OFFICIAL["spatial"].stride))


def adapter_of(state: dict[str, Tensor], grid, spatial_stride, *, outer_gelu: bool) -> DeformableAdapter:
    """The adapter with golden weights; the windows of the temporal branch do not overlap."""
    temporal = kernel_of(state, "t_attn")
    windows = {
        "spatial": Window(kernel_of(state, "s_attn"), spatial_stride),
        "temporal": Window(temporal, temporal),
    }
    r, width = state["down.weight"].shape[:2]
    heads = r // len(state["s_attn.conv_offset.0.weight"])
    adapter = DeformableAdapter(width, grid, windows, ratio=share_of(r, width), heads=heads, outer_gelu=outer_gelu)
    adapter.load_state_dict(ours(state))
    return adapter.eval()


@golden("d2st")
@torch.no_grad()
def test_golden_adapter_of_a_vit_and_its_parts(arrays):
    x = arrays["x"].transpose(0, 1)[None]  # [1, T, 1 + P, D]
    side = round((x.shape[2] - 1) ** 0.5)
    state, grid = under(arrays, "w.Adapter."), (x.shape[1], side, side)
    samples = tuple(arrays["spatial_offsets"].shape[2:])
    adapters = [
        adapter_of(state, grid, stride, outer_gelu=True)
        for stride in strides_of(kernel_of(state, "s_attn"), grid, samples)
    ]
    adapter = min(
        adapters, key=lambda one: float((offsets_of(one, x, "spatial") - arrays["spatial_offsets"]).abs().max())
    )
    z = adapter.reduce(x)
    for name in ("spatial", "temporal"):
        attention, normed = adapter.attentions[name], adapter.norms[name](z)
        assert_close(offsets_of(adapter, x, name), arrays[f"{name}_offsets"], relative=1e-5)
        assert_close(attention(normed)[0, 0], arrays[f"{name}_attention_frame0"], relative=1e-5)
    some = arrays["adapter"].shape[1]
    assert_close(adapter(x)[0, :some].transpose(0, 1), arrays["adapter"], relative=1e-5)
    block = frozen_block(under(arrays, "w."))
    assert_close(adapter(block(x[0])[None])[0, :some].transpose(0, 1), arrays["block"], relative=1e-5)


def offsets_of(adapter: DeformableAdapter, x: Tensor, name: str) -> Tensor:
    """Offsets `[heads, 3, t, h, w]` of the one video in `x`."""
    attention = adapter.attentions[name]
    return attention.offsets(attention.to_q(adapter.norms[name](adapter.reduce(x)))[:, :, 1:]).movedim(-1, 1)


def frozen_block(state: dict[str, Tensor]):
    """The frozen block of the golden arrays, as backbones give theirs."""
    from functools import partial

    from open_clip.transformer import QuickGELU, ResidualAttentionBlock

    from fsar_bench.backbones.backbone import ViTBlock
    from fsar_bench.backbones.clip import _attend, _mlp

    width = len(state["ln_1.weight"])
    block = ResidualAttentionBlock(
        width, HEADS, len(state["mlp.c_fc.bias"]) / width, act_layer=QuickGELU, batch_first=True
    )
    block.load_state_dict({name: value for name, value in state.items() if not name.startswith("Adapter.")})
    block.eval()
    return ViTBlock(block.ln_1, block.ln_2, partial(_attend, block), partial(_mlp, block))


@golden("d2st")
@torch.no_grad()
def test_golden_adapter_of_the_last_stage_of_a_resnet(arrays):
    frames, _, h, w = arrays["rn_maps"].shape
    tokens = arrays["rn_maps"].flatten(2).transpose(1, 2)[None]
    state = under(arrays, "rn.")
    stride = (4, 7, 7) if kernel_of(state, "s_attn") == (4, 7, 7) else (4, 3, 3)  # of the four stages
    adapter = adapter_of(state, (frames, h, w), stride, outer_gelu=False)
    out = adapter(tokens)[0, 0].transpose(0, 1).unflatten(1, (h, w))
    assert_close(out, arrays["rn_out_frame0"], relative=1e-5)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        method = D2ST(vit_b_16_on_meta(), BI_MHM)
    assert [count(adapter) for adapter in method.adapters] == [606_192] * 12
    assert method.parameter_counts()["trainable"] == 606_192 * 12 + 6_144


@pytest.mark.parametrize(
    ("width", "side", "heads", "spatial", "temporal", "parameters"),
    [
        (256, 56, 1, Window((4, 7, 7), (4, 7, 7)), 14, 94_272),
        (512, 28, 2, Window((4, 7, 7), (4, 7, 7)), 14, 293_760),
        (1024, 14, 4, Window((4, 5, 5), (4, 3, 3)), 7, 1_070_400),
        (2048, 7, 8, Window((4, 4, 4), (4, 3, 3)), 7, 4_225_344),
    ],
)
def test_parameter_counts_of_resnet_50(width, side, heads, spatial, temporal, parameters):
    windows = {"spatial": spatial, "temporal": Window((1, temporal, temporal), (1, temporal, temporal))}
    with torch.device("meta"):
        adapter = DeformableAdapter(width, (8, side, side), windows, ratio=0.25, heads=heads, outer_gelu=False)
    assert count(adapter) == parameters


def test_windows_are_the_official_shares_of_the_grid():
    assert windows_of((8, 14, 14)) == {
        "spatial": Window((4, 5, 5), (4, 3, 3)),
        "temporal": Window((1, 7, 7), (1, 7, 7)),
    }
    for grid in [(T, side, side) for T in (1, 2, 3, 8, 16) for side in range(1, 30)]:
        for name, window in windows_of(grid).items():
            assert min(window.samples(grid, name)) >= 1
    assert OFFICIAL["spatial"].samples((8, 14, 14), "spatial") == (2, 4, 4)
    assert OFFICIAL["temporal"].samples((8, 14, 14), "temporal") == (8, 2, 2)


@pytest.fixture(scope="module")
def backbone() -> CLIPBackbone:
    """A tiny CLIP of random weights, not to be changed by tests."""
    torch.manual_seed(0)
    return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=CROP, crop=CROP).eval()


def make(backbone, **changes) -> D2ST:
    torch.manual_seed(1)
    return D2ST(backbone, **{"matcher": BI_MHM, "frames": T, **changes}).eval()


@pytest.fixture
def frames():
    return torch.randint(0, 256, (2, T, 3, CROP, CROP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial_kernel": [4, 5, 5]}, r"spatial_kernel=\(4, 5, 5\) is larger than the grid of \(4, 4, 4\)"),
        ({"temporal_stride": [1, 0, 2]}, "three positive whole numbers"),
        ({"temporal_kernel": [1, 2]}, "three positive whole numbers"),
        ({"heads": 3}, "heads=3 does not divide 8"),
    ],
)
def test_windows_without_samples_and_odd_heads_are_refused(backbone, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(backbone, **changes)


def test_windows_can_be_chosen(backbone):
    method = make(backbone, spatial_kernel=[2, 3, 3], spatial_stride=[1, 1, 1])
    assert method.adapters[0].attentions["spatial"].samples == (3, 2, 2)


@torch.no_grad()
def test_the_tower_starts_as_the_frozen_one_bit_for_bit(backbone, frames):
    x = backbone.embed_tokens(frames)
    for block in backbone.blocks():
        x = block(x)
    plain = backbone.norm_tokens(x)[:, 0]
    assert torch.equal(make(backbone).embed(frames, None).frames.flatten(0, 1), plain)
    projected = make(backbone, project=True).embed(frames, None).frames
    assert torch.allclose(projected, backbone.encode_frames(frames), atol=1e-6)


def attention(grid=(4, 6, 6)) -> DeformableAttention:
    torch.manual_seed(3)
    return DeformableAttention(8, 2, grid, Window((2, 3, 3), (2, 3, 3)), "spatial").double()


@torch.no_grad()
def test_offsets_stay_within_two_cells_of_samples():
    layer = DeformableAttention(8, 2, (8, 8, 8), Window((1, 2, 4), (1, 2, 4)), "spatial")
    assert layer.samples == (8, 4, 2)
    layer.offset.weight.mul_(1e6)
    offsets = layer.offsets(torch.randn(3, 8, 64, 8, generator=torch.Generator().manual_seed(0)))
    assert offsets.shape == (3 * 2, 8, 4, 2, 3)
    assert torch.allclose(offsets.abs().amax((0, 1, 2, 3)), torch.tensor([2 / 8, 2 / 4, 1.0]))


@torch.no_grad()
def test_a_constant_map_is_sampled_as_it_is_within_the_grid():
    layer, patches = attention(), torch.randn(8).double().expand(1, 4, 36, 8)
    shape = (2, 2, 2, 2, 3)
    inside = layer.sample(patches, 0.4 * (2 * torch.rand(shape).double() - 1))  # centres are at +-0.5
    assert torch.allclose(inside, patches[0, 0, :1].expand(1, 8, 8))
    outside = layer.sample(patches, torch.full(shape, 1.0, dtype=torch.float64))
    assert not torch.allclose(outside, inside)  # zeros are read beyond the border


@torch.no_grad()
def test_samples_are_interpolated_between_patches():
    """Without offsets, against the eight corners of each point by hand: rows are the second axis, columns the third."""
    layer = attention()
    patches = torch.randn(1, 4, 36, 8).double()
    offsets = torch.zeros(2, 2, 2, 2, 3).double()
    sampled = layer.sample(patches, offsets)[0].view(2, 2, 2, 8)
    grid = patches[0].view(4, 6, 6, 8)
    for place in [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]:
        point = [((0.5 + i) / 2) * (n - 1) for i, n in zip(place, (4, 6, 6), strict=True)]
        value = torch.zeros(8).double()
        for corner in [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]:
            at = [int(p) + d for p, d in zip(point, corner, strict=True)]
            share = 1.0
            for p, a in zip(point, at, strict=True):
                share *= 1 - abs(p - a)
            value += share * grid[tuple(at)]
        assert torch.allclose(sampled[place], value)


@torch.no_grad()
def test_videos_do_not_see_each_other(backbone, frames):
    method = make(backbone)
    for adapter in method.adapters:
        nn.init.normal_(adapter.up.weight)
    together = method.embed(frames, None).frames
    alone = torch.cat([method.embed(video[None], None).frames for video in frames])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, make(backbone).embed(frames, None).frames, atol=1e-2)


def test_only_adapters_and_temporal_embedding_are_trained(backbone):
    trained = {name for name, p in make(backbone).named_parameters() if p.requires_grad}
    assert all(name.startswith(("adapters.", "temporal_embedding")) for name in trained)
