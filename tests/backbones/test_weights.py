"""Weights files as people have them: each loads, or the error says what it is and what to do."""

from __future__ import annotations

import argparse
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from fsar_bench.backbones import CLIPBackbone, ImageBackbone, TransformersVideoBackbone
from fsar_bench.errors import WeightsError


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A whole ResNet of timm, with its classifier."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=10).state_dict()


def load(path, model: str = "test_resnet", crop: int = 64) -> ImageBackbone:
    return ImageBackbone(model, str(path), crop=crop)


@pytest.fixture(scope="module")
def expected(state, tmp_path_factory) -> str:
    """Fingerprint of these weights without the classifier, from the network itself."""
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=10)
    network.reset_classifier(0)
    backbone = ImageBackbone("test_resnet", None, crop=64)
    backbone.network.load_state_dict(network.state_dict())
    return backbone.fingerprint()


WRAPPED = {
    "plain": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 1},
    "model_state": lambda s: {"model_state": s, "optimizer_state": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "state_dict_ema": lambda s: {"epoch": 1, "state_dict_ema": s},
    "two keys deep": lambda s: {"checkpoint": {"model": s}},
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "backbone": lambda s: {**{f"backbone.{k}": v for k, v in s.items()}, "cls_head.fc.weight": torch.zeros(3)},
    "model.visual": lambda s: {"state_dict": {f"model.visual.{k}": v for k, v in s.items()}},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_below_keys_and_behind_prefixes_load(state, expected, tmp_path, name):
    if name == "half":
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
        torch.save(state, tmp_path / "rounded.pt")
        expected = load(tmp_path / "rounded.pt").fingerprint()
    torch.save(WRAPPED[name](state), tmp_path / "weights.pt")
    assert load(tmp_path / "weights.pt").fingerprint() == expected


def test_the_format_is_read_from_the_content(state, expected, tmp_path):
    save_file(state, tmp_path / "named.pt")
    torch.save(state, tmp_path / "named.safetensors")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("named.pt", "named.safetensors", "old.pth"):
        assert load(tmp_path / name).fingerprint() == expected


def test_a_folder_with_one_file_loads(state, expected, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "model.bin")
    assert load(tmp_path).fingerprint() == expected
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(
        WeightsError, match=r"holds 3 weights files \(model\.bin, model\.safetensors, other\.pt\), not one"
    ):
        load(tmp_path)


def without(state: dict, name: str) -> dict:
    return {k: v for k, v in state.items() if k != name}


REFUSED = {  # how it is written, what the error says
    "pointer": (lambda s, p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git-lfs pointer"),
    "page": (lambda s, p: p.write_text("\n<!DOCTYPE html><html></html>"), r"web page \(HTML\)"),
    "empty": (lambda s, p: p.write_bytes(b""), r"empty \(0 bytes\)"),
    "text": (lambda s, p: p.write_text("no weights"), "no file of torch, or damaged"),
    "objects": (lambda s, p: torch.save({"m": s, "a": argparse.Namespace()}, p), r"Python objects \(argparse\.Namespace\)"),
    "nothing": (lambda s, p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
    "twice": (lambda s, p: torch.save({"model": s, "model_ema": s}, p), "below several keys \\('model', 'model_ema'\\)"),
    "shape": (
        lambda s, p: torch.save({"model": {**s, "conv1.0.weight": torch.zeros(2, 3)}}, p),
        r"below the key 'model', conv1\.0\.weight has the shape \[2, 3\] in the file, but \[.*\] in the model",
    ),
    "missing": (lambda s, p: torch.save(without(s, "conv1.0.weight"), p), r"lacks 1 of .* tensors, such as conv1\.0\.weight"),
    "more": (lambda s, p: torch.save({**s, "layer9.x": torch.zeros(1)}, p), r"holds 1 tensors that .* such as layer9\.x"),
    "foreign": (lambda s, p: torch.save({"a.b": torch.zeros(1)}, p), r"few of its 1 tensors .* such as a\.b"),
    "transformers": (
        lambda s, p: torch.save({"encoder.layer.0.attention.attention.query.weight": torch.zeros(1)}, p),
        "named as in the library transformers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_weights_is_named(state, tmp_path, name, suffix):
    write, match = REFUSED[name]
    path = tmp_path / f"mine{suffix}"
    write(state, path)
    with pytest.raises(WeightsError, match=rf"mine\{suffix} cannot be loaded into test_resnet: .*{match}") as caught:
        load(path)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(state, tmp_path):
    for name, save in (("a.pt", torch.save), ("a.safetensors", save_file)):
        save(state, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match=rf"{re.escape(name)} cannot be loaded into test_resnet"):
            load(tmp_path / name)


@torch.no_grad()
def test_official_names_and_other_image_sizes_are_converted_as_timm_does(tmp_path):
    """A file stands for a tag: what timm's own loading converts is converted here, too."""
    torch.manual_seed(1)
    network = timm.create_model("convnext_atto", num_classes=10)
    official = {  # the names of the authors' code
        k.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace("conv_dw", "dwconv")
        .replace("mlp.fc", "pwconv").replace("head.norm.", "norm.").replace("head.fc.", "head."): v
        for k, v in network.state_dict().items()
    }  # fmt: skip
    official = {re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", k): v for k, v in official.items()}
    assert "downsample_layers.0.0.weight" in official
    torch.save({"model": official}, tmp_path / "official.pth")
    network.reset_classifier(0)
    backbone = load(tmp_path / "official.pth", "convnext_atto", 32).eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.allclose(backbone.network(pixels), network.eval()(pixels), atol=1e-6)

    vit = timm.create_model("test_vit", num_classes=10, img_size=64)
    torch.save(vit.state_dict(), tmp_path / "vit64.pth")
    assert load(tmp_path / "vit64.pth", "test_vit", 96).network.pos_embed.shape == (1, 37, 64)


def test_a_clip_file_with_one_tower_or_of_another_size_is_named(tmp_path, backbone):
    clip = backbone.clip.state_dict()
    tower = {k.removeprefix("visual."): v for k, v in clip.items() if k.startswith("visual.")}
    torch.save(tower, tmp_path / "tower.pt")
    torch.save({**clip, "visual.positional_embedding": torch.zeros(50, 7)}, tmp_path / "size.pt")
    torch.save({f"clip.{k}": v for k, v in clip.items()}, tmp_path / "prefix.pt")

    def load_clip(name: str) -> CLIPBackbone:
        return CLIPBackbone("synthact_clip", str(tmp_path / name), quick_gelu=False, resize=60, crop=60)

    assert load_clip("prefix.pt").fingerprint() == backbone.fingerprint()
    shape = list(clip["visual.positional_embedding"].shape)
    with pytest.raises(
        WeightsError, match=rf"positional_embedding has the shape \[50, 7\] .* \[{shape[0]}, {shape[1]}\]"
    ):
        load_clip("size.pt")
    with pytest.raises(WeightsError, match=r"tower\.pt cannot be loaded into synthact_clip"):
        load_clip("tower.pt")


def test_the_video_encoder_reads_the_same_files(tmp_path):
    small = {"image_size": 32, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_frames": 4}
    source = TransformersVideoBackbone("videomae", None, 4, architecture=small)
    torch.save(
        {"model": {f"module.videomae.{k}": v for k, v in source.network.state_dict().items()}}, tmp_path / "a.pt"
    )
    loaded = TransformersVideoBackbone("videomae", str(tmp_path / "a.pt"), 4, architecture=small)
    assert loaded.fingerprint() == source.fingerprint()
    (tmp_path / "b.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save({"blocks.0.attn.q_bias": torch.zeros(48)}, tmp_path / "c.pt")
    for name, match in (("b.pt", "git-lfs pointer"), ("c.pt", r"named as in transformers: it has such as blocks\.0")):
        with pytest.raises(WeightsError, match=match):
            TransformersVideoBackbone("videomae", str(tmp_path / name), 4, architecture=small)
