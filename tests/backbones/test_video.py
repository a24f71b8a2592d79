"""Video encoders: the contract clip in, `[V, T', C]` out, and the one through transformers."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from fsar_bench.backbones import TransformersVideoBackbone
from fsar_bench.backbones import video as module
from fsar_bench.errors import ConfigError, WeightsError
from fsar_bench.methods.clip_fsar import CLIPFSAR
from fsar_bench.methods.hyrsm import HyRSM
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.methods.molo import MoLo
from fsar_bench.methods.strm import STRM
from fsar_bench.testing import MethodTester

SMALL = {
    "image_size": 32, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
MODELS = ("videomae", "timesformer")


def build(model: str = "videomae", frames: int | None = 4, **changes) -> TransformersVideoBackbone:
    torch.manual_seed(0)
    return TransformersVideoBackbone(model, None, frames, architecture={**SMALL, **changes}).eval()


def clips(V: int = 2, T: int = 4, side: int = 32) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (V, T, 3, side, side), dtype=torch.uint8, generator=g)


@torch.no_grad()
@pytest.mark.parametrize(("model", "steps"), [("videomae", 2), ("timesformer", 4)])
def test_a_clip_becomes_one_feature_per_step(model, steps):
    backbone = build(model)
    features, maps = backbone.encode_frames(clips()), backbone.encode_maps(clips())
    assert backbone.time_steps(4) == steps
    assert features.shape == (2, steps, backbone.embedding_width)
    assert maps.shape == (2, steps, backbone.map_width, 2, 2)
    assert torch.allclose(features, maps.mean((-1, -2)), atol=1e-6)
    assert (backbone.sees_order, backbone.has_text) == (True, False)
    assert (backbone.resize, backbone.crop, backbone.activation) == (32, 32, "GELU")


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_assigned_to_their_time_and_place(model):
    """Without layers a token sees its own patch alone: another patch of one frame moves one place of one step."""
    backbone = build(model, num_hidden_layers=0)
    frames = clips(V=1)
    changed = frames.clone()
    changed[0, 2, :, :16, 16:] = 255 - changed[0, 2, :, :16, 16:]  # frame 2, top right
    moved = (backbone.encode_maps(changed) - backbone.encode_maps(frames)).abs().amax(2)[0] > 1e-4
    assert moved.nonzero().tolist() == [[1 if model == "videomae" else 2, 0, 1]]


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_the_order_of_frames_matters(model):
    backbone = build(model)
    for parameter in backbone.parameters():  # embeddings of time start at zero
        parameter.add_(0.1 * torch.randn(parameter.shape))
    forward, backward = backbone.encode_frames(clips()), backbone.encode_frames(clips().flip(1))
    assert not torch.allclose(forward, backward.flip(1), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("finetuned", [True, False])
def test_a_folder_of_transformers_gives_its_features(tmp_path, finetuned):
    """Compared with the library's own classifier: its head on the mean of our steps is its logits."""
    torch.manual_seed(3)
    config = transformers.VideoMAEConfig(**SMALL, num_frames=4, use_mean_pooling=finetuned, num_labels=5)
    theirs = transformers.VideoMAEForVideoClassification(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    backbone = TransformersVideoBackbone("videomae", str(tmp_path), 4, pretraining="mine").eval()
    assert backbone.mean.flatten().tolist() == [0.5] * 3
    pixels = (clips() / 255 - 0.5) / 0.25
    hidden = theirs.videomae(pixels).last_hidden_state.unflatten(1, (2, 4)).mean(2)
    expected = theirs.fc_norm(hidden) if finetuned else hidden
    assert torch.allclose(backbone.encode_frames(clips()), expected, atol=1e-5)
    assert isinstance(backbone.norm, nn.LayerNorm) == finetuned


@torch.no_grad()
def test_weights_from_a_file_and_from_the_cache_of_the_hub(tmp_path, monkeypatch):
    theirs = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**SMALL, num_frames=4))
    hub = tmp_path / "models--me--tiny"
    inside = hub / "snapshots" / "abc123"
    theirs.save_pretrained(inside)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    cached = TransformersVideoBackbone("timesformer", "hf-hub:me/tiny", 4).eval()
    assert cached.pretraining == "tiny"
    assert cached.mean.flatten().tolist() == pytest.approx([0.45] * 3)
    file = TransformersVideoBackbone(
        "timesformer", str(inside / "model.safetensors"), 4, architecture={**SMALL, "num_frames": 4}
    ).eval()
    pixels = (clips() - 0.45 * 255) / (0.225 * 255)
    tokens = theirs.eval().timesformer(pixels).last_hidden_state[:, 1:]
    expected = torch.stack([tokens[:, t::4].mean(1) for t in range(4)], 1)
    for backbone in (cached, file):
        assert torch.allclose(backbone.encode_frames(clips()), expected, atol=1e-5)
    with pytest.raises(WeightsError, match=r"(?s)'hf-hub:me/other' of videomae are not on this machine.*VideoMAEModel"):
        TransformersVideoBackbone("videomae", "hf-hub:me/other", 4)


def test_what_does_not_fit_is_named(tmp_path, monkeypatch):
    transformers.VideoMAEModel(transformers.VideoMAEConfig(**SMALL, num_frames=16)).save_pretrained(tmp_path)
    folder = str(tmp_path)
    with pytest.raises(ConfigError, match="takes clips of 16 frames, not 8: set frames=16"):
        TransformersVideoBackbone("videomae", folder, 8)
    with pytest.raises(ConfigError, match="crop=64 does not fit the weights of videomae, whose images are 32 pixels"):
        TransformersVideoBackbone("videomae", folder, 16, crop=64)
    with pytest.raises(WeightsError, match="holds a model of type 'videomae', not timesformer"):
        TransformersVideoBackbone("timesformer", folder, 16)
    with pytest.raises(ConfigError, match=r"brings its own config\.json"):
        TransformersVideoBackbone("videomae", folder, 16, architecture=SMALL)
    with pytest.raises(ConfigError, match=r"'video_mae' of a video backbone is unknown\. Did you mean 'videomae'"):
        TransformersVideoBackbone("video_mae", None, 8)
    with pytest.raises(ConfigError, match=r"no field 'hidden_sise' for videomae\. Did you mean 'hidden_size'"):
        TransformersVideoBackbone("videomae", None, 8, architecture={"hidden_sise": 48})
    with pytest.raises(ConfigError, match="takes frames in groups of 2: frames=5 is no multiple"):
        build(frames=5)
    with pytest.raises(ConfigError, match="takes clips of 4 frames, not 6"):
        build().encode_frames(clips(T=6))
    state = {**load_file(tmp_path / "model.safetensors"), "encoder.layer.1.output.dense.bias": torch.zeros(47)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"layer\.1\.output\.dense\.bias has the shape \[47\] in the file, but \[48\]"
    ):
        TransformersVideoBackbone("videomae", folder, 16)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the library transformers: pip install 'fsar-bench\[video\]'"):
        build()


METHODS = {
    "matching": lambda b: MetricMethod(b, {"type": "MatchingNetwork"}),
    "tuned": lambda b: MetricMethod(b, {"type": "OTAM"}, tune="visual"),
    "tuples": lambda b: MetricMethod(b, {"type": "TRX", "cardinalities": [2]}, tune="visual"),
    "hyrsm": lambda b: HyRSM(b, {"type": "BiMHM"}),
    "strm": lambda b: STRM(b, {"type": "TRX", "cardinalities": [2]}, frames=4),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_their_contract_on_a_video_encoder(method):
    tester = MethodTester(lambda: METHODS[method](build()), frames=4, crop=32, text_width=0)
    assert [o for o in tester.run() if o.state == "broken"] == []


def test_methods_that_need_frames_or_text_refuse_a_video_encoder():
    with pytest.raises(ConfigError, match="videomae has 2 features for 4 frames: choose an image encoder"):
        MoLo(build(), {"type": "BiMHM"})
    assert MoLo(build("timesformer"), {"type": "BiMHM"})
    with pytest.raises(ConfigError, match="has no text encoder"):
        CLIPFSAR(build(), {"type": "OTAM"}).backbone.encode_text(["a"])


@pytest.fixture
def small_videomae(tmp_path):
    config = tmp_path / "small_videomae.py"
    config.write_text(
        "backbone = dict(type='TransformersVideoBackbone', model='videomae', pretrained=None, frames=4, "
        f"architecture={SMALL})\n"
    )
    return str(config)


def test_cells_run_end_to_end_on_a_video_encoder(run_tiny, small_videomae):
    settings = {"backbone": small_videomae, "frames": 4, "episodes": 20}
    stored = [
        *run_tiny(["prototype_frozen", "otam_frozen"], **settings),
        *run_tiny("protonet", **settings, train={"episodes": 4, "accumulate": 2, "val_episodes": 4}),
    ]
    assert {s.result.cell.name for s in stored} >= {"prototype_frozen", "otam_frozen", "protonet"}
    assert {s.result.backbone.model for s in stored} == {"videomae"}
    assert all(s.result.traits.order_sensitive for s in stored)


def test_class_names_need_a_text_encoder(run_tiny, small_videomae):
    with pytest.raises(ConfigError, match=r"uses class names, and the backbone .* has no text encoder"):
        run_tiny("zero_shot", backbone=small_videomae, frames=4, episodes=20)
