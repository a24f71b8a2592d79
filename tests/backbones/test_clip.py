"""CLIP backbones: the built-in one, weights from files, and the errors when they are missing or wrong."""

from __future__ import annotations

import json
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.backbones.weights import BUILTIN, fingerprint
from fsar_bench.errors import ConfigError, WeightsError
from fsar_bench.io import cache_folder


def load(pretrained: str | None, model: str = "synthact_clip", **changes) -> CLIPBackbone:
    return CLIPBackbone(model, pretrained, **{"quick_gelu": False, "resize": 60, "crop": 60, **changes})


def test_builtin_weights_are_small_and_load():
    assert (BUILTIN / "synthact_clip.safetensors").stat().st_size <= 16e6
    backbone = load("builtin")
    frames = torch.randint(0, 256, (2, 8, 3, 60, 60), dtype=torch.uint8)
    assert backbone.encode_frames(frames).shape == (2, 8, 128)
    assert backbone.encode_text(["a red ball", "a blue box"]).shape == (2, 128)
    assert backbone.logit_scale > 1


@torch.no_grad()
def test_weights_from_a_file_and_from_the_weights_folder(backbone):
    file = cache_folder() / "weights" / "synthact_clip-mine.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in backbone.clip.state_dict().items() if v.is_floating_point()}, file)
    frames = torch.randint(0, 256, (1, 8, 3, 60, 60), dtype=torch.uint8)
    for pretrained in (str(file), "mine"):
        assert torch.equal(load(pretrained).encode_frames(frames), backbone.encode_frames(frames))
    assert load("mine").fingerprint() == backbone.fingerprint()


def test_activation_follows_the_config():
    plain, quick = load("builtin"), load("builtin", quick_gelu=True)
    kinds = {type(m).__name__ for m in quick.visual.modules()}
    assert "QuickGELU" in kinds
    assert "QuickGELU" not in {type(m).__name__ for m in plain.visual.modules()}
    assert (plain.activation, quick.activation) == ("GELU", "QuickGELU")


def test_missing_weights_name_the_places_to_put_them():
    with pytest.raises(WeightsError) as caught:
        load("openai", "ViT-B-16", quick_gelu=True, resize=256, crop=224)
    message = str(caught.value)
    assert str(cache_folder() / "weights" / "ViT-B-16-openai.safetensors") in message
    assert "pretrained=/path" in message
    assert "open_clip.create_model('ViT-B-16', pretrained='openai')" in message


def test_missing_and_damaged_files_and_other_models_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors of synthact_clip does not exist"):
        load(str(tmp_path / "gone.safetensors"))
    whole = (BUILTIN / "synthact_clip.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"cut\.safetensors cannot be loaded"):
        load(str(tmp_path / "cut.safetensors"))
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors cannot be loaded"):
        load(str(tmp_path / "other.safetensors"))


def test_unknown_models_and_wrong_crops_are_refused():
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-Z'"):
        load(None, "ViT-Z")
    with pytest.raises(ConfigError, match="whose images are 60 pixels"):
        load("builtin", crop=64)


def test_fingerprint_is_of_values():
    a = {"x": torch.arange(4.0), "y": torch.ones(2)}
    assert fingerprint(a) == fingerprint(dict(reversed(a.items())))
    assert fingerprint(a) != fingerprint({**a, "y": torch.zeros(2)})
    assert open_clip.get_model_config("synthact_clip")["vision_cfg"]["image_size"] == 60


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A random tiny CLIP with QuickGELU, and a TorchScript archive of it with OpenAI's extra entries."""
    torch.manual_seed(3)
    source = CLIPBackbone("tiny_clip", None, quick_gelu=True, resize=32, crop=32).eval()
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        vars(source.clip).pop(name, None)
        source.clip.register_buffer(name, torch.tensor(value))
    path = tmp_path_factory.mktemp("archive") / "ViT-tiny.pt"
    example = (torch.randn(2, 3, 32, 32), torch.zeros(2, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(source.clip, example, check_trace=False).save(str(path))
    return source, path


@torch.no_grad()
def test_openai_style_archive_loads_with_its_activation(archive, tmp_path):
    source, path = archive
    frames = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    state = torch.jit.load(path).state_dict()
    torch.save(state, tmp_path / "state.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "below.pt")
    for file in (path, tmp_path / "state.pt", tmp_path / "below.pt"):
        loaded = CLIPBackbone("tiny_clip", str(file), quick_gelu=True, resize=32, crop=32).eval()
        assert torch.allclose(loaded.encode_frames(frames), source.encode_frames(frames), atol=1e-5)
        assert torch.allclose(loaded.encode_text(["a red ball"]), source.encode_text(["a red ball"]), atol=1e-5)
        assert (
            loaded.fingerprint()
            == CLIPBackbone("tiny_clip", str(path), quick_gelu=True, resize=32, crop=32).fingerprint()
        )


def test_activation_is_read_from_the_weights_and_never_guessed(archive, tmp_path, backbone):
    _, path = archive
    assert CLIPBackbone("tiny_clip", str(path), quick_gelu=None, resize=32, crop=32).activation == "QuickGELU"
    bare = tmp_path / "bare.safetensors"
    save_file(backbone.clip.state_dict(), bare)
    with pytest.raises(WeightsError, match=r"does not say which activation.*activation=quick_gelu.*activation=gelu"):
        load(str(bare), quick_gelu=None)
    for quick_gelu, name in ((True, "QuickGELU"), (False, "GELU")):
        assert load(str(bare), quick_gelu=quick_gelu).activation == name


def test_file_of_a_tag_has_the_activation_and_normalisation_of_the_tag(backbone, monkeypatch):
    known = {"synthact_clip": {"theirs": {"quick_gelu": True, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}}}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", known)
    file = cache_folder() / "weights" / "synthact_clip-theirs.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(backbone.clip.state_dict(), file)
    loaded = load("theirs", quick_gelu=None)
    assert loaded.activation == "QuickGELU"
    assert loaded.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert loaded.std.flatten().tolist() == pytest.approx([0.2, 0.2, 0.1])
    with pytest.raises(WeightsError, match="trained with QuickGELU, but the config or activation= says GELU"):
        load("theirs", quick_gelu=False)


@pytest.mark.parametrize("kind", ["archive", "state dict"])
def test_openai_weights_under_a_gelu_config_are_refused(archive, tmp_path, kind):
    _, path = archive
    if kind == "state dict":
        torch.save(torch.jit.load(path).state_dict(), tmp_path / "state.pt")
        path = tmp_path / "state.pt"
    with pytest.raises(
        WeightsError, match=r"trained with QuickGELU, but the config or activation= says GELU.*activation=quick_gelu"
    ):
        CLIPBackbone("tiny_clip", str(path), quick_gelu=False, resize=32, crop=32)


def test_archive_of_a_gelu_model_is_recognised(tmp_path):
    torch.manual_seed(3)
    plain = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32).eval()
    example = (torch.randn(2, 3, 32, 32), torch.zeros(2, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(plain.clip, example, check_trace=False).save(str(tmp_path / "gelu.pt"))
    CLIPBackbone("tiny_clip", str(tmp_path / "gelu.pt"), quick_gelu=False, resize=32, crop=32)
    with pytest.raises(WeightsError, match=r"trained with GELU, but the config or activation= says QuickGELU"):
        CLIPBackbone("tiny_clip", str(tmp_path / "gelu.pt"), quick_gelu=True, resize=32, crop=32)


def test_truncated_archives_and_files_without_tensors_are_named(archive, tmp_path):
    whole = archive[1].read_bytes()
    for name, content in (("half.pt", whole[: len(whole) // 2]), ("text.pt", b"no weights"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name[:-3]}\.pt cannot be loaded into tiny_clip"):
            CLIPBackbone("tiny_clip", str(tmp_path / name), quick_gelu=True, resize=32, crop=32)
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(WeightsError, match="it holds no tensors by name"):
        CLIPBackbone("tiny_clip", str(tmp_path / "epoch.pt"), quick_gelu=True, resize=32, crop=32)


def test_folder_of_open_clip_brings_its_normalisation(tmp_path):
    torch.manual_seed(4)
    source = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32).eval()
    config = json.loads((BUILTIN / "tiny_clip.json").read_text())
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    save_file(source.clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    loaded = CLIPBackbone("tiny_clip", str(tmp_path), quick_gelu=False, resize=32, crop=32).eval()
    assert loaded.fingerprint() == source.fingerprint()
    assert loaded.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    with pytest.raises(
        WeightsError, match=r"is a model trained with GELU, but the config or activation= says QuickGELU"
    ):
        CLIPBackbone("tiny_clip", str(tmp_path), quick_gelu=True, resize=32, crop=32)
    with pytest.raises(WeightsError, match=r"holds another model than synthact_clip \(embed_dim differs\)"):
        CLIPBackbone("synthact_clip", str(tmp_path), quick_gelu=False, resize=60, crop=60)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds 0 weights files \(none\), not one"):
        CLIPBackbone("tiny_clip", str(tmp_path), quick_gelu=False, resize=32, crop=32)
    (tmp_path / "open_clip_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors cannot be loaded .* git-lfs pointer"):
        CLIPBackbone("tiny_clip", str(tmp_path), quick_gelu=False, resize=32, crop=32)


@pytest.mark.long
def test_hub_repository_is_loaded_from_its_cache_and_its_absence_named(command, tiny, tmp_path):
    """The cache of huggingface_hub, as a download would leave it; nothing is fetched."""
    torch.manual_seed(4)
    source = CLIPBackbone("tiny_clip", None, quick_gelu=True, resize=32, crop=32).eval()
    hub = tmp_path / "hf" / "hub" / "models--me--tiny"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc123")
    inside = hub / "snapshots" / "abc123"
    inside.mkdir(parents=True)
    config = {**json.loads((BUILTIN / "tiny_clip.json").read_text()), "quick_gelu": True}
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}
    (inside / "open_clip_config.json").write_text(json.dumps(described))
    save_file(source.clip.state_dict(), inside / "open_clip_model.safetensors")
    run = ("run", "methods=prototype_frozen", f"dataset={tiny}", "backbone=tiny_clip", "episodes=20")
    done = command(*run, "pretrained=hf-hub:me/tiny", HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    result = json.loads(next(data for name, data in command.outputs().items() if name.endswith("result.json")))
    assert result["backbone"]["activation"] == "QuickGELU"
    assert result["backbone"]["pretraining"] == "tiny"
    assert result["backbone"]["weights"] == source.fingerprint()
    absent = command(*run, "pretrained=hf-hub:me/other", HF_HOME=str(tmp_path / "hf"))
    assert absent.returncode == 1
    assert "open_clip.create_model('hf-hub:me/other')" in absent.stderr
    wrong = command(*run, "pretrained=hf-hub:me/tiny", "activation=gelu", HF_HOME=str(tmp_path / "hf"))
    assert "trained with QuickGELU, but the config or activation= says GELU" in wrong.stderr
