"""Custom backbones: a class of a few lines is enough, and what it leaves out is refused with one error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fsar_bench.backbones import Backbone
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.keys import make_keys
from fsar_bench.errors import ConfigError
from fsar_bench.methods.ma_clip import MACLIP
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.methods.strm import STRM
from fsar_bench.registry import BACKBONES
from fsar_bench.testing import MethodTester

CODE = '''
import torch
import torchvision

from fsar_bench.backbones import Backbone
from fsar_bench.registry import BACKBONES


@BACKBONES.register_module()
class ResNet18(Backbone):
    """ResNet-18 of torchvision: one feature vector per frame."""

    def __init__(self, crop: int = 224):
        super().__init__(resize=crop, crop=crop, pretraining="none (random weights)")
        self.network = torchvision.models.resnet18(weights=None)
        self.network.fc = torch.nn.Identity()
        self.embedding_width = 512

    def encode_frames(self, frames):
        """frames uint8 [V, T, 3, H, W] -> features [V, T, C]."""
        return self.network(self.normalise(frames)).unflatten(0, frames.shape[:2])
'''
VIDEO = '''
import torch

from fsar_bench.backbones import Backbone
from fsar_bench.registry import BACKBONES


@BACKBONES.register_module()
class Convolution3d(Backbone):
    """One convolution over space and time: two feature vectors per clip."""

    sees_order = True  # the features depend on the order of frames

    def __init__(self, crop: int = 32):
        super().__init__(resize=crop, crop=crop)
        self.network = torch.nn.Conv3d(3, 16, 3, padding=1)
        self.embedding_width = 16

    def time_steps(self, frames):
        """Number of feature vectors of a clip of so many frames."""
        return 2

    def encode_frames(self, frames):
        """frames uint8 [V, T, 3, H, W] -> features [V, 2, C]."""
        clips = self.normalise(frames).unflatten(0, frames.shape[:2]).transpose(1, 2)  # [V, 3, T, H, W]
        return torch.nn.functional.adaptive_avg_pool3d(self.network(clips).relu(), (2, 1, 1)).flatten(2).transpose(1, 2)
'''


@pytest.fixture(params=[CODE, VIDEO], ids=["image", "video"])
def kind(request):
    """The class that a text of the documents registers; it is forgotten at the end."""
    scope = {"__name__": "my_backbone_code"}
    exec(request.param, scope)  # as a module of the user's
    cls = next(v for v in scope.values() if isinstance(v, type) and v is not Backbone)
    yield cls
    del BACKBONES.module_dict[cls.__name__]


PROPERTIES = (
    "scores have the shape and are finite",
    "videos encoded one by one score the same",
    "order of frames matters as declared",
    "gradients reach what is trained and nothing else",
)


def test_a_small_class_keeps_the_contract_of_methods(kind):
    for matcher, tune in (("OTAM", "visual"), ("CosinePrototype", "none")):
        torch.manual_seed(0)
        method = MetricMethod(kind(crop=32), {"type": matcher}, tune=tune)
        tester = MethodTester(lambda method=method: method, frames=3, crop=32, text_width=0)
        assert [o for o in map(tester.check, PROPERTIES) if o.state == "broken"] == []


def test_a_small_class_runs_end_to_end(kind, run_tiny, tmp_path):
    config = tmp_path / "my_backbone.py"
    config.write_text(f'backbone = dict(type="{kind.__name__}", crop=32)\n')
    stored = list(run_tiny("otam_frozen", backbone=str(config), frames=4, episodes=20))
    assert {s.result.backbone.model for s in stored} == {kind.__name__}
    trained = run_tiny(
        "protonet",
        backbone=str(config),
        frames=4,
        episodes=20,
        train={"episodes": 4, "accumulate": 2, "val_episodes": 4},
    )
    assert any(s.result.parameters.trainable for s in trained)


def test_what_a_class_leaves_out_is_refused_by_name(kind):
    backbone = kind(crop=32)
    for call, match in (
        (lambda: STRM(backbone, {"type": "TRX"}), "has no feature maps: choose an image encoder with feature maps"),
        (lambda: backbone.encode_maps(torch.zeros(1, 1, 3, 32, 32)), "has no feature maps"),
        (lambda: MACLIP(backbone, {"type": "OTAM"}, temperature=1.0), "has no (feature maps|transformer blocks)"),
        (lambda: backbone.encode_text(["a"]), "has no text encoder"),
        (lambda: backbone.no_such_name, None),
    ):
        with pytest.raises(ConfigError if match else AttributeError, match=match):
            call()


def test_a_forgotten_width_or_encoder_is_named():
    class Forgetful(Backbone):
        def encode_frames(self, frames):
            return frames

    class Empty(Backbone):
        pass

    with pytest.raises(
        ConfigError, match=r"Forgetful does not say how wide its features are: set self\.embedding_width"
    ):
        MetricMethod(Forgetful(), {"type": "OTAM"})
    BACKBONES.register_module(name="Empty", module=Empty)
    try:
        with pytest.raises(ConfigError, match=r"'Empty' cannot be built: .*encode_frames"):
            BACKBONES.build({"type": "Empty"})
    finally:
        del BACKBONES.module_dict["Empty"]


def test_the_defaults_are_those_of_imagenet_and_the_whole_backbone_is_tuned():
    class Linear(Backbone):
        def __init__(self):
            super().__init__()
            self.layer, self.embedding_width = nn.Linear(3, 5), 5

        def encode_frames(self, frames):
            return self.layer(self.normalise(frames).mean((-1, -2))).unflatten(0, frames.shape[:2])

    backbone = Linear()
    assert (backbone.name, backbone.resize, backbone.crop) == ("Linear", 256, 224)
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert backbone.time_steps(8) == 8
    backbone.requires_grad_(False).tune_visual()
    assert all(p.requires_grad for p in backbone.parameters())


def test_keys_of_features_depend_on_the_code_of_a_custom_backbone(tiny, backbone):
    cell = resolve({"methods": "otam_frozen", "dataset": str(tiny), "controls": False}).cells[0]
    method = MetricMethod(backbone, {"type": "OTAM"})
    source = SimpleNamespace(plan=SimpleNamespace(resize=60, crop=60, frames=8), reader_version="1")

    def key(**inputs: str) -> str:
        identity = cell.identity.model_copy(update={"inputs": {**cell.identity.inputs, **inputs}})
        changed = cell.model_copy(update={"identity": identity})
        return make_keys(changed, method, [], source, source, torch.device("cpu")).embedding

    name = "module my_backbone_code my_backbone_code.py"
    assert len({key(), key(**{name: "a" * 64}), key(**{name: "b" * 64})}) == 3
    assert key(**{name: "a" * 64}) == key(**{name: "a" * 64})
