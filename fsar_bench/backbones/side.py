"""A side network: a narrow transformer that reads the tokens of a frozen ViT after every layer and never feeds them back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.errors import ConfigError, NotApplicableError


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, nothing around it.

    Args:
        width: C.
        heads: number of attention heads; must divide C.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"heads={heads} does not divide the width {width} of the attention.")
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, L, C]` to tokens `[B, L, C]`."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class SideBlock(nn.Module):
    """A transformer block with LayerNorms before attention and MLP, over the tokens of a frame or over time.

    Args:
        width: W.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP relative to W.
        over_time: each token attends to the tokens at its position in the other frames, not to those of its own frame.
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, over_time: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), SelfAttention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2, self.over_time = nn.Linear(width, hidden), nn.Linear(hidden, width), over_time

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Map tokens `[V * frames, L, W]` to tokens of that shape."""
        z = self.norm1(x)
        if self.over_time:
            V, L = len(x) // frames, x.shape[1]
            z = self.attn(z.unflatten(0, (V, frames)).transpose(1, 2).flatten(0, 1))
            z = z.unflatten(0, (V, L)).transpose(1, 2).flatten(0, 1)
        else:
            z = self.attn(z)
        x = x + z
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SideNetwork(nn.Module):
    """One side block per block of a ViT; a learned gate mixes each with the tokens of that depth (LSN of TS-FSAR, AAAI 2026).

    state = g_n Side_n(state) + (1 - g_n) Down_n(LN_n(tokens_n)), with g_n = sigmoid(theta_n / gate_temperature).

    Args:
        backbone: whose blocks it accompanies; it is not kept.
        width: W; None takes a third of the ViT's width, in multiples of 8 (256 of 768, 64 of 192).
        heads: number of attention heads; None takes the largest divisor of W that leaves heads of at least 64 channels.
        temporal_layers: numbers of the blocks, from 0, that attend over time; None takes every other one from the middle on (6, 8
            and 10 of 12).
        mlp_ratio: hidden width of the MLPs relative to W.
        gate_temperature: factor that divides theta.

    Raises:
        ConfigError: `heads` that do not divide the width, or a block that the backbone does not have.
        NotApplicableError: the image tower is not a ViT.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        width: int | None = None,
        heads: int | None = None,
        temporal_layers: Iterable[int] | None = None,
        mlp_ratio: float = 4.0,
        gate_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        depth, D = len(backbone.blocks()), backbone.map_width
        W = max(D // 3 // 8, 1) * 8 if width is None else width
        heads = max(n for n in range(1, max(W // 64, 1) + 1) if W % n == 0) if heads is None else heads
        temporal = set(range(depth // 2, depth, 2) if temporal_layers is None else temporal_layers)
        if not temporal <= set(range(depth)):
            raise ConfigError(
                f"temporal_layers={sorted(temporal)} must be numbers of the {depth} blocks, 0 to {depth - 1}."
            )
        self.width, self.gate_temperature = W, gate_temperature
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(depth + 1))
        self.downs = nn.ModuleList(nn.Linear(D, W, bias=False) for _ in range(depth + 1))
        self.blocks = nn.ModuleList(
            SideBlock(W, heads, mlp_ratio=mlp_ratio, over_time=n in temporal) for n in range(depth)
        )
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(depth))

    def start_from(self, blocks: Iterable[ViTBlock]) -> None:
        """Start the side blocks from reductions of the blocks that they accompany; see `reduced`.

        Raises:
            NotApplicableError: the backbone does not give the weights of its blocks.
        """
        for module, block in zip(self.blocks, blocks, strict=True):
            side = cast("SideBlock", module)  # torch does not type a list's items
            layers = {**dict(side.attn.named_children()), "fc1": side.fc1, "fc2": side.fc2}
            for name, layer in layers.items():
                start_layer(layer, block, name)
            for ours, theirs in ((side.norm1, block.norm1), (side.norm2, block.norm2)):
                _copy_reduced(ours, theirs.get_parameter("weight"), theirs.get_parameter("bias"))

    def forward(self, backbone: Backbone, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the ViT and the side network next to it.

        Args:
            backbone: the frozen ViT.
            frames: uint8 `[V, T, 3, H, W]`.

        Returns:
            The side tokens `[V * T, 1 + P, W]` and the tokens that leave the last block of the ViT `[V * T, 1 + P, D]`.
        """
        T, x = frames.shape[1], backbone.embed_tokens(frames)
        state = self.downs[0](self.norms[0](x))
        for n, block in enumerate(backbone.blocks()):
            x = x + block.attend(block.norm1(x), x.shape[1])
            x = x + block.mlp(block.norm2(x))
            gate = torch.sigmoid(self.gates[n] / self.gate_temperature)
            state = gate * self.blocks[n](state, T) + (1 - gate) * self.downs[n + 1](self.norms[n + 1](x))
        return state, x


def start_layer(layer: nn.Module, block: ViTBlock, name: str) -> None:
    """Start a linear layer from the reduction of a layer of a block: "q", "k", "v", "out", "fc1" or "fc2".

    Raises:
        NotApplicableError: the backbone does not give the weights of its blocks.
    """
    if name not in block.weights:
        raise NotApplicableError(
            "This backbone does not give the weights of its blocks, from which the side network starts: choose a CLIP ViT "
            "with backbone=, or method.side_start=random."
        )
    _copy_reduced(layer, *block.weights[name])


@torch.no_grad()
def _copy_reduced(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    for name, source in (("weight", weight), ("bias", bias)):
        target = layer.get_parameter(name)
        target.copy_(reduced(source, target.shape))


def reduced(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reduce a weight to a smaller shape, as TS-FSAR's code does.

    A vector is resized bicubically. A matrix `[R, S]` that becomes `[r, s]` with r >= s: the rows, as samples, are replaced by
    their first s principal components, and the first r rows are kept; with r < s the same is done to its transpose.

    Args:
        weight: vector or matrix.
        shape: of the result.

    Raises:
        ConfigError: the matrix has fewer components, or fewer rows, than the result.
    """
    if weight.ndim == 1:
        return F.interpolate(weight[None, None, :, None], size=(shape[0], 1), mode="bicubic")[0, 0, :, 0]
    rows, columns = shape
    if rows < columns:
        return reduced(weight.T, (columns, rows)).T
    if columns > min(weight.shape) or rows > weight.shape[0]:
        raise ConfigError(
            f"A weight of {tuple(weight.shape)} cannot be reduced to {tuple(shape)}: lower method.side_width, or set "
            "method.side_start=random."
        )
    centred = weight.double() - weight.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :columns]
    largest = axes.gather(
        0, axes.abs().argmax(0, keepdim=True)
    )  # the sign of an axis is free: its largest entry is positive
    return (centred @ (axes * largest.sign()))[:rows].to(weight.dtype)
