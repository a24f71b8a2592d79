"""Alignment of feature maps in time and space: re-timed clips, masks around offsets, attention over time (TA2N, AAAI 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# of the masks around an offset, (x, y)
SHIFTS = 0.2 * torch.tensor([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0], [1, 1], [-1, -1], [1, -1], [-1, 1]])


def retime(maps: Tensor, theta: Tensor) -> Tensor:
    """Read maps `[V, T, D, h, w]` at the times a u + b, with (a, b) = theta `[V, 2]` and u from -1 to 1 over the clip.

    Interpolation is linear; beyond the ends of a clip maps are zero.
    """
    T = maps.shape[1]
    u = torch.linspace(-1, 1, T, dtype=theta.dtype, device=theta.device)
    place = (theta[:, :1] * u + theta[:, 1:] + 1) * ((T - 1) / 2)  # in frames, [V, T]
    weight = F.relu(1 - (place[:, :, None] - torch.arange(T, device=theta.device)).abs())
    return torch.einsum("vts,vsdhw->vtdhw", weight, maps)


def window(offset: Tensor, size: int) -> Tensor:
    """One axis of a mask `[..., size]` for offsets `[...]`: 1 where coordinate + offset is within (-1, 1), fading out beyond."""
    g = torch.linspace(-1, 1, size, dtype=offset.dtype, device=offset.device) + offset[..., None]
    return (1 - (g.abs() - 1) * (size - 1) / 2).clamp(0, 1)


def masks(offset: Tensor, height: int, width: int) -> Tensor:
    """Weights `[..., height, width]` of the positions of a map, with the sum 1, for offsets (x, y) `[..., 2]`.

    The masks of nine offsets around the given one, each divided by its sum, are averaged.
    """
    moved = offset[..., None, :] + SHIFTS.to(offset)
    x, y = window(moved[..., 0], width), window(moved[..., 1], height)
    return torch.einsum("...py,...px->...yx", y / y.sum(-1, keepdim=True), x / x.sum(-1, keepdim=True)) / len(SHIFTS)


def attend(keys: Tensor, queries: Tensor, *, dim: int) -> Tensor:
    """Softmax over `dim` of the scaled products of keys `[..., T, C]` and queries `[..., T', C]`: `[..., T, T']`."""
    return (keys @ queries.transpose(-1, -2) / keys.shape[-1] ** 0.5).softmax(dim)
