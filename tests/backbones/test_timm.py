"""`ImageBackbone` on models of timm of all kinds: features as timm gives them, maps, sizes, tags, batch norm."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import EvoNorm2dB0
from torch import nn

from fsar_bench.backbones import ImageBackbone
from fsar_bench.errors import ConfigError, WeightsError
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.methods.strm import STRM
from fsar_bench.testing import MethodTester

KINDS = {  # model: (crop, activation, pixels per position of a map, tokens before the patches)
    "test_resnet": (64, "ReLU", 32, None),
    "test_convnext": (64, "GELU (tanh)", 32, None),
    "test_efficientnet": (64, "SiLU", 32, None),
    "test_efficientnet_evos": (64, "SiLU", 32, None),
    "mobilenetv3_small_050": (64, "ReLU, hard swish", 32, None),  # a layer after the pooling
    "test_nfnet": (64, "ReLU, SiLU", 32, None),
    "test_maxvit": (160, "GELU, SiLU", 32, None),
    "test_mambaout": (64, "GELU, SiLU", 32, None),  # [B, h, w, C]
    "swin_tiny_patch4_window7_224": (64, "GELU", 32, None),  # [B, h, w, C], an image size of its own
    "regnetx_002": (64, "ReLU", 32, None),
    "test_vit": (64, "GELU", 16, 1),
    "test_vit_relpos": (64, "GELU, ReLU", 16, 0),
    "deit_tiny_distilled_patch16_224": (64, "GELU", 16, 2),
    "vit_small_patch14_reg4_dinov2": (56, "GELU", 14, 5),
    "vit_base_patch32_siglip_256": (64, "GELU (tanh)", 32, 0),  # attention pooling, no class token
    "eva02_tiny_patch14_224": (56, "SiLU", 14, 1),
    "vit_tiny_r_s16_p8_224": (64, "GELU, ReLU", 32, 1),  # a ViT on a ResNet
    "hiera_tiny_224": (64, "GELU", 32, 0),
}  # fmt: skip


def build(model: str, **changes) -> ImageBackbone:
    torch.manual_seed(0)
    return ImageBackbone(model, None, **{"crop": KINDS[model][0], **changes}).eval()


def frames_for(backbone: ImageBackbone, V: int = 2, T: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (V, T, 3, backbone.crop, backbone.crop), dtype=torch.uint8, generator=g)


@torch.no_grad()
@pytest.mark.parametrize("model", KINDS)
def test_features_are_those_of_timm(model):
    """What `num_classes=0` gives, and what timm calls the features before the classifier, of a network built apart."""
    crop, activation, stride, prefix = KINDS[model]
    backbone = build(model)
    try:
        apart = timm.create_model(model, num_classes=0, img_size=crop).eval()
    except TypeError:
        apart = timm.create_model(model, num_classes=0).eval()
    apart.load_state_dict(backbone.network.state_dict())
    frames = frames_for(backbone)
    pixels = (frames.flatten(0, 1) / 255 - backbone.mean) / backbone.std
    features = apart.forward_features(pixels)
    ours = backbone.encode_frames(frames)
    assert ours.shape == (2, 2, backbone.embedding_width)
    assert torch.allclose(ours.flatten(0, 1), apart(pixels), atol=1e-5)
    assert torch.allclose(ours.flatten(0, 1), apart.forward_head(features, pre_logits=True), atol=1e-5)
    maps = backbone.encode_maps(frames)
    assert (backbone.map_stride, backbone.activation) == (stride, activation)
    assert maps.shape == (2, 2, backbone.map_width, crop // stride, crop // stride)
    expected = features if prefix is None else features[:, prefix:]
    if prefix is None and features.shape[-1] != maps.shape[-1]:
        expected = features.flatten(1, 2)  # channels last
    if expected.ndim == 4:
        expected = expected.flatten(2).transpose(1, 2)
    found = maps.flatten(0, 1).flatten(2).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-5) if backbone.is_channels_last else torch.equal(found, expected)
    levels = backbone.encode_pyramid(frames)
    assert [level.shape[2] for level in levels] == list(backbone.pyramid_widths)
    assert [crop // level.shape[-1] for level in levels] == list(backbone.pyramid_strides)
    assert torch.allclose(levels[-1], maps, atol=1e-5)
    assert backbone.pyramid_strides == (
        (4, 8, 16, 32) if prefix is None or model == "hiera_tiny_224" else (stride,) * 4
    )


@pytest.mark.parametrize("model", ["test_vit", "vit_base_patch32_siglip_256", "mobilenetv3_small_050", "test_mambaout"])
def test_tuning_for_maps_leaves_out_what_maps_do_not_pass(model):
    backbone = build(model)
    backbone.requires_grad_(False)
    backbone.tune_visual(maps=True)
    backbone.encode_maps(frames_for(backbone)).square().sum().backward()
    reached = {n for n, p in backbone.named_parameters() if p.grad is not None}
    assert {n for n, p in backbone.named_parameters() if p.requires_grad} == reached
    pooling = [n for n, _ in backbone.named_parameters() if "attn_pool" in n or "conv_head" in n or "head." in n]
    assert not reached & set(pooling)
    assert bool(pooling) == (model != "test_vit")


@torch.no_grad()
@pytest.mark.parametrize("model", ["test_efficientnet", "mobilenetv3_small_050"])
def test_batch_norm_of_any_kind_uses_no_batch_statistics_unless_asked(model):
    backbone = build(model).train()
    frames = frames_for(backbone, V=3)
    before = backbone.fingerprint()
    apart = torch.cat([backbone.encode_frames(frames[:1]), backbone.encode_frames(frames[1:])])
    assert torch.allclose(apart, backbone.encode_frames(frames), atol=1e-5)
    assert backbone.fingerprint() == before
    learning = build(model, train_batch_norm=True).train()
    learning.encode_frames(frames)
    assert learning.fingerprint() != before


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8, affine=False), EvoNorm2dB0(8)])
def test_batch_norm_without_weights_or_of_another_library_follows_too(norm):
    for allowed in (True, False):
        backbone = build("test_resnet", train_batch_norm=allowed)
        backbone.network.add_module("other", norm)
        assert backbone.requires_grad_(True).train().network.other.training == allowed
        assert not backbone.requires_grad_(False).train().network.other.training


def test_sizes_and_normalisation_are_those_of_the_weights():
    """The description that timm has of the weights: image size, share of the crop, mean."""
    for model, pretrained, resize, crop, mean in (
        ("test_resnet", None, 168, 160, 0.5),
        ("convnext_atto", None, 256, 224, 0.485),
        ("test_vit", None, 168, 160, 0.5),
    ):
        backbone = ImageBackbone(model, pretrained)
        assert (backbone.resize, backbone.crop) == (resize, crop)
        assert backbone.mean.flatten()[0].item() == pytest.approx(mean)
        assert backbone.pretraining == "none (random weights)"
    small = ImageBackbone("convnext_atto", None, crop=112)
    assert (small.resize, small.crop) == (128, 112)


def test_the_default_tag_is_that_of_timm(monkeypatch):
    calls = []
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        calls.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    backbone = ImageBackbone("convnext_atto", "default")
    assert calls[-1] == ("convnext_atto.d2_in1k", True)
    assert backbone.pretraining == "d2_in1k"
    assert ImageBackbone("convnext_atto", "default", pretraining="mine").pretraining == "mine"


def test_weights_that_are_not_there_are_named_with_their_tag():
    with pytest.raises(WeightsError, match=r"'r160_in1k' of test_resnet are not on this machine"):
        ImageBackbone("test_resnet", "default")


def test_unknown_models_and_tags_get_suggestions():
    for model, hint in (("convnext-tiny", "'convnext_tiny'"), ("resnet500", "'resnet50'"), ("dinov2", "dinov2'")):
        with pytest.raises(ConfigError, match=rf"timm has no model '{model}'\. Did you mean .*{hint}") as caught:
            ImageBackbone(model, None)
        assert len(str(caught.value)) < 500
    with pytest.raises(ConfigError, match="model='resnet50', pretrained='tv_in1k'"):
        ImageBackbone("resnet50.tv_in1k", None)
    with pytest.raises(ConfigError, match=r"no weights 'tv_1k' of resnet50\. Did you mean 'tv_in1k'.*a1_in1k"):
        ImageBackbone("resnet50", "tv_1k")
    with pytest.raises(ConfigError, match="timm has no pretrained weights of test_coatnet"):
        ImageBackbone("test_coatnet", "default")


def test_a_crop_that_does_not_fit_is_named():
    for model, crop in (("xcit_nano_12_p16_224", 100), ("levit_128s", 100)):
        with pytest.raises(ConfigError, match=rf"timm cannot build {model} for images of crop={crop} pixels"):
            ImageBackbone(model, None, crop=crop)


@torch.no_grad()
def test_a_model_without_maps_says_so_when_they_are_asked_for():
    backbone = ImageBackbone("pit_ti_224", None)
    frames = frames_for(backbone, V=1, T=1)
    assert backbone.encode_frames(frames).shape == (1, 1, 256)
    with pytest.raises(ConfigError, match="pit_ti_224 has no feature maps on one grid"):
        backbone.encode_maps(frames)


@pytest.mark.parametrize("model", ["vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"])
def test_adapters_refuse_vits_with_further_tokens(model):
    with pytest.raises(ConfigError, match=f"{model} has [25] tokens before its patches, but adapters expect one"):
        build(model).blocks()


@pytest.mark.parametrize("model", ["test_efficientnet", "eva02_tiny_patch14_224", "test_vit_relpos"])
def test_adapters_refuse_what_is_no_plain_vit(model):
    with pytest.raises(ConfigError, match=f"{model} has no transformer blocks: choose a ViT"):
        build(model).blocks()


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("test_convnext", lambda b: MetricMethod(b, {"type": "OTAM"}, tune="visual")),
        ("test_mambaout", lambda b: STRM(b, {"type": "TRX", "cardinalities": [2]}, frames=2)),
    ],
)
def test_methods_keep_their_contract_on_other_families(model, method):
    tester = MethodTester(lambda: method(build(model, crop=32)), frames=2, crop=32, text_width=0)
    for name in (
        "scores have the shape and are finite",
        "videos encoded one by one score the same",
        "gradients reach what is trained and nothing else",
    ):
        assert tester.check(name).state == "holds", tester.check(name).reason
