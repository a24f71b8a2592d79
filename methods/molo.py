"""MoLo (CVPR 2023, arXiv 2304.00946): long-short contrast with a class token, and motion from differences of feature maps.

Followed: the official code (alibaba-mmai-research/MoLo): HyRSM's positions, one transformer layer per branch with a learned
class token, motion as conv(map of t+1) - map of t, a decoder that rebuilds the differences of RGB frames, Bi-MHM with epsilon
in the cosine, motion distance weighted 0.3, contrast terms 0.05 each, classification of the sum of both branches' means.
Differs: all losses are divided by the same number; the code divides all but the reconstruction by 4 (one episode on each of
four GPUs), so its weight w_r of 0.05 or 0.1 is `reconstruction_weight` 0.2 or 0.4 here. The factors of the decoder's three steps
multiply to the stride of the backbone's map (2, 4, 4 there; 2, 2, 3 for patches of 12 pixels). The official code also flips
the queries of Something-Something, whose classes have directions; here `train.flip=on` does, and `recipe=official`.
Unknown: nothing; class weight (0.1 to 0.8), w_r and the scales A and B of the positions (Kinetics 2048, 0.02) are per dataset.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.backbones.decoder import map_decoder
from fsar_bench.layers import ClassTokenBranch, query_cross_entropy
from fsar_bench.matching import build_matcher, frame_distance
from fsar_bench.method import (
    METHODS,
    Backbone,
    ConfigError,
    EpisodeBatch,
    FewShotMethod,
    Scores,
    Traits,
    Tuned,
    VideoFeatures,
)

REDUCTION = 8  # a motion map has 1/8 of the channels of a feature map


@METHODS.register_module()
class MoLo(FewShotMethod):
    """Appearance and motion branches over feature maps, each with a class token that is contrasted with frames in training.

    Args:
        backbone: image encoder.
        matcher: config of the matcher; each branch has its own.
        tune: trained part of the backbone, "visual" or "none".
        motion_weight: weight of the motion branch's distance.
        class_weight: w_c, weight of the classification of training classes.
        contrast_weight: weight of each of the four contrast terms.
        reconstruction_weight: weight of the mean squared error of rebuilt frame differences (4 w_r, see the module's
            docstring).
        input_scale: A, for both branches.
        position_scale: B, for both branches.

    Raises:
        ConfigError: an unknown word for `tune`, or a backbone without a feature map for each frame.
    """

    role_free = True
    reads = "maps"
    score_only = ("motion_weight",)
    classifier: nn.Linear  # of the training classes, made by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "visual",
        motion_weight: float = 0.3,
        class_weight: float = 0.15,
        contrast_weight: float = 0.05,
        reconstruction_weight: float = 0.2,
        input_scale: float = 10.0,
        position_scale: float = 1.0,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        T = backbone.frames or 8  # that of any clip will do
        if backbone.time_steps(T) != T:
            raise ConfigError(
                f"MoLo rebuilds the difference of each two frames, but the backbone {backbone.name} has {backbone.time_steps(T)} "
                f"features for {T} frames: choose an image encoder with backbone=."
            )
        D = backbone.map_width
        small = max(1, D // REDUCTION)
        self.matcher, self.motion_matcher = build_matcher(matcher, D), build_matcher(matcher, D)
        self.motion_weight, self.class_weight = motion_weight, class_weight
        self.contrast_weight, self.reconstruction_weight = contrast_weight, reconstruction_weight
        self.appearance, self.motion = (
            ClassTokenBranch(D, input_scale=input_scale, position_scale=position_scale) for _ in range(2)
        )
        self.reduce = nn.Conv3d(D, small, 3, padding=1)
        self.conv = nn.Conv2d(small, small, 3, padding=1)
        self.expand = nn.Conv2d(small, D, 1)
        self.decoder = map_decoder(small, backbone.map_stride)
        self.scale, self.motion_scale = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def prepare(self, class_text: Tensor) -> None:
        """Make the classifier of the training classes."""
        self.classifier = nn.Linear(self.expand.out_channels, len(class_text))

    def difference(self, maps: Tensor) -> Tensor:
        """Compute motion maps `[V * (T - 1), D / 8, h, w]` from maps `[V, T, D, h, w]`."""
        reduced = self.reduce(maps.transpose(1, 2)).transpose(1, 2)  # [V, T, D / 8, h, w]
        after = self.conv(reduced.flatten(0, 1)).unflatten(0, reduced.shape[:2])
        return (after[:, 1:] - reduced[:, :-1]).flatten(0, 1)

    def branches(self, maps: Tensor, difference: Tensor) -> VideoFeatures:
        """Run both branches on maps `[V, T, D, h, w]` and their motion maps.

        Returns:
            `frames` `[V, 1 + T, D]` and `motion` `[V, T, D]` (a class token and T - 1 differences), class token first.

        Raises:
            ConfigError: a video has fewer than 2 frames.
        """
        V, T = maps.shape[:2]
        if T < 2:
            raise ConfigError("MoLo needs at least 2 frames of a video, for differences: raise frames=.")
        motion = F.relu(self.expand(difference)).mean((-1, -2)).view(V, T - 1, -1)
        return VideoFeatures(frames=self.appearance(maps.mean((-1, -2))), motion=self.motion(motion))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return the features of both branches; see `branches`."""
        return self.branches(features.maps, self.difference(features.maps))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -(appearance + motion_weight * motion distance) to the mean shots; parts "frames" and "motion"."""
        frames = -self.matcher(query.frames[:, :, 1:], support.frames[..., 1:, :].mean(2, keepdim=True))
        motion = -self.motion_matcher(query.motion[:, :, 1:], support.motion[..., 1:, :].mean(2, keepdim=True))
        return Scores(frames + self.motion_weight * motion, {"frames": frames, "motion": motion})

    @staticmethod
    def contrast(support: Tensor, query: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast the class tokens of one side with the frames of the other, in one branch.

        Args:
            support: prototypes `[E, N, 1 + L, D]`, class token first.
            query: queries `[E, Q, 1 + L, D]`, class token first.
            scale: learned factor.

        Returns:
            Logits `[E, Q, N]` of the supports' frames and the queries' tokens, and of the queries' frames and the supports'
            tokens.
        """
        s2q = frame_distance(query[:, :, :1], support[:, :, None, 1:], epsilon=0.01).sum((-1, -2, -3))
        q2s = frame_distance(query[:, :, 1:], support[:, :, None, :1], epsilon=0.01).sum((-1, -2, -3))
        return -scale * s2q, -scale * q2s

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of the scores, classification, four contrast terms and reconstruction of frame differences."""
        videos = episodes.videos()
        maps = self.embed_videos(episodes).maps
        difference = self.difference(maps)
        features = self.branches(maps, difference)
        support, query = episodes.split(features)
        logits = [
            *self.contrast(support.frames.mean(2), query.frames, self.scale),
            *self.contrast(support.motion.mean(2), query.motion, self.motion_scale),
        ]
        total = self.score(support, query, episodes.class_text).total
        class_logits = self.classifier(features.frames.mean(1) + features.motion.mean(1))
        contrast = reduce(add, (query_cross_entropy(x, episodes.labels) for x in logits))
        return {
            "loss_metric": query_cross_entropy(total, episodes.labels),
            "loss_class": self.class_weight * F.cross_entropy(class_logits, episodes.video_classes()),
            "loss_contrast": self.contrast_weight * contrast,
            "loss_reconstruction": self.reconstruction_weight * self.reconstruction_error(videos, difference),
        }

    def reconstruction_error(self, videos: Tensor, difference: Tensor) -> Tensor:
        """Compute the mean squared error of the frame differences that the decoder rebuilds.

        Args:
            videos: uint8 `[V, T, 3, H, W]`.
            difference: their motion maps, as `difference` returns them.

        Returns:
            A scalar, over differences of normalised pixels.
        """
        pixels = self.backbone.normalise(videos).unflatten(0, videos.shape[:2])
        target = (pixels[:, 1:] - pixels[:, :-1]).flatten(0, 1)
        rebuilt = self.decoder(difference)
        if rebuilt.shape != target.shape:  # the crop is no multiple of the stride
            rebuilt = F.interpolate(rebuilt, size=target.shape[-2:], mode="bilinear", align_corners=True)
        return F.mse_loss(rebuilt, target)
