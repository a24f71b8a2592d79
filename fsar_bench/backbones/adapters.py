"""Adapters in the blocks of a frozen ViT, shared by methods that attend over frames and videos with its own attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.errors import ConfigError
from fsar_bench.layers import Adapter


class SpaceTimeBlock(nn.Module):
    """The trained parts of one frozen block that serves time, space and, with `across`, the videos of a set (AIM, ICLR 2023).

        x += A_time(MSA(LN_1 x)), over the frames at each position; with two adapters A_time(MSA(A_before(LN_1 x)))
        x += A_space(MSA(LN_1 x)), over the tokens of each frame
        x += A_across(MSA(LN_1 x)), over the videos of a set at each frame and position (Task-Adapter, ACM MM 2024)
        x += MLP(LN_2 x) + s A_joint(LN_2 x)

    A_before and A_space have a skip. All adapters start at zero, so that the block starts as the frozen one.

    Args:
        width: D.
        ratio: width of the adapters' bottleneck relative to D.
        joint_scale: s.
        num_temporal_adapters: 1, or 2 with A_before.
        across: let the videos of a set attend to each other.

    Raises:
        ConfigError: neither one nor two temporal adapters.
    """

    def __init__(
        self, width: int, *, ratio: float, joint_scale: float, num_temporal_adapters: int = 1, across: bool = False
    ) -> None:
        super().__init__()
        if num_temporal_adapters not in (1, 2):
            raise ConfigError(f"method.num_temporal_adapters={num_temporal_adapters} must be 1 or 2.")
        self.joint_scale = joint_scale
        self.before_time = Adapter(width, ratio=ratio, skip=True) if num_temporal_adapters == 2 else nn.Identity()
        self.time = Adapter(width, ratio=ratio, skip=False)
        self.space = Adapter(width, ratio=ratio, skip=True)
        self.across = Adapter(width, ratio=ratio, skip=False) if across else None
        self.joint = Adapter(width, ratio=ratio, skip=False)

    def forward(self, x: Tensor, block: ViTBlock) -> Tensor:
        """Run the block on the tokens of S sets of V videos, `[S, V, T, 1 + P, D]`; returns the same shape."""
        x = x + self.time(_attend_along(block, self.before_time(block.norm1(x)), 2))
        x = x + self.space(_attend_along(block, block.norm1(x), 3))
        if self.across is not None:
            x = x + self.across(_attend_along(block, block.norm1(x), 1))
        z = block.norm2(x)
        return x + block.mlp(z) + self.joint_scale * self.joint(z)


def _attend_along(block: ViTBlock, x: Tensor, dim: int) -> Tensor:
    """Apply a block's attention along one dimension of tokens `[..., D]`, to every sequence alone."""
    sequences = x.movedim(dim, -2)
    attended = block.attend(sequences.flatten(0, -3), x.shape[dim])
    return attended.reshape(sequences.shape).movedim(-2, dim)


def new_temporal_embedding(frames: int, width: int) -> nn.Parameter:
    """Return one learned vector per frame `[T, 1, D]`, zero at first, for `Backbone.embed_tokens`."""
    return nn.Parameter(torch.zeros(frames, 1, width))


def read_class_tokens(backbone: Backbone, tokens: Tensor, *, project: bool) -> Tensor:
    """Read frames from the tokens `[B, 1 + P, D]` that leave the last block.

    Args:
        backbone: a ViT.
        tokens: of B frames.
        project: give frame features `[B, C]`, as the backbone does; otherwise the class token after the last LayerNorm `[B, D]`.
    """
    return backbone.read_tokens(tokens) if project else backbone.norm_tokens(tokens)[:, 0]
