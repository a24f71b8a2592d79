"""Deformable attention over space and time, and the adapter made of it, for frozen networks (D2ST-Adapter, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """The windows, over frames, rows and columns of a grid, that each give one sample.

    Attributes:
        kernel: size of a window.
        stride: distance between windows.
    """

    kernel: Sequence[int]
    stride: Sequence[int]

    def samples(self, grid: Sequence[int], name: str) -> tuple[int, ...]:
        """Return the number of samples per axis.

        Raises:
            ConfigError: a size that is not positive, or a window that is larger than the grid.
        """
        sizes = [*self.kernel, *self.stride]
        if len(self.kernel) != 3 or len(self.stride) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ConfigError(f"method.{name}_kernel and method.{name}_stride need three positive whole numbers each.")
        if any(k > n for k, n in zip(self.kernel, grid, strict=True)):
            raise ConfigError(
                f"method.{name}_kernel={tuple(self.kernel)} is larger than the grid of {tuple(grid)} frames, rows and "
                "columns, so that it gives no sample. Lower it, or set it to none."
            )
        return tuple((n - k) // s + 1 for n, k, s in zip(grid, self.kernel, self.stride, strict=True))


def windows_of(grid: Sequence[int]) -> dict[str, Window]:
    """Return the windows of a grid (T, h, w): the official shares of it, so that 8 x 14 x 14 has the official windows.

    Spatial: half of the frames, 5/14 of the side every 3/14, rounded up. Temporal: one frame, half of the side, rounded down.
    """
    T, *sides = grid
    half = max(1, T // 2)
    spatial = Window((half, *(-(-5 * n // 14) for n in sides)), (half, *(-(-3 * n // 14) for n in sides)))
    temporal = (1, *(max(1, n // 2) for n in sides))
    return {"spatial": spatial, "temporal": Window(temporal, temporal)}


class DeformableAttention(nn.Module):
    """Attention of all tokens of a video to a few samples of its patches, taken where learned offsets point.

    Args:
        width: r, width of the tokens.
        heads: heads of the attention, each with offsets of its own; must divide r.
        grid: T, h and w.
        window: windows of the samples.
        name: of the window, for errors.
    """

    def __init__(self, width: int, heads: int, grid: Sequence[int], window: Window, name: str) -> None:
        super().__init__()
        self.heads, self.grid, self.samples = heads, tuple(grid), window.samples(grid, name)
        group = width // heads
        kernel, stride = (cast("tuple[int, int, int]", tuple(sizes)) for sizes in (window.kernel, window.stride))
        self.local = nn.Conv3d(group, group, kernel, stride=stride, groups=group)
        self.norm, self.offset = nn.LayerNorm(group), nn.Linear(group, 3, bias=False)
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(width, width) for _ in range(4))

    def offsets(self, q: Tensor) -> Tensor:
        """Offsets `[V * heads, t, h', w', 3]` (frame, row, column), at most 2 / samples of the grid, from `[V, T, P, r]`."""
        local = self.local(self._maps(q)).movedim(1, -1)
        limit = torch.tensor([min(1.0, 2 / n) for n in self.samples], dtype=q.dtype, device=q.device)
        return self.offset(F.gelu(self.norm(local))).tanh() * limit

    def _maps(self, patches: Tensor) -> Tensor:
        """Convert `[V, T, P, r]` to maps of the channels of each head, `[V * heads, r / heads, T, h, w]`."""
        maps = patches.unflatten(-1, (self.heads, -1)).permute(0, 3, 4, 1, 2)
        return maps.flatten(0, 1).unflatten(-1, self.grid[1:])

    def sample(self, patches: Tensor, offsets: Tensor) -> Tensor:
        """Interpolate patches `[V, T, P, r]` at the centres of the cells plus offsets: `[V, samples, r]`.

        The centres are those of align_corners=False and the sampling has align_corners=True, as in the official code.
        """
        centres = [
            (torch.arange(n, dtype=offsets.dtype, device=offsets.device) + 0.5) / n * 2 - 1 for n in self.samples
        ]
        points = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1) + offsets
        sampled = F.grid_sample(self._maps(patches), points.flip(-1), align_corners=True)
        return sampled.flatten(2).unflatten(0, (-1, self.heads)).flatten(1, 2).transpose(1, 2)

    def forward(self, z: Tensor) -> Tensor:
        """Attend from all tokens `[V, T, L, r]`, patches last, to the samples of their video; returns the same shape."""
        q, P = self.to_q(z), self.grid[1] * self.grid[2]
        samples = self.sample(z[:, :, -P:], self.offsets(q[:, :, -P:]))
        split = [
            x.flatten(1, -2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (q, self.to_k(samples), self.to_v(samples))
        ]
        return self.out(F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(z.shape))


class DeformableAdapter(nn.Module):
    """x + gelu(W_up gelu((s + t) / 2)), where s and t are a spatial and a temporal deformable attention to z = gelu(W_down x).

    Args:
        width: D.
        grid: T, h and w.
        windows: of the branches "spatial" and "temporal".
        ratio: r / D.
        heads: heads of both attentions.
        outer_gelu: the GELUs after W_down and W_up, which the official code has in ViTs, and not after stages of ResNets.

    Raises:
        ConfigError: windows that give no sample, or heads that do not divide r.
    """

    def __init__(
        self, width: int, grid: Sequence[int], windows: dict[str, Window], *, ratio: float, heads: int, outer_gelu: bool
    ) -> None:
        super().__init__()
        r = int(width * ratio)
        if heads < 1 or r % heads:
            raise ConfigError(f"method.heads={heads} does not divide {r}, the width of the adapters.")
        self.grid, self.outer = tuple(grid), F.gelu if outer_gelu else nn.Identity()
        self.down, self.up = nn.Linear(width, r), nn.Linear(r, width)
        self.position = nn.Conv3d(r, r, 3, padding=1, groups=r)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(r) for name in windows})
        self.attentions = nn.ModuleDict(
            {name: DeformableAttention(r, heads, grid, window, name) for name, window in windows.items()}
        )
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def reduce(self, x: Tensor) -> Tensor:
        """Compute z `[V, T, L, r]` of tokens `[V, T, L, D]`, its patches with their positions."""
        z, P = self.outer(self.down(x)), self.grid[1] * self.grid[2]
        maps = z[:, :, -P:].movedim(-1, 1).unflatten(-1, self.grid[1:])
        patches = (maps + self.position(maps)).flatten(-2).movedim(1, -1)
        return torch.cat([z[:, :, :-P], patches], 2)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt the tokens of videos `[V, T, L, D]`: a class token or none, then P patches."""
        z = self.reduce(x)
        s, t = (z + self.attentions[name](self.norms[name](z)) for name in ("spatial", "temporal"))
        return x + self.outer(self.up(F.gelu((s + t) / 2)))
