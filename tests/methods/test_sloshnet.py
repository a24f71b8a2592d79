"""SloshNet: golden maps and logits of the official code, its cell and modules on closed forms, independence of videos."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_arrays import assert_close, by_class, golden, under
from helpers import GivenFeatures
from torch import Tensor

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.errors import NotApplicableError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.sloshnet import SearchCell, ShortTerm, SloshNet, size_steps


class Pyramid(GivenFeatures):
    """A stand-in whose maps of four depths are given to `encode`."""

    def __init__(self, widths: tuple[int, ...], strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
        super().__init__(widths[-1])
        self.pyramid_widths, self.pyramid_strides = widths, strides


class Released(SloshNet):
    """With the long-term attention as the released code has it: over the positions of all videos of a call."""

    def long_term(self, x: Tensor) -> Tensor:
        _, T, C, h, w = x.shape
        by_frame = x.permute(1, 0, 3, 4, 2).flatten(1, 3)  # [T, V * h * w, C]
        released = self.long_block(by_frame).transpose(0, 1).contiguous()
        return released.view(-1, h, w, C, T).permute(0, 4, 3, 1, 2)  # frames and channels exchanged


def from_golden(arrays: dict) -> Released:
    w = under(arrays, "w.")
    trx = [under(w, f"transformers.{i}.") for i in range(len({n.split(".")[1] for n in w if n.startswith("transf")}))]
    C = w["cmm.qkv.weight"].shape[1]
    sizes = tuple(t["k_linear.weight"].shape[1] // C for t in trx)
    matcher = {"type": "TRX", "cardinalities": sizes, "out": len(trx[0]["k_linear.bias"])}
    widths, groups = tuple(arrays[f"query{i}"].shape[1] for i in range(4)), C // len(w["cmm.qconv.weight"])
    method = Released(Pyramid(widths), matcher, groups=groups).eval()
    state = {
        "state_weights": w["beta1"][0],
        "term_weights": w["gamma1"][0],
        "short_term.qkv.weight": w["cmm.qkv.weight"],
        "short_term.of_query.weight": w["cmm.qconv.weight"],
        "short_term.of_key.weight": w["cmm.kconv.weight"],
        "short_term.motion.0.weight": w["cmm.mlp.fc1.weight"],
        "short_term.motion.2.weight": w["cmm.mlp.fc2.weight"],
    }
    state |= {f"cell.weights.{i}": w[f"darts_model.alpha_normal.{i}"] for i in range(3)}
    names = {
        "attention": "attn",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "widen": "mlp.c_fc",
        "narrow": "mlp.c_proj",
    }
    for ours, theirs in names.items():
        part = under(w, f"cstm.resblocks.0.{theirs}.")
        state |= {f"long_block.{ours}.{name}": tensor for name, tensor in part.items()}
    for level in range(3):
        for step in range(3 - level):
            unit = under(w, f"spatial_modulation.spatial_modulation.{level}.{step}.")
            state |= {f"modulation.{level}.{step}.1.{n}": t for n, t in under(unit, "bn2.").items()}
            state[f"modulation.{level}.{step}.1.num_batches_tracked"] = torch.tensor(0)
            state[f"modulation.{level}.{step}.2.weight"] = unit["conv2.weight"]
    for number, part in enumerate(trx):
        kept = {"k_linear": "key", "v_linear": "value", "norm_k": "norm"}  # norm_v is never used
        for theirs, ours in kept.items():
            for name, tensor in under(part, f"{theirs}.").items():
                state[f"matcher.transformers.{number}.{ours}.{name}"] = tensor
    own = {n: t for n, t in method.state_dict().items() if n.startswith("backbone.")}
    method.load_state_dict(state | own)
    return method


def levels_of(arrays: dict, role: str) -> VideoFeatures:
    V = len(arrays["query_fused"]) if role == "query" else len(arrays["support_labels"])
    return VideoFeatures(**{f"level{i}": arrays[f"{role}{i}"].unflatten(0, (V, -1)) for i in range(4)})


@golden("sloshnet")
@torch.no_grad()
def test_golden_maps_and_logits(arrays):
    method = from_golden(arrays)
    modulated = [steps(arrays[f"query{i}"]) for i, steps in enumerate(method.modulation)]
    for number in (0, 3):
        assert_close(modulated[number], arrays[f"query_modulated{number}"], relative=1e-5)
    for number, state in enumerate(method.cell(modulated)):
        assert_close(state, arrays[f"query_state{number}"], relative=1e-5)
    fused = method.fuse(modulated).view_as(arrays["query_fused"])
    assert_close(fused, arrays["query_fused"], relative=1e-5)
    assert_close(method.short_term(fused), arrays["query_short"], relative=1e-5)
    assert_close(method.long_term(fused), arrays["query_long"], relative=1e-5)
    query = method.encode(levels_of(arrays, "query"), None)
    support = by_class(arrays, method.encode(levels_of(arrays, "support"), None).frames)
    scores = method.score(
        VideoFeatures(frames=support[None]), query.view(1, len(query)), torch.zeros(1, len(support), 0)
    )
    assert_close(scores.total[0], arrays["logits"], relative=1e-5)
    alone = method.encode(levels_of(arrays, "query")[:1], None)
    first = method.score(VideoFeatures(frames=support[None]), alone.view(1, 1), torch.zeros(1, len(support), 0))
    assert_close(first.total[0], arrays["logits_query0_alone"], relative=1e-5)


@golden("sloshnet")
@torch.no_grad()
def test_golden_positions_are_those_of_the_matcher(arrays):
    pe = arrays["w.transformers.0.pe.pe"]
    assert_close(from_golden(arrays).matcher.positions(torch.zeros_like(pe)), pe, relative=1e-5)


@golden("sloshnet")
@torch.no_grad()
def test_golden_weights_in_the_form_of_the_paper_encode_each_video_alone(arrays):
    released = from_golden(arrays)
    matcher = {"type": "TRX", "cardinalities": (1,), "out": 4}
    method = SloshNet(released.backbone, matcher, groups=released.short_term.groups).eval()
    shared = {n: t for n, t in released.state_dict().items() if not n.startswith("matcher.")}
    method.load_state_dict(shared, strict=False)
    levels = levels_of(arrays, "query")
    together = method.encode(levels, None).frames
    assert_close(torch.cat([method.encode(levels[i : i + 1], None).frames for i in range(len(levels))]), together)
    T, C = together.shape[1:]
    x = arrays["query_fused"]
    by_position = method.long_block(x[-1, :, :, 0, -1].view(1, T, C))  # the frames of one video at one position
    assert_close(method.long_term(x)[-1, :, :, 0, -1], by_position[0])


@torch.no_grad()
def test_the_short_term_of_equal_frames_is_minus_half_of_the_values_where_keys_are_queries():
    torch.manual_seed(0)
    short = ShortTerm(8, groups=2)
    short.of_key.load_state_dict(short.of_query.state_dict())
    weight = short.qkv.weight
    weight[8:16] = weight[:8]
    x = torch.randn(2, 1, 8, 3, 3).expand(-1, 4, -1, -1, -1)
    values = torch.einsum("oc,vtchw->vtohw", weight[16:], x)
    assert torch.allclose(short(x), -values / 2, atol=1e-6)
    moving = torch.randn(2, 4, 8, 3, 3)
    last = torch.einsum("oc,vchw->vohw", weight[16:], moving[:, -1])
    assert torch.allclose(short(moving)[:, -1], -last / 2, atol=1e-6)  # no frame follows
    assert not torch.allclose(
        short(moving)[:, 0], -torch.einsum("oc,vchw->vohw", weight[16:], moving[:, 0]) / 2, atol=1e-3
    )


@torch.no_grad()
def test_the_cell_sums_its_operations_and_drops_small_ones():
    levels = list(torch.randn(4, 2, 3, 2, 2))
    cell = SearchCell(drop_below=0.01)
    cell.weights[0].copy_(torch.tensor([[0.0, 0.0, 20.0]]))  # the sum alone
    states = cell(levels)
    assert torch.allclose(states[0], levels[0])
    assert torch.allclose(states[1], levels[0] + levels[1], atol=1e-6)
    cell.weights[0].copy_(torch.tensor([[0.0, -4.7, -20.0]]))  # shares 0.991, 0.009 and nearly 0
    gate = torch.sigmoid(levels[1].mean((2, 3), keepdim=True))
    share = F.softmax(cell.weights[0][0], -1)[0]
    assert torch.allclose(cell(levels)[1], share * (levels[1] + gate * levels[0]), atol=1e-6)
    kept = SearchCell(drop_below=0.0)
    kept.weights[0].copy_(cell.weights[0])
    assert not torch.allclose(cell(levels)[1], kept(levels)[1], atol=1e-4)


def test_weights_start_at_the_official_shares():
    method = SloshNet(Pyramid((4, 8, 16, 32)), {"type": "TRX", "cardinalities": (1,), "out": 4})
    assert torch.allclose(method.state_weights.softmax(-1), torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]))
    assert torch.allclose(method.term_weights.softmax(-1), torch.tensor([0.5, 0.5]))


def test_levels_are_down_sampled_as_often_as_needed():
    widths, strides = (4, 8, 16, 32), (4, 8, 16, 32)
    for level in range(4):
        steps = size_steps(widths[level:], strides[level:])
        assert len(steps) == 3 - level
        side = 16 >> level
        assert steps(torch.zeros(1, widths[level], side, side)).shape == (1, 32, 2, 2)
    assert len(size_steps((32,) * 4, (16,) * 4)) == 0  # a ViT
    (only,) = size_steps((4, 8), (16, 16))
    assert only[2].kernel_size == (1, 1)


def test_a_vit_can_be_trained_and_a_backbone_without_depths_is_refused():
    backbone = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    matcher = {"type": "TRX", "cardinalities": (1,), "out": 4}
    method = SloshNet(backbone, matcher)
    assert [len(steps) for steps in method.modulation] == [0, 0, 0, 0]
    with pytest.raises(NotApplicableError, match="no maps of four depths"):
        SloshNet(GivenFeatures(32), matcher)
