"""TRN++ (Cao et al., CVPR 2020; TRN: ECCV 2018): relations of ordered frames at several scales, the nearest class mean.

Re-implementation after OTAM's table, settings declared.

Followed: the multi-scale relation module of the official TRN code (metalbubble/TRN-pytorch), which was read: for every scale
s = T, ..., 2 the ReLU of s frames in their order, concatenated, a linear layer of width 256, and a ReLU, added over up to three
subsets of s frames that are drawn at random (all of them at scale T).
Differs: the layer that follows, to class logits, is left out: the sum is the embedding of the video. In eval mode all subsets are
used (247 at T = 8), as the mean of a scale times the number drawn in training: the expectation of what training computes, and
deterministic. The official code draws at random in its test too. Training is episodic on the scores; OTAM's row trained a
classifier of TRN first.
Unknown: how OTAM's row embeds and compares videos. Declared: cosine to the mean of a class's normalised shots, a fixed
`temperature` of 20, `out` = 256, three subsets per scale, AdamW 1e-4, no dropout.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import combinations
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import cosine_logits
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures

MOST_FRAMES = 16  # 65,519 subsets; their number doubles with every frame


@cache
def subsets(frames: int, size: int) -> Tensor:
    """All ordered subsets of `size` out of `frames` frames: int64 `[M, size]`, first to last frame in each."""
    return torch.tensor(list(combinations(range(frames), size)))


class Relations(nn.Module):
    """Relations of ordered subsets of frames, of all sizes from 2 to T.

    A linear layer over concatenated frames is a sum of one linear layer per place: frames are projected once per place, and
    subsets add them up.

    Args:
        width: C.
        frames: T, from 2 to 16.
        out: channels of a relation.
        drawn: subsets of each size that are drawn per forward pass in training.

    Raises:
        ConfigError: a number of frames or of drawn subsets outside its range.
    """

    def __init__(self, width: int, frames: int, *, out: int, drawn: int) -> None:
        super().__init__()
        if not 2 <= frames <= MOST_FRAMES:
            raise ConfigError(
                f"TRN relates all ordered subsets of 2 to {MOST_FRAMES} frames, but a video has {frames}: set frames=8."
            )
        if drawn < 1:
            raise ConfigError(f"method.drawn={drawn} must be a whole number above 0; TRN draws 3.")
        self.frames, self.drawn = frames, drawn
        self.layers = nn.ModuleList(nn.Linear(size * width, out) for size in range(2, frames + 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[V, T, C]` to videos `[V, out]`.

        Raises:
            ConfigError: a video has another number of frames than the layers.
        """
        T = frames.shape[1]
        if self.frames != T:
            raise ConfigError(f"TRN was built for {self.frames} frames, but a video has {T}: set frames={self.frames}.")
        active = F.relu(frames)
        return reduce(add, (self._scale(layer, active, size) for size, layer in enumerate(self.layers, 2)))

    def _scale(self, layer: nn.Module, active: Tensor, size: int) -> Tensor:
        """Sum of the relations drawn at one size, or its expectation in eval mode: `[V, out]`."""
        assert isinstance(layer, nn.Linear)
        chosen = subsets(self.frames, size)
        drawn = min(self.drawn, len(chosen))
        if self.training:
            chosen = chosen[torch.randperm(len(chosen))[:drawn]]
        places = layer.weight.chunk(size, 1)
        chosen = chosen.to(active.device)
        projected = (F.linear(active, place)[:, chosen[:, i]] for i, place in enumerate(places))
        return drawn * F.relu(reduce(add, projected) + layer.bias).mean(1)


@METHODS.register_module()
class TRN(FewShotMethod):
    """Multi-scale temporal relations as an embedding, and cosine to class means.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none".
        out: channels of the embedding.
        drawn: subsets of each size that are drawn per forward pass in training; evaluation uses all.
        temperature: factor of the cosines.
        frames: T; the protocol's frames.

    Raises:
        ConfigError: an unknown word for `tune`, fewer than 2 or more than 16 frames, or no drawn subset.
    """

    role_free = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        out: int = 256,
        drawn: int = 3,
        temperature: float = 20.0,
        frames: int = 8,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        self.relations = Relations(backbone.embedding_width, backbone.time_steps(frames), out=out, drawn=drawn)
        self.temperature = temperature
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, out]`, normalised."""
        return VideoFeatures(video=F.normalize(self.relations(features.frames), dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = temperature * cosine of a query and the mean of a class's shots."""
        return Scores(cosine_logits(query.video, support.video.mean(2), self.temperature))
