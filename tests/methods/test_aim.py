"""AIM: golden towers of the official code, parameter counts, identity at the start."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden, share_of, under
from helpers import clip_tower, vit_b_16_on_meta

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch
from fsar_bench.methods.aim import AIM

T, CROP, D, C = 4, 32, 32, 24
NAMES = {"T_Adapter": "time", "T_Adapter_in": "before_time", "S_Adapter": "space", "MLP_Adapter": "joint"}
OTAM = {"type": "OTAM"}


def ours(state: dict) -> dict:
    """The trained state, from official names."""
    trained = {"temporal_embedding": state["temporal_embedding"][0][:, None]}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "transformer" and parts[3] in NAMES:
            layer = {"D_fc1": "down", "D_fc2": "up"}[parts[4]]
            trained[f"adapted.{parts[2]}.{NAMES[parts[3]]}.{layer}.{parts[5]}"] = value
    return trained


@golden("aim")
@pytest.mark.parametrize("adapters", [1, 2])
@torch.no_grad()
def test_golden_tower(arrays, adapters):
    state = under(arrays, f"t{adapters}.w.")
    frames = arrays["frames"].transpose(1, 2)
    hidden, D = state["transformer.resblocks.0.S_Adapter.D_fc1.weight"].shape
    method = AIM(
        clip_tower(state, int(arrays["heads"])),
        OTAM,
        adapter_ratio=share_of(hidden, D),
        joint_scale=float(arrays[f"t{adapters}.scale"]),
        num_temporal_adapters=adapters,
        project=False,
        frames=frames.shape[1],
    )
    left_out = method.load_state_dict(ours(state), strict=False)
    assert not left_out.unexpected_keys
    assert all(name.startswith("backbone.") for name in left_out.missing_keys)
    assert_close(method.embed(frames, None).frames, arrays[f"t{adapters}.features"], relative=1e-5)


@pytest.mark.parametrize(("changes", "trainable"), [({}, 10_657_536), ({"num_temporal_adapters": 2}, 14_208_000)])
def test_parameter_counts_on_b_16(changes, trainable):
    with torch.device("meta"):
        assert AIM(vit_b_16_on_meta(), OTAM, **changes).parameter_counts()["trainable"] == trainable


@pytest.fixture(scope="module")
def backbone() -> CLIPBackbone:
    """A tiny CLIP of random weights, not to be changed by tests."""
    torch.manual_seed(0)
    return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=CROP, crop=CROP).eval()


def make(backbone, **changes) -> AIM:
    torch.manual_seed(1)
    return AIM(backbone, **{"matcher": OTAM, "frames": T, **changes}).eval()


@pytest.fixture
def frames():
    return torch.randint(0, 256, (3, T, 3, CROP, CROP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stir(method: AIM, *, embedding: bool = True) -> AIM:
    """Move the trained parameters away from their initial values."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if parameter.requires_grad and (embedding or name != "temporal_embedding"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return method


@torch.no_grad()
@pytest.mark.parametrize("adapters", [1, 2])
def test_the_tower_starts_as_the_frozen_one_bit_for_bit(backbone, frames, adapters):
    method = make(backbone, num_temporal_adapters=adapters)
    x = backbone.embed_tokens(frames)
    for block in backbone.blocks():
        x = block(x)
    assert torch.equal(method.embed(frames, None).frames.flatten(0, 1), backbone.read_tokens(x))
    assert torch.allclose(method.embed(frames, None).frames, backbone.encode_frames(frames), atol=1e-6)
    assert not torch.allclose(stir(method).embed(frames, None).frames, backbone.encode_frames(frames), atol=1e-2)


@torch.no_grad()
def test_frames_are_projected_or_class_tokens(backbone, frames):
    plain = make(backbone, project=False).embed(frames, None).frames
    assert plain.shape == (3, T, D)
    assert torch.allclose(plain @ backbone.visual.proj, make(backbone).embed(frames, None).frames, atol=1e-6)
    assert make(backbone, project=False, matcher={"type": "TRX"}).matcher is not None  # is sized by D


def episode() -> EpisodeBatch:
    g = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (5, T, 3, CROP, CROP), dtype=torch.uint8, generator=g)
    return EpisodeBatch(
        support=pixels[:2].view(1, 2, 1, T, 3, CROP, CROP),
        query=pixels[None, 2:],
        labels=torch.tensor([[0, 1, 1]]),
        classes=torch.tensor([[0, 1]]),
        class_text=torch.zeros(1, 2, C),
    )


def test_only_adapters_and_temporal_embedding_are_trained_and_down_waits_for_up(backbone):
    method = make(backbone)
    method.loss(episode())["loss"].backward()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert all(name.startswith(("adapted.", "temporal_embedding")) for name in trained)
    for name, parameter in trained.items():
        moves = parameter.grad is not None and bool(parameter.grad.any())
        assert moves != (".down." in name), name  # behind an up-projection of zeros
    assert all(p.grad is None for p in backbone.parameters())


@torch.no_grad()
def test_frames_are_a_set_while_the_temporal_embedding_is_zero(backbone, frames):
    order = [2, 0, 3, 1]
    method = stir(make(backbone), embedding=False)
    shuffled = method.embed(frames[:, order], None).frames
    assert torch.allclose(shuffled, method.embed(frames, None).frames[:, order], atol=1e-5)
    stir(method)
    shuffled = method.embed(frames[:, order], None).frames
    assert not torch.allclose(shuffled, method.embed(frames, None).frames[:, order], atol=1e-2)
    assert make(backbone).traits.order_sensitive
    assert not make(backbone, temporal_embedding=False, matcher={"type": "BiMHM"}).traits.order_sensitive


@torch.no_grad()
def test_a_single_frame_attends_to_itself(backbone, frames):
    method = stir(make(backbone, frames=1))
    assert torch.isfinite(method.embed(frames[:, :1], None).frames).all()


def test_a_third_temporal_adapter_is_refused(backbone):
    with pytest.raises(ConfigError, match="num_temporal_adapters=3 must be 1 or 2"):
        make(backbone, num_temporal_adapters=3)
