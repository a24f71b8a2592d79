"""CLIP backbones: the built-in one, weights from files, and what is said when they are missing or wrong."""

from __future__ import annotations

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.backbones.weights import BUILTIN, fingerprint
from fsar_bench.errors import ConfigError, WeightsError
from fsar_bench.paths import cache_folder


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


def test_quick_gelu_is_what_the_config_says():
    plain, quick = load("builtin"), load("builtin", quick_gelu=True)
    kinds = {type(m).__name__ for m in quick.visual.modules()}
    assert "QuickGELU" in kinds
    assert "QuickGELU" not in {type(m).__name__ for m in plain.visual.modules()}
    assert (plain.activation, quick.activation) == ("GELU", "QuickGELU")


def test_missing_weights_say_where_to_put_them():
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
