"""BackboneTester: for each property a backbone that breaks it on purpose and no other, and backbones that break none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.engine.contract import subjects
from fsar_bench.errors import ConfigError
from fsar_bench.testing import BackboneTester

C, D, STRIDE, CROP = 6, 5, 8, 16


class Good(Backbone):
    """A convolution with batch norm, pooled and projected."""

    def __init__(self, **settings):
        defaults = dict(
            resize=CROP, crop=CROP, pretraining="", activation="ReLU", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
        )
        super().__init__("good", **{**defaults, **settings})
        self.tower = nn.ModuleDict(
            {
                "stem": nn.Sequential(nn.Conv2d(3, D, STRIDE, STRIDE), nn.BatchNorm2d(D), nn.Tanh()),
                "head": nn.Linear(D, C),
            }
        )
        self.embedding_width, self.map_width, self.map_stride = C, D, STRIDE

    @property
    def visual(self):
        return self.tower

    def time_steps(self, frames):
        return frames

    def encode_frames(self, frames):
        return self.tower["head"](self.encode_maps(frames).mean((-1, -2)))

    def encode_maps(self, frames):
        return self.tower["stem"](self.normalise(frames)).unflatten(0, frames.shape[:2])

    def beyond_maps(self):
        return self.tower["head"].parameters()


class WithText(Good):
    has_text = True

    def __init__(self, **settings):
        super().__init__(**settings)
        self.text = nn.Embedding(256, C)

    def encode_text(self, texts):
        return torch.stack([self.text(torch.tensor(list(text.encode()))).mean(0) for text in texts])

    @property
    def logit_scale(self):
        return 10.0


class WithoutMaps(Good):
    def encode_frames(self, frames):
        return self.tower["head"](Good.encode_maps(self, frames).mean((-1, -2)))

    def encode_maps(self, frames):
        raise self._without("feature maps", "another one")


class Video(WithoutMaps):
    """Clips become half as many features, each of two frames in their order; takes four frames alone."""

    sees_order = True
    frames = 4

    def time_steps(self, frames):
        return frames // 2

    def encode_frames(self, frames):
        first, second = super().encode_frames(frames).unflatten(1, (-1, 2)).unbind(2)
        return first + 2 * second


class WithBlocks(Good):
    """Two residual linear blocks on two tokens of each frame."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.tower["block"] = nn.Linear(D, D)
        self.tower["norm"] = nn.LayerNorm(D)

    def beyond_maps(self):
        return [*super().beyond_maps(), *self.tower["block"].parameters(), *self.tower["norm"].parameters()]

    def blocks(self):
        norm, block = self.tower["norm"], self.tower["block"]
        return [ViTBlock(norm, norm, lambda tokens, rows: block(tokens)[:, :rows], block)] * 2

    def embed_tokens(self, frames, offset=None):
        pooled = self.encode_maps(frames).mean((-1, -2)).flatten(0, 1)
        return torch.stack([pooled, pooled.flip(-1)], 1)

    def read_tokens(self, tokens):
        return self.tower["head"](tokens[:, 0])

    def encode_frames(self, frames):
        tokens = self.embed_tokens(frames)
        for block in self.blocks():
            tokens = tokens + block.attend(block.norm1(tokens), 2)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return self.read_tokens(tokens).unflatten(0, frames.shape[:2])


class ReturnsATuple(Good):
    def encode_frames(self, frames):
        return super().encode_frames(frames), None


class Flattened(Good):
    def encode_frames(self, frames):
        return super().encode_frames(frames).flatten(0, 1)


class DeclaresAnotherWidth(Good):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.embedding_width = 2 * C


class NotFinite(Good):
    def encode_frames(self, frames):
        return super().encode_frames(frames) / 0


class IgnoresTheFrames(Good):
    def encode_frames(self, frames):
        return super().encode_frames(torch.zeros_like(frames))


class CropsMoreThanItResizes(Good):
    def __init__(self, **settings):
        super().__init__(**{**settings, "resize": CROP - 1})


class StdOfPixels(Good):
    def __init__(self, **settings):
        super().__init__(**{**settings, "std": (58.0, 57.0, 57.0)})


class Dropout(Good):
    def encode_frames(self, frames):
        return nn.functional.dropout(super().encode_frames(frames), 0.5)


class NormalisesInPlace(Good):
    def encode_frames(self, frames):
        features = super().encode_frames(frames)
        frames.sub_(1)
        return features


class BatchStatistics(Good):
    def encode_frames(self, frames):
        features = super().encode_frames(frames)
        return features - features.mean((0, 1))


class MixesFrames(Good):
    def encode_frames(self, frames):
        features = super().encode_frames(frames)
        return features + features.mean(1, keepdim=True)


class NumbersFrames(Good):
    def encode_frames(self, frames):
        return super().encode_frames(frames) + torch.arange(frames.shape[1])[:, None]


class PoolsWithoutSayingSo(WithoutMaps):
    def time_steps(self, frames):
        return frames // 2

    def encode_frames(self, frames):
        return super().encode_frames(frames).unflatten(1, (-1, 2)).mean(2)


class DeclaresOrder(Good):
    sees_order = True


class GivesOtherSteps(Video):
    def time_steps(self, frames):
        return frames


class DeclaresAnotherStride(Good):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.map_stride = STRIDE // 2


class MapsOfTokens(Good):
    def encode_maps(self, frames):
        return super().encode_maps(frames).flatten(-2)

    def encode_frames(self, frames):
        return self.tower["head"](self.encode_maps(frames).mean(-1))


class TextOfAnotherWidth(WithText):
    def encode_text(self, texts):
        return super().encode_text(texts)[:, :-1]


class TextsAllEqual(WithText):
    def encode_text(self, texts):
        return super().encode_text(["a"] * len(texts))


class ScaleIsATensor(WithText):
    @property
    def logit_scale(self):
        return torch.tensor(10.0)


class HidesItsText(WithText):
    has_text = False


class StatisticsMove(Good):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class CountsItsVideos(Good):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.register_buffer("seen", torch.zeros(()))

    def encode_frames(self, frames):
        self.seen += len(frames)
        return super().encode_frames(frames)

    def fingerprint(self):
        state = self.state_dict()
        self.seen.zero_()
        return "".join(str(tensor.double().sum().item()) for tensor in state.values())


class Detached(Good):
    def encode_frames(self, frames):
        return self.tower["head"](self.encode_maps(frames).mean((-1, -2)).detach())


class ForgetsWhatIsBeyondMaps(Good):
    def beyond_maps(self):
        return []


class TunesTheTextToo(WithText):
    def tune_visual(self, *, maps=False):
        super().tune_visual(maps=maps)
        self.text.requires_grad_(True)


class TunesNothing(Good):
    def tune_visual(self, *, maps=False):
        pass


class FingerprintOfTheName(Good):
    def fingerprint(self):
        return self.name


class FingerprintOfTheObject(Good):
    def fingerprint(self):
        return str(id(self))


class KeepsAWeightElsewhere(Good):
    """A factor that no state holds."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self._factor = [torch.ones(C)]

    def load_state_dict(self, state, **more):
        self._factor[0] = self._factor[0] * 2
        return super().load_state_dict(state, **more)

    def encode_frames(self, frames):
        return super().encode_frames(frames) * self._factor[0]


class ForgetsABlock(WithBlocks):
    def blocks(self):
        return super().blocks()[:1]

    def encode_frames(self, frames):
        tokens = self.embed_tokens(frames)
        for block in super().blocks():
            tokens = tokens + block.attend(block.norm1(tokens), 2)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return self.read_tokens(tokens).unflatten(0, frames.shape[:2])


class WithPyramid(Good):
    """Its map of three other depths: the same positions, each of other channels."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.pyramid_widths, self.pyramid_strides = (1, 2, 3, D), (STRIDE,) * 4

    def encode_pyramid(self, frames):
        maps = self.encode_maps(frames)
        return [maps[:, :, :width] for width in (1, 2, 3, D)]


class DeclaresOtherWidthsOfThePyramid(WithPyramid):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.pyramid_widths = (2, 2, 3, D)


class PyramidOfThree(WithPyramid):
    def encode_pyramid(self, frames):
        return super().encode_pyramid(frames)[1:]


class PyramidEndsElsewhere(WithPyramid):
    def encode_pyramid(self, frames):
        return [2 * level for level in super().encode_pyramid(frames)]


class DeclaresAPyramidAlone(Good):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.pyramid_widths, self.pyramid_strides = (1, 2, 3, D), (STRIDE,) * 4


BROKEN = {
    "features have the shape and are finite": [
        ReturnsATuple, Flattened, DeclaresAnotherWidth, NotFinite, IgnoresTheFrames, CropsMoreThanItResizes, StdOfPixels,
        GivesOtherSteps,
    ],
    "evaluation is deterministic": [Dropout],
    "the input is left as it is": [NormalisesInPlace],
    "a video alone and in a batch": [BatchStatistics],
    "order of frames matters as declared": [MixesFrames, NumbersFrames, PoolsWithoutSayingSo, DeclaresOrder],
    "maps have the shape and are finite": [DeclaresAnotherStride, MapsOfTokens],
    "pyramid has four depths that end in the maps": [
        DeclaresOtherWidthsOfThePyramid, PyramidOfThree, PyramidEndsElsewhere, DeclaresAPyramidAlone,
    ],
    "texts have the width of frames": [TextOfAnotherWidth, TextsAllEqual, ScaleIsATensor, HidesItsText],
    "encoding changes no weights and no statistics": [StatisticsMove, CountsItsVideos],
    "gradients reach the tuned image tower": [Detached, ForgetsWhatIsBeyondMaps, TunesTheTextToo, TunesNothing],
    "the fingerprint follows the weights": [FingerprintOfTheName, FingerprintOfTheObject],
    "a saved state gives the same features": [KeepsAWeightElsewhere],
    "blocks compose to the features": [ForgetsABlock],
}  # fmt: skip
ALSO = {  # what cannot hold either
    BatchStatistics: {"order of frames matters as declared"},
    CountsItsVideos: {"the fingerprint follows the weights"},
}


def kit_of(kind: type[Backbone], **settings) -> BackboneTester:
    def build() -> Backbone:
        torch.manual_seed(0)
        return kind(**settings)

    return BackboneTester(build, frames=4)


def broken(kind: type[Backbone], **settings) -> dict[str, str]:
    return {o.name: o.reason for o in kit_of(kind, **settings).run() if o.state == "broken"}


@pytest.mark.parametrize("kind", [Good, WithText, WithoutMaps, Video, WithBlocks, WithPyramid])
def test_sound_backbones_pass(kind):
    outcomes = kit_of(kind).run()
    assert [outcome.name for outcome in outcomes] == [*BROKEN, "cpu and cuda agree"]
    assert broken(kind) == {}
    assert broken(kind, train_batch_norm=True) == {}
    skipped = {o.name for o in outcomes if o.state == "skipped"} - {"cpu and cuda agree"}
    assert ("maps have the shape and are finite" in skipped) == issubclass(kind, WithoutMaps)
    assert ("blocks compose to the features" in skipped) == (kind is not WithBlocks)
    assert ("pyramid has four depths that end in the maps" in skipped) == (kind is not WithPyramid)
    assert "order of frames matters as declared" not in skipped


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in BROKEN.items() for kind in kinds])
def test_each_fault_is_caught_by_its_property_alone(name, kind):
    reasons = broken(kind)
    assert name in reasons
    assert set(reasons) <= {name} | ALSO.get(kind, set())
    assert reasons[name]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ReturnsATuple, "what encode_frames returned is a tuple: a Tensor [V, T', C] = [3, 4, 6] is expected."),
        (
            Flattened,
            "what encode_frames returned has the shape [12, 6]: a Tensor [V, T', C] = [3, 4, 6] is expected.",
        ),
        (CropsMoreThanItResizes, "resize=15 is smaller than crop=16."),
    ],
)
def test_what_is_returned_and_what_is_expected_is_said_once(kind, message):
    assert broken(kind) == {"features have the shape and are finite": message}


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_resnet", "synthact_clip"])
def test_builtin_backbones_keep_the_contract(name):
    (subject,) = subjects("backbone", name, [])
    assert [outcome for outcome in subject.tester().run() if outcome.state == "broken"] == []


def test_weights_that_are_missing_are_said_and_random_ones_can_be_asked_for(cache):
    (subject,) = subjects("backbone", "tiny_resnet", ["pretrained=/nowhere/weights.safetensors"])
    with pytest.raises(ConfigError, match=r"tiny_resnet cannot be built: .*/nowhere/weights.safetensors"):
        subject.tester()
    (subject,) = subjects("backbone", "synthact_clip", ["pretrained=none"])
    assert [outcome for outcome in subject.tester().run() if outcome.state == "broken"] == []
