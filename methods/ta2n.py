"""TA2N (AAAI 2022, arXiv 2107.04782): re-timed clips, then an alignment of each query with each class in time and space.

Followed: the official code (R00Kie-Liu/TA2N): an affine map of time per clip (it starts at a = tanh 2, so clips are shortened a
little), attention over time between the shots of a class, attention over time and offsets in space between a query and a class
(nine masks around each offset, in evaluation too), frame-wise cosine. W_v of the shots is applied to shots and queries, and only
at more than one shot. TTAN, the first version of the paper, is `spatial=False`: means over space in place of the masks.
Differs: the reference of a class's shots is their mean (`reference="mean"`), so that their order changes nothing; the official
code takes the first shot (`reference="first"`). Maps of more than 7 x 7 positions (a ViT's) are average-pooled to 7 x 7, and
axes that are shorter than a pooling window are not pooled. The optional LayerNorm over the classes' scores is left out.
Evaluation on the suite's own episodes, selection on val (there the best checkpoint on the episodes of the test). Training: AdamW
with warm-up and cosine instead of SGD with a constant 1e-3 without momentum; batch norm of a ResNet stays in eval mode.
Unknown: how TTAN compares videos; the distance of TA2N is taken.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.matching.warping import attend, masks, retime
from fsar_bench.method import METHODS, Backbone, FewShotMethod, Scores, Traits, Tuned, VideoFeatures, check_choice

CHUNK = 2**25  # floats in the largest intermediate array
GRID = 7  # positions per side of a map
REACH = 0.75  # largest offset; a map reaches from -1 to 1
Reference = Literal["mean", "first"]


class Regressor(nn.Module):
    """Two convolutions over time and space, a maximum and two linear layers, to two numbers between -1 and 1.

    Args:
        width: channels of its input.
        middle: channels after the first convolution.
        hidden: width of the hidden linear layer.
        over_time: give one pair of numbers per clip, not one per frame.
    """

    def __init__(self, width: int, *, middle: int, hidden: int, over_time: bool) -> None:
        super().__init__()
        self.over_time = over_time
        self.first, self.norm1 = nn.Conv3d(width, middle, 3, padding=1), nn.BatchNorm3d(middle)
        self.second, self.norm2 = nn.Conv3d(middle, 128, 3, padding=1), nn.BatchNorm3d(128)
        self.hidden, self.last = nn.Linear(128, hidden), nn.Linear(hidden, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map the output of `first`, `[B, middle, T, h, w]`, to `[B, 2]`, or `[B, T, 2]` without `over_time`."""
        x = self._halve(self.norm1(x))
        x = self._halve(self.norm2(self.second(x)))
        x = x.amax((2, 3, 4)) if self.over_time else x.amax((3, 4)).transpose(1, 2)
        return torch.tanh(self.last(F.relu(self.hidden(x))))

    def _halve(self, x: Tensor) -> Tensor:
        time, *space = (min(2, size) for size in x.shape[2:])
        return F.relu(F.max_pool3d(x, (time if self.over_time else 1, *space)))


class Projections(nn.Module):
    """The key, query and value matrices of an attention, without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def value_of(self, maps: Tensor) -> Tensor:
        """Apply the value matrix to every position of maps `[..., D, h, w]`."""
        return F.linear(maps.movedim(-3, -1), self.value.weight).movedim(-1, -3)


@METHODS.register_module()
class TA2N(FewShotMethod):
    """Two-stage alignment network over feature maps.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none".
        spatial: align a query and a class in space too (TA2N); False is TTAN.
        reference: what the shots of a class are aligned with, their "mean" or the "first" of them.
        dropout: dropout of the maps in training.

    Raises:
        ConfigError: an unknown word for `tune` or `reference`, or a backbone without feature maps.
    """

    role_free = True
    reads = "maps"
    shots_average = False  # one shot is compared without W_v of the shots, more than one with it

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        spatial: bool = True,
        reference: Reference = "mean",
        dropout: float = 0.5,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        check_choice("reference", reference, Reference)
        D = backbone.map_width
        self.spatial, self.reference, self.drop = spatial, reference, nn.Dropout(dropout)
        self.time = Regressor(D, middle=64, hidden=32, over_time=True)
        with torch.no_grad():
            self.time.last.bias[0] = 2.0
        self.shots, self.pair = Projections(D), Projections(D)
        self.offsets = Regressor(2 * D, middle=128, hidden=64, over_time=False) if spatial else None
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `maps` `[V, T, D, h, w]`, re-timed, of at most 7 x 7 positions; of one without `spatial`."""
        maps = self.drop(features.maps)
        if max(maps.shape[-2:]) > GRID:
            size = tuple(min(GRID, side) for side in maps.shape[-2:])
            maps = F.adaptive_avg_pool2d(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2])
        theta = self.time(self.time.first(maps.transpose(1, 2)))
        return VideoFeatures(maps=retime(maps if self.spatial else maps.mean((-2, -1), keepdim=True), theta))

    def prototypes(self, shots: Tensor) -> Tensor:
        """Align the shots of each class `[E, N, K, T, D, h, w]` in time and average them: `[E, N, T, D, h, w]`."""
        if shots.shape[2] == 1:
            return shots[:, :, 0]
        frames = shots.mean((-2, -1))
        reference = frames.mean(2, keepdim=True) if self.reference == "mean" else frames[:, :, :1]
        attention = attend(self.shots.key(frames), self.shots.query(reference), dim=-2)  # [E, N, K, source, target]
        return self.shots.value_of(torch.einsum("enkst,enksdhw->entdhw", attention, shots) / shots.shape[2])

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -(sum over frames of 1 - cosine) of an aligned query and class."""
        N, K, T, _, h, w = support.maps.shape[1:]
        step = max(1, CHUNK // (max(N, 3) * 128 * T * h * w))
        if self.training:
            step = query.maps.shape[1]  # batch norm sees all pairs of an episode
        totals = []
        for shots, queries in zip(support.maps.split(1), query.maps, strict=True):
            classes = self.prototypes(shots)[0]
            valued = self.shots.value_of(queries) if K > 1 else queries
            totals.append(torch.cat([self.compare(classes, part) for part in valued.split(step)]))
        return Scores(torch.stack(totals))

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Scores `[Q, N]` of queries `[Q, T, D, h, w]` and prototypes `[N, T, D, h, w]`."""
        support, query = self.align(classes, queries)
        return (F.cosine_similarity(support, query, dim=-1) - 1).sum(-1)

    def align(self, classes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Align pairs in time and space: frames of the class and of the query, `[Q, N, T, D]` each (or `[1, N, T, D]`)."""
        s, q = classes.mean((-2, -1)), queries.mean((-2, -1))
        attention = attend(
            self.pair.key(s), self.pair.query(q)[:, None], dim=-1
        )  # [Q, N, T of the class, T of the query]
        values = self.pair.value(q)
        aligned = attention @ values[:, None]
        support = classes + self.pair.value(s)[..., None, None]
        if self.offsets is None:
            return support[None, ..., 0, 0], queries[:, None, ..., 0, 0] + aligned
        offset = self.offset(support, queries, attention, values)
        h, w = classes.shape[-2:]
        seen = torch.einsum("qnthw,ntdhw->qntd", masks(offset, h, w), support)
        return seen, torch.einsum("qnthw,qtdhw->qntd", masks(-offset, h, w), queries) + aligned

    def offset(self, support: Tensor, queries: Tensor, attention: Tensor, values: Tensor) -> Tensor:
        """Offset (x, y) of every frame of every pair, `[Q, N, T, 2]`.

        The first convolution is linear, so it is a sum: on the maps of the class, on those of the query, and on the aligned
        frames, which are the same at all positions. This last part mixes what the kernel's taps give on the query's frames.
        """
        assert self.offsets is not None
        first = self.offsets.first
        (Q, T), N, (h, w) = queries.shape[:2], len(support), queries.shape[-2:]
        of_class, of_query = first.weight.chunk(2, 1)
        taps = torch.einsum("qyd,odtij->qytoij", values, of_query)
        flat = F.conv2d(taps.new_ones(1, 1, h, w), taps.flatten(0, 3)[:, None], padding=1).view(*taps.shape[:4], h, w)
        neighbours = F.pad(attention, (0, 0, 1, 1)).unfold(2, 3, 1)  # [Q, N, T, T of the query, 3]
        both = torch.einsum("qnxyt,qytohw->qnoxhw", neighbours, flat)
        both = both + F.conv3d(support.transpose(1, 2), of_class, first.bias, padding=1)
        both = both + F.conv3d(queries.transpose(1, 2), of_query, padding=1)[:, None]
        return REACH * self.offsets(both.flatten(0, 1)).view(Q, N, T, 2)
