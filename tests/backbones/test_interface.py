"""The interface of backbones: frame features, feature maps, blocks for adapters, batch norm, weights from files."""

from __future__ import annotations

import json

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fsar_bench.backbones import CLIPBackbone, ImageBackbone
from fsar_bench.backbones.backbone import quarters
from fsar_bench.errors import ConfigError, NotApplicableError, WeightsError
from fsar_bench.io import cache_folder
from fsar_bench.method import FewShotMethod, Traits
from fsar_bench.methods.ma_clip import MACLIP

BUILDERS = {
    "clip_vit": lambda **k: CLIPBackbone("synthact_clip", None, quick_gelu=False, resize=60, crop=60, **k),
    "clip_resnet": lambda **k: CLIPBackbone("tiny_rn", None, quick_gelu=True, resize=64, crop=64, **k),
    "resnet": lambda **k: ImageBackbone("test_resnet", None, resize=64, crop=64, **k),
    "vit": lambda **k: ImageBackbone("test_vit", None, resize=64, crop=64, **k),
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_modified_resnet(tmp_path_factory):
    """Teach open_clip a small CLIP whose image tower is a ModifiedResNet, as in RN50."""
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    path = tmp_path_factory.mktemp("models") / "tiny_rn.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module", params=BUILDERS)
def any_backbone(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]().eval()


def frames_for(backbone, V: int = 2, T: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (V, T, 3, backbone.crop, backbone.crop), dtype=torch.uint8, generator=g)


@torch.no_grad()
def test_shapes_are_those_declared(any_backbone):
    frames = frames_for(any_backbone)
    side = any_backbone.crop // any_backbone.map_stride
    assert any_backbone.encode_frames(frames).shape == (2, 2, any_backbone.embedding_width)
    assert any_backbone.encode_maps(frames).shape == (2, 2, any_backbone.map_width, side, side)
    if any_backbone.has_text:
        assert any_backbone.encode_text(["a", "b"]).shape == (2, any_backbone.embedding_width)
    else:
        with pytest.raises(ConfigError, match="has no text encoder: choose a CLIP backbone"):
            any_backbone.encode_text(["a"])


@torch.no_grad()
def test_blocks_and_readout_are_the_encoder(any_backbone):
    """Running the parts of every block as a block does gives the frame features."""
    frames = frames_for(any_backbone)
    if any_backbone.name in ("tiny_rn", "test_resnet"):
        for call in (
            any_backbone.blocks,
            lambda: any_backbone.embed_tokens(frames),
            lambda: any_backbone.read_tokens(frames),
        ):
            with pytest.raises(ConfigError, match=f"{any_backbone.name} has no transformer blocks: choose a ViT"):
                call()
        return
    x = any_backbone.embed_tokens(frames)
    for block in any_backbone.blocks():
        x = x + block.attend(block.norm1(x), x.shape[1])
        x = x + block.mlp(block.norm2(x))
    read = any_backbone.read_tokens(x).unflatten(0, (2, 2))
    assert torch.allclose(read, any_backbone.encode_frames(frames), atol=1e-5)
    tokens = any_backbone.blocks()[0].norm1(any_backbone.embed_tokens(frames))
    first_three = any_backbone.blocks()[0].attend(tokens, 3)
    assert torch.allclose(first_three, any_backbone.blocks()[0].attend(tokens, tokens.shape[1])[:, :3], atol=1e-5)
    moved = any_backbone.embed_tokens(frames, torch.randn(2, 1, tokens.shape[-1]))
    assert not torch.allclose(moved, any_backbone.embed_tokens(frames), atol=1e-3)


@torch.no_grad()
def test_the_pyramid_of_a_vit_holds_the_patches_after_each_quarter_of_its_blocks(any_backbone):
    if any_backbone.name in ("tiny_rn", "test_resnet"):
        assert any_backbone.pyramid_strides == (4, 8, 16, 32)
        return
    frames = frames_for(any_backbone)
    x, after = any_backbone.embed_tokens(frames), []
    for block in any_backbone.blocks():
        x = x + block.attend(block.norm1(x), x.shape[1])
        x = x + block.mlp(block.norm2(x))
        after.append(x)
    assert len(after) == 6
    expected = [
        after[1],
        after[2],
        after[4],
        any_backbone.norm_tokens(after[5]),
    ]  # 1.5, 3, 4.5 and 6 blocks, rounded up
    for level, tokens in zip(any_backbone.encode_pyramid(frames), expected, strict=True):
        assert torch.allclose(level.flatten(0, 1).flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)


@pytest.mark.parametrize(("blocks", "numbers"), [(12, [2, 5, 8, 11]), (6, [1, 2, 4, 5]), (2, [0, 0, 1, 1])])
def test_quarters_of_blocks(blocks, numbers):
    assert quarters(blocks) == numbers


class ReadsPyramid(FewShotMethod):
    reads = "pyramid"
    role_free = True
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=False)


def test_a_method_that_reads_the_pyramid_is_given_four_levels_and_trains_what_they_pass_through(any_backbone):
    method = ReadsPyramid(any_backbone)
    assert method.role_blind_embedding
    assert not method.shares_embedding  # maps are too large to cache
    method.tune("visual")
    levels = dict(method.embed(frames_for(any_backbone), None).items())
    assert list(levels) == ["level0", "level1", "level2", "level3"]
    assert tuple(level.shape[2] for level in levels.values()) == any_backbone.pyramid_widths
    sum(level.square().sum() for level in levels.values()).backward()
    without = [n for n, p in any_backbone.named_parameters() if p.requires_grad and p.grad is None]
    any_backbone.requires_grad_(False)
    any_backbone.zero_grad(set_to_none=True)
    assert without == []


@torch.no_grad()
def test_a_network_of_fewer_depths_has_no_pyramid():
    backbone = ImageBackbone("test_convnext", None, resize=64, crop=64)
    backbone.network.feature_info = backbone.network.feature_info[1:]
    backbone._set_pyramid()
    with pytest.raises(NotApplicableError, match="test_convnext has no maps of four depths: choose a ResNet or a ViT"):
        backbone.encode_pyramid(frames_for(backbone))


def test_maps_leave_no_parameter_without_a_gradient(any_backbone):
    any_backbone.requires_grad_(False)
    any_backbone.tune_visual(maps=True)
    any_backbone.encode_maps(frames_for(any_backbone)).square().sum().backward()
    without = [n for n, p in any_backbone.named_parameters() if p.requires_grad and p.grad is None]
    any_backbone.requires_grad_(False)
    any_backbone.zero_grad(set_to_none=True)
    assert without == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip_resnet", "resnet"])
def test_batch_norm_stays_in_eval_mode_so_that_roles_can_be_encoded_separately(name):
    torch.manual_seed(0)
    backbone = BUILDERS[name]().train()
    frames = frames_for(backbone, V=3)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    apart = torch.cat([backbone.encode_frames(frames[:1]), backbone.encode_frames(frames[1:])])
    assert torch.allclose(apart, backbone.encode_frames(frames), atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    learning = BUILDERS[name](train_batch_norm=True).train()
    modes = {m.training for m in learning.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert modes == {True}
    apart = torch.cat([learning.encode_frames(frames[:1]), learning.encode_frames(frames[1:])])
    assert not torch.allclose(apart, learning.encode_frames(frames), atol=1e-5)


@pytest.mark.parametrize("name", ["clip_resnet", "resnet"])
def test_a_resnet_in_channels_last_gives_the_features_and_gradients_of_the_plain_order(name, monkeypatch):
    """And nothing that leaves it, or is kept of it, is in that order."""
    found = []
    for is_channels_last in (True, False):
        torch.manual_seed(0)
        backbone = BUILDERS[name]().eval()
        assert backbone.is_channels_last == (name == "resnet")  # in training
        with torch.no_grad():
            assert backbone.is_channels_last
        frames = frames_for(backbone)
        monkeypatch.setattr(type(backbone), "is_channels_last", is_channels_last)
        assert backbone.images(frames).is_contiguous() != is_channels_last
        backbone.requires_grad_(False)
        backbone.tune_visual()
        outputs = [backbone.encode_frames(frames), backbone.encode_maps(frames), *backbone.encode_pyramid(frames)]
        sum(output.square().mean() for output in outputs).backward()
        gradients = [parameter.grad for parameter in backbone.visual.parameters()]
        assert all(tensor.is_contiguous() for tensor in (*outputs, *gradients, *backbone.state_dict().values()))
        found.append([*outputs, *gradients])
        monkeypatch.undo()
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-3, atol=1e-5 * plain.abs().max().item() + 1e-9)


def test_a_convolutional_tower_can_be_tuned_but_not_adapted():
    backbone = BUILDERS["clip_resnet"]()
    with pytest.raises(ConfigError, match="tiny_rn has no transformer blocks"):
        MACLIP(backbone, {"type": "OTAM"})
    off = dict.fromkeys(("multimodal", "temporal", "joint"), False)
    method = MACLIP(backbone, {"type": "OTAM"}, tune="visual", **off)
    visual = sum(p.numel() for p in backbone.visual.parameters())
    assert method.parameter_counts()["trainable"] == visual + sum(p.numel() for p in method.prototype.parameters())


@torch.no_grad()
def test_weights_from_files_and_from_the_weights_folder(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model("test_resnet", num_classes=10)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    torch.save(whole.state_dict(), tmp_path / "a.pth")
    folder = cache_folder() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(whole.state_dict(), folder / "test_resnet-mine.safetensors")
    built = [ImageBackbone("test_resnet", p, resize=64, crop=64).eval() for p in (str(tmp_path / "a.pth"), "mine")]
    assert torch.equal(built[0].encode_frames(frames), built[1].encode_frames(frames))
    assert built[0].fingerprint() == built[1].fingerprint()
    whole.reset_classifier(0)
    expected = whole.eval()(built[0].normalise(frames)).unflatten(0, (1, 2))
    assert torch.allclose(built[0].encode_frames(frames), expected, atol=1e-5)


def test_missing_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(WeightsError) as caught:
        ImageBackbone("test_resnet", "r160_in1k", resize=64, crop=64)
    assert str(cache_folder() / "weights" / "test_resnet-r160_in1k.safetensors") in str(caught.value)
    assert "timm.create_model('test_resnet.r160_in1k', pretrained=True)" in str(caught.value)
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors cannot be loaded into test_resnet"):
        ImageBackbone("test_resnet", str(tmp_path / "other.safetensors"), resize=64, crop=64)
    with pytest.raises(ConfigError, match="timm has no model 'resnet5000'"):
        ImageBackbone("resnet5000", None, resize=64, crop=64)


@torch.no_grad()
def test_a_frozen_batch_norm_never_learns():
    torch.manual_seed(0)
    backbone = BUILDERS["resnet"](train_batch_norm=True)
    before = backbone.fingerprint()
    backbone.requires_grad_(False).train()
    backbone.encode_frames(frames_for(backbone))
    assert backbone.fingerprint() == before
    backbone.requires_grad_(True).train()
    backbone.encode_frames(frames_for(backbone))
    assert backbone.fingerprint() != before


def test_normalisation_follows_the_tag_regardless_of_where_its_weights_are():
    folder = cache_folder() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    for tag, mean in (("augreg_in21k", 0.5), ("mine", 0.5)):
        save_file(model.state_dict(), folder / f"vit_tiny_patch16_224-{tag}.safetensors")
        backbone = ImageBackbone("vit_tiny_patch16_224", tag, resize=32, crop=32)
        assert backbone.mean.flatten().tolist() == [mean] * 3
    small = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32)
    save_file(small.state_dict(), folder / "vit_small_patch16_224-dino.safetensors")
    dino = ImageBackbone("vit_small_patch16_224", "dino", resize=32, crop=32)
    assert dino.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@torch.no_grad()
def test_vits_are_sized_to_the_crop():
    for model in ("deit_tiny_patch16_224", "vit_tiny_patch16_224"):
        backbone = ImageBackbone(model, None, resize=64, crop=64)
        assert backbone.encode_maps(frames_for(backbone)).shape == (2, 2, 192, 4, 4)
    with pytest.raises(ConfigError, match=r"timm cannot build vit_tiny_r_s16_p8_224 for images of crop=20 pixels"):
        ImageBackbone("vit_tiny_r_s16_p8_224", None, resize=20, crop=20)
