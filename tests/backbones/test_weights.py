"""Weights files as people have them: each loads, or the error says what it is and what to do."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fsar_bench.backbones import CLIPBackbone, ImageBackbone, TransformersVideoBackbone
from fsar_bench.backbones.reading import read_weights
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
    "two prefixes": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "compiled inside": lambda s: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in s.items()},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
    "the same below two keys": lambda s: {"model": s, "state_dict": dict(s)},
    **{
        key: (lambda s, key=key: {key: s, "epoch": 1})
        for key in ("state_dict", "model_state_dict", "ema", "net", "weights")
    },
    **{
        prefix: (lambda s, p=prefix: {f"{p}{k}": v for k, v in s.items()})
        for prefix in ("model.", "_orig_mod.", "a.b.c.")
    },
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


class Anything:
    """Pickled as a call, as files do that run code when they are loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def changed(state: dict, function) -> dict:
    return {k: function(v) if v.ndim > 1 else v for k, v in state.items()}


def with_nan(state: dict) -> dict:
    broken = {k: v.clone() for k, v in state.items()}
    broken["conv1.0.weight"].flatten()[:3] = float("nan")
    broken["conv1.0.weight"].flatten()[3] = float("inf")
    return broken


def in_zip(path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"weights")


def in_tar(path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))


ERROR = "<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><RequestId>4711</RequestId></Error>"
LORA = {f"base_model.model.conv1.0.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
REFUSED = {  # how it is written, what the error says
    "pointer": (lambda s, p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git-lfs pointer"),
    "page": (lambda s, p: p.write_text("\n<!DOCTYPE html><html></html>"), r"web page \(HTML\)"),
    "titled page": (lambda s, p: p.write_text("<html><title>403 Forbidden</title>"), r"web page \(HTML, '403 Forbidden'\)"),
    "xml": (lambda s, p: p.write_text(ERROR), r"answer of a server \(XML, 'AccessDenied'\)"),
    "json": (lambda s, p: p.write_text('{"error": "Repository not found"}'), "JSON, 'Repository not found'"),
    "config": (lambda s, p: p.write_text('{\n "architectures": ["CLIPModel"]\n}'), "description of a model"),
    "text": (lambda s, p: p.write_text("Entry not found"), "a text of 15 bytes"),
    "empty": (lambda s, p: p.write_bytes(b""), r"empty \(0 bytes\)"),
    "zeros": (lambda s, p: p.write_bytes(bytes(9999)), "begins with zeros"),
    "junk": (lambda s, p: p.write_bytes(bytes(range(255, 0, -1)) * 20), "no file of torch, or damaged"),
    "numpy": (lambda s, p: p.write_bytes(b"\x93NUMPY\x01\0" + bytes(99)), "an array of NumPy"),
    "npz": (lambda s, p: in_zip(p, "a.npy"), r"arrays of NumPy \(\.npz\)"),
    "zip": (lambda s, p: in_zip(p, "new/model.pt"), r"zip archive with model\.pt in it\. Unpack it"),
    "tar": (lambda s, p: in_tar(p, "w"), r"packed archive \(tar\)\. Unpack it"),
    "tar.gz": (lambda s, p: in_tar(p, "w:gz"), r"packed archive \(gzip\)\. Unpack it"),
    "onnx": (lambda s, p: p.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(99)), "a model of ONNX"),
    "flax": (lambda s, p: p.write_bytes(b"\x81\xa6params\x82\xaatext_model" + bytes(99)), "Flax"),
    "keras": (lambda s, p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "TensorFlow or Keras"),
    "gguf": (lambda s, p: p.write_bytes(b"GGUF\x03\0\0\0" + bytes(99)), "GGUF"),
    "objects": (lambda s, p: torch.save({"m": s, "a": argparse.Namespace()}, p), r"Python objects \(argparse\.Namespace\)"),
    "scalar": (lambda s, p: torch.save({"m": s, "best": np.float64(1)}, p), r"multiarray\.scalar.* save the state dict alone"),
    "optimizer": (lambda s, p: torch.save(torch.optim.SGD([torch.ones(1, requires_grad=True)]), p), r"\(torch\.optim\.sgd\.SGD"),
    "whole model": (lambda s, p: torch.save(torch.nn.Linear(2, 2), p), r"whole pickled model \(class torch\..*\.Linear\)"),
    "old whole model": (
        lambda s, p: torch.save(torch.nn.Linear(2, 2), p, _use_new_zipfile_serialization=False),
        r"whole pickled model \(class torch\..*\.Linear\)",
    ),
    "plain pickle": (lambda s, p: p.write_bytes(pickle.dumps({"a": np.ones(2)})), r"numpy\.ndarray"),
    "nothing": (lambda s, p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
    "list": (lambda s, p: torch.save({"shadow_params": list(s.values())}, p), "holds no tensors by name"),
    "twice": (
        lambda s, p: torch.save({"model": s, "model_ema": changed(s, lambda t: t + 1)}, p),
        "below several keys \\('model', 'model_ema'\\)",
    ),
    "two prefixes": (
        lambda s, p: torch.save({f"{who}.{k}": v + n for n, who in enumerate(("student", "teacher")) for k, v in s.items()}, p),
        r"behind several prefixes \('student\.', 'teacher\.'\)",
    ),
    "shape": (
        lambda s, p: torch.save({"model": {**s, "conv1.0.weight": torch.zeros(2, 3)}}, p),
        r"below the key 'model', conv1\.0\.weight has the shape \[2, 3\] in the file, but \[.*\] in the model",
    ),
    "missing": (lambda s, p: torch.save(without(s, "conv1.0.weight"), p), r"lacks 1 of .* tensors, such as conv1\.0\.weight"),
    "more": (
        lambda s, p: torch.save({**s, "layer9.x": torch.zeros(1), "y": torch.zeros(1)}, p),
        r"holds 2 tensors that .* such as layer9\.x, y\.",
    ),
    "foreign": (lambda s, p: torch.save({"a.b": torch.zeros(1)}, p), r"none of the model's \d+ tensors .* such as a\.b"),
    "transformers": (
        lambda s, p: torch.save({"encoder.layer.0.attention.attention.query.weight": torch.zeros(1)}, p),
        "named as in the library transformers",
    ),
    "adapter": (lambda s, p: torch.save(LORA, p), r"2 tensors of an adapter \(LoRA.*Merge it"),
    "model and adapter": (lambda s, p: torch.save({**s, "conv1.0.lora_A.weight": torch.ones(1)}, p), r"1 tensors of an adapter"),
    "4 bits": (
        lambda s, p: torch.save({f"{k.removesuffix('weight')}qweight": v for k, v in s.items()}, p),
        r"its weights are quantised \(\d+ tensors such as .*qweight\)",
    ),
    "int8": (lambda s, p: torch.save(changed(s, lambda t: t.to(torch.int8)), p), r"conv1\.0\.weight is int8"),
    "fp8": (lambda s, p: torch.save(changed(s, lambda t: t.to(torch.float8_e4m3fn)), p), r"is float8_e4m3fn.*in float32"),
    "fp8 safetensors": (lambda s, p: save_file(changed(s, lambda t: t.to(torch.float8_e5m2)), p), "is float8_e5m2"),
    "quantised": (
        lambda s, p: torch.save(changed(s, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)), p),
        "is qint8",
    ),
    "sparse": (
        lambda s, p: torch.save({k: v.to_sparse() if v.ndim == 4 else v for k, v in s.items()}, p),
        r"conv1\.0\.weight is sparse",
    ),
    "no values": (lambda s, p: torch.save({k: v.to("meta") for k, v in s.items()}, p), "is without values"),
    "complex": (lambda s, p: torch.save(changed(s, lambda t: t.to(torch.complex64)), p), "is complex64"),
    "nan": (lambda s, p: torch.save(with_nan(s), p), r"1 of its \d+ tensors .* NaN or infinite \(conv1\.0\.weight: 4 of \d+\)"),
    "nan in half": (
        lambda s, p: torch.save({k: v.half() if v.is_floating_point() else v for k, v in with_nan(s).items()}, p),
        r"NaN or infinite \(conv1\.0\.weight: 4 of",
    ),
    "too large": (lambda s, p: torch.save(changed(s, lambda t: t.double() + 1e300), p), "NaN or infinite"),
    "all zeros": (lambda s, p: torch.save(changed(s, torch.zeros_like), p), "matrices are zeros alone"),
}  # fmt: skip


def check_refusal(build, path, name: str) -> str:
    """The message of a file that is refused: one paragraph in plain words."""
    write, match = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about quantised and sparse tensors
        write(STATE, path)
        with pytest.raises(
            WeightsError, match=rf"{re.escape(path.name)} cannot be loaded into \w+: .*{match}"
        ) as caught:
            build(path)
    message = str(caught.value)
    for noise in ("weights_only", "\n", "tensor(", "<class", "dtype=", "Error:", "\x1b"):
        assert noise not in message
    assert message.endswith(".")
    return message


STATE = timm.create_model("test_resnet", num_classes=10).state_dict()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_weights_is_named(tmp_path, name, suffix):
    check_refusal(load, tmp_path / f"mine{suffix}", name)


CONTENT = [name for name in REFUSED if list(REFUSED).index(name) < list(REFUSED).index("twice")]
SMALL = {"image_size": 32, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_frames": 4}


@pytest.mark.parametrize("name", CONTENT)
def test_every_kind_of_backbone_names_it(tmp_path, name):
    builders = (
        lambda path: CLIPBackbone("tiny_clip", str(path), quick_gelu=False, resize=32, crop=32),
        lambda path: TransformersVideoBackbone("videomae", str(path), 4, architecture=SMALL),
    )
    for build in builders:
        check_refusal(build, tmp_path / "mine.pt", name)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(("function", "name"), [(os.system, "posix.system"), (eval, "__builtin__.eval")])
def test_files_that_would_run_code_run_none_and_are_named(tmp_path, state, old, function, name):
    proof = tmp_path / "proof"
    call = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w')"
    content = {"model": state, "epoch": Anything(function, call)}
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match=rf"call {re.escape(name)} when they are loaded.*source that you trust"):
        load(tmp_path / "bad.pt")
    assert not proof.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)  # the file is as bad as it is meant to be
    assert proof.exists()


def test_unfinished_downloads_parts_and_links_are_named_by_their_names(state, tmp_path):
    for name in ("a.pt.crdownload", "a.safetensors.part", "a.pt.incomplete"):
        torch.save(state, tmp_path / name)
        with pytest.raises(WeightsError, match=r"by its name .* download that was not finished"):
            load(tmp_path / name)
    torch.save(state, tmp_path / "b.pt")
    (tmp_path / "b.pt.aria2").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"b\.pt\.aria2 is next to it"):
        load(tmp_path / "b.pt")
    save_file(state, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(
        WeightsError, match=r"part 1 of 2 of weights that are stored in several files\. Name their folder"
    ):
        load(tmp_path / "model-00001-of-00002.safetensors")
    (tmp_path / "link.pt").symlink_to(tmp_path / "blob")
    with pytest.raises(WeightsError, match=r"link\.pt of test_resnet is a link to .*blob, which does not exist"):
        load(tmp_path / "link.pt")


def test_a_file_that_may_not_be_read_is_no_damaged_one(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "a.pt")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(WeightsError, match=r"it cannot be read \(Permission denied\)\. Check its permissions"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("pretrained", ["", "  ", True])
def test_an_empty_name_is_never_random_weights(pretrained):
    builders = (
        lambda: CLIPBackbone("tiny_clip", pretrained, quick_gelu=False, resize=32, crop=32),
        lambda: ImageBackbone("test_resnet", pretrained),
        lambda: TransformersVideoBackbone("videomae", pretrained, 4, architecture=SMALL),
    )
    for build in builders:
        with pytest.raises(WeightsError, match="names no weights: name a file"):
            build()


def test_weights_in_several_files_load_from_their_folder(state, expected, tmp_path):
    names = list(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, of in parts.items():
        save_file({name: state[name] for name in of}, tmp_path / file)
    index = {"weight_map": {name: file for file, of in parts.items() for name in of}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(tmp_path).fingerprint() == expected
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"names the part model-00002-of-00002\.safetensors, which is not next to it"
    ):
        load(tmp_path)
    index["weight_map"][names[0]] = "../outside.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"names the part \.\./outside\.safetensors"):
        load(tmp_path)


def test_a_folder_with_an_adapter_alone_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file(LORA, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"holds an adapter \(LoRA\)"):
        load(tmp_path)


def test_big_files_are_mapped_not_read(tmp_path):
    """The tensors of both formats lie in the file: what is written there later is seen, and nothing was copied."""
    state = {"a": torch.ones(1000), "b": torch.ones(1000)}
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        tensors = read_weights(tmp_path / name).states[""]
        content = (tmp_path / name).read_bytes()
        with (tmp_path / name).open("r+b") as file:
            file.write(content.replace(torch.ones(1).numpy().tobytes(), torch.full((1,), 2.0).numpy().tobytes()))
        assert tensors["b"].sum() == 2000, name


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
    for name, match in (
        ("b.pt", "git-lfs pointer"),
        ("c.pt", r"under their names in transformers: .* such as blocks\.0"),
    ):
        with pytest.raises(WeightsError, match=match):
            TransformersVideoBackbone("videomae", str(tmp_path / name), 4, architecture=small)
