"""BackboneTester: the contract of a backbone, tested on tiny random videos.

Everything is computed in float32, as in evaluation, so that a full-size backbone fits in memory too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.errors import ConfigError
from fsar_bench.testing.tester import (
    BrokenError,
    NotTestedError,
    Tester,
    describe_value,
    expect_tensor,
    parameters_without_gradient,
    smooth_videos,
    with_noise,
)

V = 3  # videos
TEXTS = ["a photo of a cat", "a photo of someone opening a door"]
SAME = 1e-4  # largest difference of equal features, relative to their size
DIFFERENT = 1e-6  # smallest difference of different features


class BackboneTester(Tester[Backbone]):
    """Tests the contract of one backbone.

    Args:
        build: builds the backbone; see `Tester`.
        frames: T.
    """

    def __init__(self, build: Callable[[], Backbone], *, frames: int) -> None:
        super().__init__(build)
        self.frames = frames

    # Fixtures and comparisons.

    def backbone(self) -> Backbone:
        """Return the backbone in eval mode, frozen, as methods have it."""
        backbone = self.fresh().eval()
        backbone.requires_grad_(False)
        return backbone

    def videos(self, backbone: Backbone) -> Tensor:
        """Return random videos uint8 `[V, T, 3, crop, crop]`, of the T that the backbone takes if it takes one alone."""
        frames = backbone.frames or self.frames
        return smooth_videos(V, frames, backbone.crop, torch.Generator().manual_seed(1))

    @staticmethod
    @torch.no_grad()
    def encode(backbone: Backbone, videos: Tensor) -> Tensor:
        """Encode copies of videos to features `[V, T', C]` without gradients."""
        return backbone.encode_frames(videos.clone())

    @torch.no_grad()
    def maps(self, backbone: Backbone, videos: Tensor) -> Tensor:
        """Encode videos to feature maps `[V, T', D, h, w]` without gradients.

        Raises:
            NotTestedError: the backbone has no maps.
        """
        try:
            return backbone.encode_maps(videos)
        except (ConfigError, NotImplementedError) as error:
            raise NotTestedError(f"no feature maps: {error}") from error

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> float:
        """Compute the largest difference, relative to the root mean square of `a`."""
        return float((a - b).abs().max() / a.square().mean().sqrt().clamp_min(1e-12))

    def expect_same(self, a: Tensor, b: Tensor, what: str) -> None:
        """Raise `BrokenError` with the message `what` unless two tensors of features are equal."""
        if a.shape != b.shape:
            raise BrokenError(f"{what} (the shape {list(b.shape)} instead of {list(a.shape)}).")
        if not (off := self.distance(a, b)) <= SAME:
            raise BrokenError(f"{what} (by {off:.2g} of their size).")

    # The properties.

    def test_features_have_the_shape_and_are_finite(self) -> None:
        """Attributes say the geometry, features are finite `[V, T', C]`, and videos differ."""
        backbone = self.backbone()
        self._expect_attributes(backbone)
        videos = self.videos(backbone)
        value: object = self.encode(backbone, videos)
        shape = (V, backbone.time_steps(videos.shape[1]), backbone.embedding_width)
        features = expect_tensor(value, "what encode_frames returned", "[V, T', C]", shape)
        if self.distance(features[0], features[1]) < DIFFERENT:
            raise BrokenError("different videos have the same features.")

    @staticmethod
    def _expect_attributes(backbone: Backbone) -> None:
        for name in ("resize", "crop", "embedding_width"):
            value = getattr(backbone, name, None)
            if not isinstance(value, int) or value < 1:
                raise BrokenError(f"{name} is {value!r}: a whole number above 0 is expected.")
        if backbone.resize < backbone.crop:
            raise BrokenError(f"resize={backbone.resize} is smaller than crop={backbone.crop}.")
        for name in ("mean", "std"):
            value = expect_tensor(getattr(backbone, name, None), name, "[3, 1, 1]", (3, 1, 1))
            if not 0 <= float(value.min()) <= float(value.max()) <= 1:
                raise BrokenError(
                    f"{name}={value.flatten().tolist()}: numbers for pixel values from 0 to 1 are expected."
                )
        if not float(backbone.std.min()) > 0:
            raise BrokenError("std contains 0.")

    def test_evaluation_is_deterministic(self) -> None:
        """Two encodings of the same videos are equal."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        first, second = self.encode(backbone, videos), self.encode(backbone, videos)
        self.expect_same(first, second, "two encodings of the same videos differ: is a dropout on?")

    def test_the_input_is_left_as_it_is(self) -> None:
        """Encoding does not write into the frames that it is given."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        before = videos.clone()
        with torch.no_grad():
            backbone.encode_frames(videos)
        if not torch.equal(before, videos):
            raise BrokenError("encode_frames writes into the frames that it is given.")

    def test_a_video_alone_and_in_a_batch(self) -> None:
        """A video has the same features alone and in a batch."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        alone = torch.cat([self.encode(backbone, video[None]) for video in videos])
        self.expect_same(
            self.encode(backbone, videos),
            alone,
            "a video has other features alone than in a batch: are batch statistics on?",
        )

    def test_order_of_frames_matters_as_declared(self) -> None:
        """The features of a frame depend on that frame alone, and not on its place, unless `sees_order` is True."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        if backbone.sees_order:
            with_noise(backbone.requires_grad_(True), torch.Generator().manual_seed(0))  # positions may start at zero
            features, other = self.encode(backbone, videos), self.encode(backbone, videos.flip(1))
            if self.distance(features, other) <= SAME or self.distance(features, other.flip(1)) <= SAME:
                raise BrokenError(
                    "sees_order is True, but reversed frames have the same features, or the same reversed."
                )
            return
        features = self.encode(backbone, videos)
        frames = videos.shape[1]
        if features.shape[1] != frames:
            raise BrokenError(
                f"{frames} frames give {features.shape[1]} features over time, but sees_order is not True: a video backbone "
                "declares it."
            )
        single = torch.cat([self.encode(backbone, videos[:, t : t + 1]) for t in range(frames)], 1)
        self.expect_same(
            features, single, "a frame has other features alone than in its video: sees_order is not declared"
        )

    def test_maps_have_the_shape_and_are_finite(self) -> None:
        """Feature maps are finite `[V, T', D, h, w]` of the width and stride that are declared."""
        backbone = self.backbone()
        value: object = self.maps(backbone, self.videos(backbone))
        steps = self.encode(backbone, self.videos(backbone)).shape[1]
        for name in ("map_width", "map_stride"):
            if not isinstance(getattr(backbone, name, None), int):
                raise BrokenError(f"it has feature maps, but {name} is {getattr(backbone, name, None)!r}.")
        side = backbone.crop // backbone.map_stride
        expect_tensor(
            value, "what encode_maps returned", "[V, T', D, h, w]", (V, steps, backbone.map_width, side, side)
        )

    def test_pyramid_has_four_depths_that_end_in_the_maps(self) -> None:
        """Maps of four depths have the widths and strides that are declared, and the last are those of `encode_maps`."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        maps = self.maps(backbone, videos)
        try:
            with torch.no_grad():
                levels = backbone.encode_pyramid(videos)
        except ConfigError as error:
            if backbone.pyramid_widths:
                raise BrokenError(
                    f"pyramid_widths is {backbone.pyramid_widths}, but encode_pyramid refuses."
                ) from error
            raise NotTestedError(f"no maps of several depths: {error}") from error
        declared = (len(levels), len(backbone.pyramid_widths), len(backbone.pyramid_strides))
        if declared != (4, 4, 4):
            raise BrokenError(f"encode_pyramid, pyramid_widths and pyramid_strides hold {declared}, not 4 each.")
        for number, level in enumerate(levels):
            width, side = backbone.pyramid_widths[number], backbone.crop // backbone.pyramid_strides[number]
            value: object = level
            shape = (*maps.shape[:2], width, side, side)
            expect_tensor(value, f"level {number} of encode_pyramid", "[V, T', D_i, h_i, w_i]", shape)
        self.expect_same(maps, levels[-1], "the last level of encode_pyramid differs from encode_maps")

    @torch.no_grad()
    def test_texts_have_the_width_of_frames(self) -> None:
        """A backbone with a text encoder gives `[texts, C]` and a scale of the cosine; another one refuses texts."""
        backbone = self.backbone()
        if not backbone.has_text:
            try:
                backbone.encode_text(TEXTS)
            except ConfigError:
                return
            raise BrokenError("has_text is False, but encode_text takes texts.")
        shape = (len(TEXTS), backbone.embedding_width)
        texts = expect_tensor(backbone.encode_text(TEXTS), "what encode_text returned", "[texts, C]", shape)
        if self.distance(texts[0], texts[1]) < DIFFERENT:
            raise BrokenError("different texts have the same features.")
        scale: object = backbone.logit_scale
        if not isinstance(scale, float) or not scale > 0:
            raise BrokenError(f"logit_scale is {describe_value(scale)}: a number above 0 is expected.")

    def test_encoding_changes_no_weights_and_no_statistics(self) -> None:
        """Neither evaluation nor a frozen backbone in training mode changes a tensor; statistics move if `train_batch_norm`."""
        backbone = self.fresh()
        videos = self.videos(backbone)
        for mode, tuned in (("eval mode", False), ("training mode, frozen", False), ("training mode, tuned", True)):
            if tuned and backbone.train_batch_norm:
                continue
            backbone.requires_grad_(False)
            if tuned:
                backbone.tune_visual()
            backbone.train(mode != "eval mode")
            before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
            self.encode(backbone, videos)
            changed = [n for n, tensor in backbone.state_dict().items() if not torch.equal(before[n], tensor)]
            if changed:
                raise BrokenError(f"encoding changes {changed[0]} in {mode}.")

    def test_gradients_reach_the_tuned_image_tower(self) -> None:
        """`tune_visual` unfreezes parts of the image tower alone, and a loss on features or maps reaches all of them."""
        for maps in (False, True):
            backbone = self.backbone()
            visual = {id(parameter) for parameter in backbone.visual.parameters()}
            backbone.tune_visual(maps=maps)
            trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
            if not trained:
                raise BrokenError("tune_visual unfreezes no parameter.")
            outside = [name for name, parameter in trained.items() if id(parameter) not in visual]
            if outside:
                raise BrokenError(f"tune_visual unfreezes {outside[0]}, which is not in visual.")
            with_noise(backbone, torch.Generator().manual_seed(0))  # a layer that starts at zero lets nothing through
            videos = self.videos(backbone)
            try:
                output = backbone.encode_maps(videos) if maps else backbone.encode_frames(videos)
            except (ConfigError, NotImplementedError):
                continue  # no maps
            weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
            (output * weights).sum().backward()
            without = parameters_without_gradient(trained)
            if without:
                what = "maps" if maps else "features"
                raise BrokenError(
                    f"a loss on {what} does not reach {without[0]} ({len(without)} of {len(trained)} parameters)."
                )

    def test_the_fingerprint_follows_the_weights(self) -> None:
        """A copy has the same fingerprint, also after encoding; a change of any tensor gives another."""
        backbone = self.backbone()
        before = backbone.fingerprint()
        self.encode(backbone, self.videos(backbone))
        if self.fresh().fingerprint() != before or backbone.fingerprint() != before:
            raise BrokenError("the same weights have several fingerprints.")
        tensors = [(name, t) for name, t in backbone.state_dict().items() if t.is_floating_point() and t.numel()]
        for name, tensor in {0: tensors[0], 1: tensors[len(tensors) // 2], 2: tensors[-1]}.values():
            original = tensor.clone()
            tensor.view(-1)[0] += 1
            if backbone.fingerprint() == before:
                raise BrokenError(f"the fingerprint does not depend on {name}.")
            tensor.copy_(original)

    def test_a_saved_state_gives_the_same_features(self) -> None:
        """The state of a backbone, loaded into another one of its kind, gives the same features."""
        backbone, other = self.backbone(), self.backbone()
        videos = self.videos(backbone)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        other.load_state_dict(backbone.state_dict())
        self.expect_same(
            self.encode(backbone, videos), self.encode(other, videos), "its loaded state gives other features"
        )

    @torch.no_grad()
    def test_blocks_compose_to_the_features(self) -> None:
        """Where adapters can work inside a ViT: its tokens, passed through its blocks and read, are the features."""
        backbone = self.backbone()
        videos = self.videos(backbone)
        try:
            blocks, tokens = backbone.blocks(), backbone.embed_tokens(videos)
        except ConfigError as error:
            raise NotTestedError(f"no blocks for adapters: {error}") from error
        for block in blocks:
            tokens = tokens + block.attend(block.norm1(tokens), tokens.shape[1])
            tokens = tokens + block.mlp(block.norm2(tokens))
        composed = backbone.read_tokens(tokens).unflatten(0, videos.shape[:2])
        self.expect_same(self.encode(backbone, videos), composed, "blocks and read_tokens give other features")

    def test_cpu_and_cuda_agree(self) -> None:
        """Features on the CPU and on a CUDA device agree within 1 %."""
        if not torch.cuda.is_available():
            raise NotTestedError("no CUDA device on this machine")
        backbone = self.backbone()
        videos = self.videos(backbone)
        on_cpu = self.encode(backbone, videos)
        on_cuda = self.encode(backbone.cuda(), videos.cuda()).cpu()
        if self.distance(on_cpu, on_cuda) > 0.01:
            raise BrokenError("CUDA gives other features than the CPU.")
