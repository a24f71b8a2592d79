"""CLIP weights as other libraries store them, and weights of other CLIPs: loaded as they are, or named by their architecture."""

from __future__ import annotations

import json
import logging

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fsar_bench.backbones import CLIPBackbone, ImageBackbone
from fsar_bench.backbones.clip_shapes import whose
from fsar_bench.errors import WeightsError

TEXTS = ["a red ball", "a blue box moves from left to right"]
VISION = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def of_transformers(activation: str = "quick_gelu", **vision) -> transformers.CLIPModel:
    """A CLIP of the library transformers with the shapes of tiny_clip and random weights, none of them zero."""
    config = transformers.CLIPConfig(
        vision_config={**VISION, "hidden_act": activation, **vision},
        text_config={**TEXT, "hidden_act": activation},
        projection_dim=24,
    )
    torch.manual_seed(5)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def load(path, quick_gelu: bool | None = True) -> CLIPBackbone:
    return CLIPBackbone("tiny_clip", str(path), quick_gelu, resize=32, crop=32).eval()


@torch.no_grad()
def assert_same(backbone: CLIPBackbone, model: transformers.CLIPModel, atol: float = 1e-5) -> None:
    """Both libraries give the same embeddings of images and texts."""
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = open_clip.get_tokenizer("tiny_clip")(TEXTS)
    images = model.get_image_features(backbone.normalise(frames)).pooler_output
    texts = model.get_text_features(tokens).pooler_output
    assert images.abs().mean() > 0.1
    assert torch.allclose(backbone.encode_frames(frames).flatten(0, 1), images, atol=atol)
    assert torch.allclose(backbone.encode_text(TEXTS), texts, atol=atol)
    assert backbone.logit_scale == pytest.approx(model.logit_scale.exp().item(), abs=1e-4)


WRITTEN = {
    "safetensors": ("model.safetensors", lambda s, p: save_file(s, p)),
    "pickled": ("pytorch_model.bin", lambda s, p: torch.save(s, p)),
    "below a key": ("checkpoint.pth", lambda s, p: torch.save({"state_dict": s, "epoch": 1}, p)),
    "prefixed": ("prefixed.pt", lambda s, p: torch.save({f"module.model.{k}": v for k, v in s.items()}, p)),
    "with position ids": (
        "old.bin",
        lambda s, p: torch.save(
            {
                **s,
                "text_model.embeddings.position_ids": torch.arange(77)[None],
                "vision_model.embeddings.position_ids": torch.arange(17)[None],
            },
            p,
        ),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_of_transformers_gives_that_librarys_embeddings(tmp_path, name, activation):
    model = of_transformers(activation)
    file, write = WRITTEN[name]
    write(model.state_dict(), tmp_path / file)
    assert_same(load(tmp_path / file, activation == "quick_gelu"), model)
    with pytest.raises(WeightsError, match=r"library transformers\) does not say which activation .* activation=gelu"):
        load(tmp_path / file, None)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_folder_of_transformers_brings_activation_and_normalisation(tmp_path, activation):
    model = of_transformers(activation)
    model.save_pretrained(tmp_path)
    backbone = load(tmp_path, None)
    assert backbone.activation == {"quick_gelu": "QuickGELU", "gelu": "GELU"}[activation]
    assert_same(backbone, model)
    assert backbone.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    images = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    again = load(tmp_path, None)
    assert again.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert again.fingerprint() == backbone.fingerprint()
    with pytest.raises(WeightsError, match="a model of transformers trained with"):
        load(tmp_path, activation != "quick_gelu")
    with pytest.raises(WeightsError, match=r"Or name its folder, whose config\.json says it\."):
        load(tmp_path / "model.safetensors", None)


def test_a_folder_of_transformers_in_parts_and_in_several_formats_loads(tmp_path):
    model = of_transformers()
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    whole = load(tmp_path, None).fingerprint()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert load(tmp_path, None).fingerprint() == whole
    assert_same(load(tmp_path, None), model)


def test_what_a_folder_of_transformers_says_is_compared(tmp_path):
    def refused(match: str, file: str = "config.json", **changes) -> None:
        of_transformers().save_pretrained(tmp_path)
        config = json.loads((tmp_path / file).read_text())
        for key, value in changes.items():
            tower, _, field = key.partition("__")
            if field:
                config[tower][field] = value
            else:
                config[key] = value
        (tmp_path / file).write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=match):
            load(tmp_path, None)

    refused("of type 'siglip' of transformers, and tiny_clip loads 'clip' alone", model_type="siglip")
    refused("activation gelu and quick_gelu; open_clip has quick_gelu or gelu", text_config__hidden_act="gelu")
    refused("another layer_norm_eps", vision_config__layer_norm_eps=1e-6)
    refused("its towers have 4 and 2 attention heads, those of tiny_clip 2 and 2", vision_config__num_attention_heads=4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is no JSON object"):
        load(tmp_path, None)


def test_a_hub_repository_of_transformers_loads_from_its_cache(tmp_path, monkeypatch):
    """The cache of huggingface_hub, as a download would leave it; nothing is fetched."""
    hub = tmp_path / "models--me--clip"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc123")
    model = of_transformers()
    model.save_pretrained(hub / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert_same(load("hf-hub:me/clip", None), model)


def test_half_precision_of_transformers_loads_as_rounded_values(tmp_path):
    model = of_transformers().half()
    save_file(model.state_dict(), tmp_path / "half.safetensors")
    assert_same(load(tmp_path / "half.safetensors"), model.float())


def test_towers_of_transformers_alone_and_siglip_are_named(tmp_path):
    state = of_transformers().state_dict()
    vision = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))}
    save_file(vision, tmp_path / "vision.safetensors")
    with pytest.raises(WeightsError, match=r"library transformers: it holds the image tower alone, without the text"):
        load(tmp_path / "vision.safetensors")
    torch.save({**state, "logit_bias": torch.zeros(1)}, tmp_path / "siglip.pt")
    with pytest.raises(WeightsError, match="weights of SigLIP in the format of the library transformers"):
        load(tmp_path / "siglip.pt")
    cut = {k: v for k, v in state.items() if k != "text_model.encoder.layers.0.self_attn.k_proj.bias"}
    torch.save(cut, tmp_path / "cut.pt")
    with pytest.raises(WeightsError, match=r"it lacks the projection k of transformer\.resblocks\.0\.attn"):
        load(tmp_path / "cut.pt")
    torch.save(of_transformers(patch_size=16).state_dict(), tmp_path / "patch.pt")
    with pytest.raises(WeightsError, match=r"transformers: it holds weights of another CLIP \(patches of 16 pixels\)"):
        load(tmp_path / "patch.pt")


def test_one_tower_of_open_clip_is_named_with_any_prefix(tmp_path):
    state = CLIPBackbone("tiny_clip", None, False, 32, 32).clip.state_dict()
    towers = {
        "image": {k: v for k, v in state.items() if k.startswith("visual.")},
        "text": {k: v for k, v in state.items() if not k.startswith("visual.")},
    }
    for tower, tensors in towers.items():
        other = "text" if tower == "image" else "image"
        for prefix in ("", "module.", "clip."):
            torch.save({f"{prefix}{k}": v for k, v in tensors.items()}, tmp_path / "part.pt")
            with pytest.raises(WeightsError, match=f"it holds the {tower} tower alone, without the {other} tower"):
                load(tmp_path / "part.pt")
    torch.save({k.removeprefix("visual."): v for k, v in towers["image"].items()}, tmp_path / "bare.pt")
    with pytest.raises(WeightsError, match="it holds the image tower alone"):
        load(tmp_path / "bare.pt")


def test_another_image_size_is_said_in_pixels_and_shapes(tmp_path):
    state = CLIPBackbone("tiny_clip", None, False, 32, 32).clip.state_dict()
    torch.save({**state, "visual.positional_embedding": torch.randn(50, 32)}, tmp_path / "size.pt")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "size.pt", None)  # said before the activation, which does not matter then
    assert "it is for images of 56 pixels, the model for 32." in str(caught.value)
    assert "visual.positional_embedding has the shape [50, 32] in the file, but [17, 32]" in str(caught.value)


def shapes(model: str) -> dict[str, torch.Tensor]:
    """An architecture of open_clip without values."""
    logging.disable(logging.WARNING)
    try:
        with torch.device("meta"):
            return open_clip.create_model(model, load_weights=False, device="meta").state_dict()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "model", ["RN50", "RN50x4", "ViT-B-16", "ViT-B-32-256", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"]
)
def test_other_architectures_are_recognised_by_their_shapes(model):
    state = shapes(model)
    assert whose(state, model) == ""
    assert whose({f"module.{k}": v for k, v in state.items()}, model) == ""
    config = open_clip.get_model_config(model)
    width = config["vision_cfg"]["width"]
    for wanted in ("ViT-B-16-plus-240", "RN101"):
        said = whose(state, wanted)
        assert f"it holds weights of {model} (" in said
        assert f"not of {wanted} (" in said
        other = open_clip.get_model_config(wanted)["vision_cfg"]["width"]
        assert (f"width {width}," in said and f"width {other}," in said) or width == other


def test_weights_for_other_images_name_the_model_that_takes_them():
    said = whose(shapes("ViT-L-14-336"), "ViT-L-14")
    assert said == (
        "it is for images of 336 pixels, the model for 224. Take the weights for 224 pixels, or the model ViT-L-14-336"
    )


def test_a_resnet_of_clip_loads_from_wrapped_files_and_names_others(tmp_path):
    """The shapes of RN50 with fewer and narrower layers, as a config of open_clip."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny_resnet_clip.json").write_text(json.dumps(config))
    (tmp_path / "wide_resnet_clip.json").write_text(
        json.dumps({**config, "vision_cfg": {**config["vision_cfg"], "width": 16}})
    )
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(2)
    source = CLIPBackbone("tiny_resnet_clip", None, True, 64, 64)
    state = source.clip.state_dict()
    torch.save({"model": {f"module._orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pt")
    assert CLIPBackbone("tiny_resnet_clip", str(tmp_path / "wrapped.pt"), True, 64, 64).fingerprint() == (
        source.fingerprint()
    )
    with pytest.raises(
        WeightsError, match=r"weights of tiny_resnet_clip \(width 8\), not of wide_resnet_clip \(width 16\)"
    ):
        CLIPBackbone("wide_resnet_clip", str(tmp_path / "wrapped.pt"), True, 64, 64)
    torch.save({k: v for k, v in state.items() if k.startswith("visual.")}, tmp_path / "tower.pt")
    with pytest.raises(WeightsError, match="the image tower alone"):
        CLIPBackbone("tiny_resnet_clip", str(tmp_path / "tower.pt"), True, 64, 64)


def test_a_folder_with_one_plain_file_loads_where_the_activation_is_said(tmp_path, backbone):
    save_file(backbone.clip.state_dict(), tmp_path / "mine.safetensors")
    loaded = CLIPBackbone("synthact_clip", str(tmp_path), quick_gelu=False, resize=60, crop=60)
    assert loaded.fingerprint() == backbone.fingerprint()
    assert load_file(tmp_path / "mine.safetensors").keys() == backbone.clip.state_dict().keys()


def test_clip_weights_in_a_model_of_timm_are_named(tmp_path):
    torch.save(of_transformers().state_dict(), tmp_path / "hf.pt")
    with pytest.raises(WeightsError, match=r"named as in the library transformers \(such as .*\), not as in timm"):
        ImageBackbone("test_resnet", str(tmp_path / "hf.pt"), crop=64)


def test_preflight_names_them_before_anything_runs(fsar, tiny, tmp_path):
    state = CLIPBackbone("tiny_clip", None, False, 32, 32).clip.state_dict()
    broken = {**state, "visual.proj": torch.full_like(state["visual.proj"], float("nan"))}
    torch.save(broken, tmp_path / "nan.pt")
    arguments = (
        "run",
        "methods=prototype_frozen",
        f"dataset={tiny}",
        "backbone=tiny_clip",
        "episodes=20",
        "activation=gelu",
    )
    for flags in (("--dry-run",), ()):
        done = fsar(*arguments, f"pretrained={tmp_path / 'nan.pt'}", *flags)
        assert done.returncode == 1
        assert "values that are NaN or infinite (visual.proj: 768 of 768)" in " ".join(done.stderr.split())
