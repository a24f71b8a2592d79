"""SloshNet (AAAI 2023, arXiv 2301.07944): maps of four depths fused by a searched cell, short- and long-term modelling, TRX.

Followed: the official code (jiazheng-xing/SloshNet) for the spatial modulation to the size of the last maps, the cell of four
nodes with its three operations (of which those with a share of at most 0.01 are dropped) and its weighted sum, the
short-term module of 16 groups, the block of the long-term module, the two weights of the modules, and TRX. Training: 16
episodes per step, 5 queries per class, random crops of 224 pixels.
Differs: the long-term module attends over the frames of a video at each position, as the paper says. The code, which hands
its videos to the attention in another order than that expects, attends over the positions of all videos of a call instead,
and exchanges channels and frames in the output, so that the score of a query changes with the other queries. The operations'
weights start at 0 instead of normal values of std 0.001, and positions of TRX share one dropout. Maps of one size, as a ViT
has them, are only brought to one width (a 1 x 1 convolution, or nothing where they agree). Training: one AdamW of 1e-4 with
warm-up and cosine for everything (there SGD, 1e-3 on Something-Something and 1e-4 elsewhere, with steps, and Adam of 3e-3
for the weights of the operations); the cross-entropy is averaged over the queries (there summed); 20,000 episodes everywhere.
Unknown: the settings of any backbone but ResNet-50.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fsar_bench.layers import TransformerBlock
from fsar_bench.matching import build_matcher
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures


def size_steps(widths: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """Make the layers that bring maps of one depth to width and size of the last one, depth by depth.

    ReLU, BN, Conv3x3 with the ratio of the strides; Conv1x1 where the size agrees; nothing where the width does too.

    Args:
        widths: D_i of this depth and of all after it.
        strides: pixels per position of the same depths.
    """
    steps: list[nn.Module] = []
    for (width, out), (stride, out_stride) in zip(pairwise(widths), pairwise(strides), strict=True):
        ratio = out_stride // stride
        if (ratio, width) != (1, out):
            kernel = 3 if ratio > 1 else 1
            convolution = nn.Conv2d(width, out, kernel, ratio, padding=kernel // 2, bias=False)
            steps.append(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(width), convolution))
    return nn.Sequential(*steps)


class SearchCell(nn.Module):
    """A cell of four nodes: state 0 is the first level, state k sums what each earlier state and level k give.

    An edge gives the sum of g + sigmoid(pool g) s, s + sigmoid(pool s) g and s + g (s: a state, g: a level, pool: the mean
    over positions), weighted by the softmax of its three parameters.

    Args:
        drop_below: operations of at most this share are left out.
    """

    def __init__(self, drop_below: float) -> None:
        super().__init__()
        self.drop_below = drop_below
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(node, 3)) for node in (1, 2, 3))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Compute the four states `[B, C, h, w]` of four levels `[B, C, h, w]`."""
        states = [levels[0]]
        for level, weights in zip(levels[1:], self.weights, strict=True):
            edges = zip(states, weights.softmax(-1), strict=True)
            states.append(torch.stack([self._edge(state, level, shares) for state, shares in edges]).sum(0))
        return states

    def _edge(self, state: Tensor, level: Tensor, shares: Tensor) -> Tensor:
        gates = [x.mean((-1, -2), keepdim=True).sigmoid() for x in (level, state)]
        results = torch.stack([level + gates[0] * state, state + gates[1] * level, state + level])
        kept = shares * (shares > self.drop_below)
        return torch.einsum("o,o...->...", kept, results)


class ShortTerm(nn.Module):
    """Motion between neighbouring frames gates the values: out_t = -sigmoid(W_2 GELU(W_1 (k_{t+1} - q_t))) v_t.

    Keys and queries pass a depthwise 3x3 convolution whose kernels the groups share. The last frame has no motion.

    Args:
        width: C.
        groups: number of groups of channels; must divide C.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise ConfigError(f"method.groups={groups} does not divide the width of the last maps, {width}.")
        self.groups, each = groups, width // groups
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.of_query, self.of_key = (nn.Conv2d(each, each, 3, padding=1, groups=each, bias=False) for _ in range(2))
        self.motion = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.GELU(), nn.Linear(width, width, bias=False), nn.Sigmoid()
        )

    def _convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        V, T, C = x.shape[:3]
        return layer(x.reshape(V * T * self.groups, C // self.groups, *x.shape[3:])).view_as(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[V, T, C, h, w]` to `[V, T, C, h, w]`."""
        q, k, v = self.qkv(x.movedim(2, -1)).movedim(-1, 2).contiguous().chunk(3, 2)
        motion = self._convolve(self.of_key, k[:, 1:]) - self._convolve(self.of_query, q[:, :-1])
        motion = torch.cat([motion, torch.zeros_like(v[:, :1])], 1)
        return -self.motion(motion.movedim(2, -1)).movedim(-1, 2) * v


@METHODS.register_module()
class SloshNet(FewShotMethod):
    """Features of four depths, fused; short-term motion plus long-term attention; TRX over the mean of all positions.

    Args:
        backbone: image encoder with maps of four depths.
        matcher: config of the matcher; TRX with single frames, on Something-Something also with pairs.
        tune: "visual" or "none".
        groups: groups of channels of the short-term module.
        heads: attention heads of the long-term module.
        drop_below: share up to which an operation of the cell is left out.

    Raises:
        ConfigError: `groups` or `heads` does not divide the width of the last maps.
        NotApplicableError: the backbone has no maps of four depths.
    """

    reads = "pyramid"
    role_free = True
    matched = "frames"
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "visual",
        groups: int = 16,
        heads: int = 8,
        drop_below: float = 0.01,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        widths, strides = backbone.pyramid_widths, backbone.pyramid_strides
        if not widths:
            raise backbone.without_pyramid()
        self.modulation = nn.ModuleList(size_steps(widths[level:], strides[level:]) for level in range(4))
        self.cell = SearchCell(drop_below)
        self.state_weights = nn.Parameter(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]).log())
        self.short_term = ShortTerm(widths[-1], groups)
        self.long_block = TransformerBlock(widths[-1], heads=heads, epsilon=1e-12)
        self.term_weights = nn.Parameter(torch.tensor([0.5, 0.5]).log())  # of the long and of the short term
        self.matcher = build_matcher(matcher, widths[-1])

    def fuse(self, levels: list[Tensor]) -> Tensor:
        """Weighted sum `[B, C, h, w]` of the cell's states and the last of four modulated levels `[B, C, h, w]`."""
        return torch.einsum(
            "s,s...->...", self.state_weights.softmax(-1), torch.stack([*self.cell(levels), levels[-1]])
        )

    def long_term(self, x: Tensor) -> Tensor:
        """Let the frames of a video attend to each other at each position: `[V, T, C, h, w]` to `[V, T, C, h, w]`."""
        V, _, _, h, w = x.shape
        return self.long_block(x.permute(0, 3, 4, 1, 2).flatten(0, 2)).unflatten(0, (V, h, w)).permute(0, 3, 4, 1, 2)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `frames` `[V, T, C]`."""
        V, T = features.level0.shape[:2]
        levels = [
            steps(level.flatten(0, 1)) for steps, (_, level) in zip(self.modulation, features.items(), strict=True)
        ]
        fused = self.fuse(levels).unflatten(0, (V, T))
        long, short = 2 * self.term_weights.softmax(-1)
        both = short * self.short_term(fused) + long * self.long_term(fused)
        return VideoFeatures(frames=both.mean((-1, -2)))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -distance of the matcher."""
        return Scores(-self.matched_distance(query, support))
