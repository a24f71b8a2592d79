"""TRX's distance in inner products of frames: what a video alone decides is computed once, nothing is made per pair of tuples.

A layer over a tuple of w frames is a sum over its places, and so are inner products of two tuples. The w T rows of a video, every
frame in every place, therefore stand for all of its tuples: 24 rows instead of 56 triples of 8 frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError

NAMES = ("key", "value", "scale", "shift", "gram")


def index_tuples(frames: Tensor, key: nn.Linear, value: nn.Linear, norm: nn.LayerNorm, size: int) -> dict[str, Tensor]:
    """Compute what `indexed_distance` needs of each video alone.

    LayerNorm's mean is taken out of the rows and its weight goes to the keys. Its shift adds the same to all logits of a query
    tuple, save for its product with the tuples of the supports. The bias of the values is left out, as it cancels in the
    difference of a value and a mean of values whose weights sum to 1.

    Args:
        frames: `[..., T, C]`.
        key: layer over the w = `size` concatenated frames of a tuple, w C to W.
        value: another one.
        norm: of the keys.
        size: w.

    Returns:
        With R = w T rows, by place, then by frame, and M tuples: "key" and "value" `[..., R, W]`; "scale" `[..., M]`, one over
        the standard deviation of a tuple's key; "shift" `[..., M]`, the product of a tuple's key and LayerNorm's shift; "gram"
        `[..., M, M]`, inner products of the values of tuples.

    Raises:
        ConfigError: a video has fewer frames than a tuple.
    """
    membership = _membership(frames.shape[-2], size, frames)
    keys = _rows(frames, key.weight - key.weight.mean(0), key.bias - key.bias.mean(), size)
    scale = ((membership @ keys).square().mean(-1) + norm.eps).rsqrt()
    keys = keys * norm.weight
    values = _rows(frames, value.weight, torch.zeros_like(value.bias), size)
    of_tuple = membership @ values
    return {
        "key": keys,
        "value": values,
        "scale": scale,
        "shift": keys @ norm.bias @ membership.T,
        "gram": of_tuple @ of_tuple.transpose(-1, -2),
    }


def indexed_distance(query: Mapping[str, Tensor], support: Mapping[str, Tensor], size: int) -> Tensor:
    """Compute `tuple_distance` from what `index_tuples` gives.

    |v - sum a v'|^2 = v.v - 2 sum a (v.v') + sum a a' (v'.v''), over the tuples v' of all shots of a class. The rounding error is
    relative to v.v: in float32 a distance of 0 may come out as some 1e-7 of it.

    Args:
        query: leading dimensions `[E, Q]`.
        support: leading dimensions `[E, N, K]`.
        size: number of frames in a tuple.

    Returns:
        Distances `[E, Q, N]`, not negative.
    """
    shots = support["key"].shape[2]
    own, shift, scale = query["gram"].diagonal(dim1=-2, dim2=-1), support["shift"], support["scale"]
    logits = _products(query["key"], support["key"], size)  # [E, N, Q, M, K L]
    logits = logits * query["scale"][:, None, :, :, None] + shift.flatten(2)[:, :, None, None]
    logits = logits * (scale.flatten(2)[:, :, None, None] / support["key"].shape[-1] ** 0.5)
    attention = logits.softmax(-1)
    cross = (attention * _products(query["value"], support["value"], size)).sum((-1, -2))  # [E, N, Q]
    gram = support["gram"][:, :, 0] if shots == 1 else _between_shots(support["value"], size)  # [E, N, K L, K L]
    flat = attention.flatten(2, 3)
    both = ((flat @ gram) * flat).sum(-1).unflatten(2, attention.shape[2:4]).sum(-1)
    total = own.sum(-1)[:, None] - 2 * cross + both
    return total.transpose(1, 2).clamp(min=0) / attention.shape[3]


def _rows(frames: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:
    """Every frame in every place, `[..., w T, W]`; the bias is in the first place."""
    places = weight.chunk(size, 1)
    return torch.cat([F.linear(frames, w, bias if place == 0 else None) for place, w in enumerate(places)], -2)


def _products(query: Tensor, support: Tensor, size: int) -> Tensor:
    """Inner products of all tuples of rows `[E, Q, R, W]` and `[E, N, K, R', W]`: `[E, N, Q, M, K L]`."""
    (E, Q, R), (N, K, S) = query.shape[:3], support.shape[1:4]
    rows = query.flatten(1, 2) @ support.flatten(1, 3).transpose(1, 2)  # [E, Q R, N K R']
    rows = rows.view(E, Q, R, N, K, S).permute(0, 3, 1, 2, 4, 5).reshape(E, N, Q, R, K, S)
    half = rows @ _membership(S // size, size, rows).T  # [E, N, Q, R, K, L]
    return _membership(R // size, size, rows) @ half.flatten(-2)


def _between_shots(value: Tensor, size: int) -> Tensor:
    """Inner products of the tuples of all shots of a class, of rows `[E, N, K, R, W]`: `[E, N, K L, K L]`."""
    K, R = value.shape[2:4]
    rows = value.flatten(2, 3) @ value.flatten(2, 3).transpose(-1, -2)
    membership = _membership(R // size, size, value)
    blocks = rows.unflatten(-1, (K, R)) @ membership.T  # [E, N, K R, K, L]
    return (membership @ blocks.flatten(-2).unflatten(2, (K, R))).flatten(2, 3)


def _membership(frames: int, size: int, like: Tensor) -> Tensor:
    """1 where a tuple has a frame in a place, `[M, w T]`, rows as in `index_tuples`.

    Raises:
        ConfigError: a video has fewer frames than a tuple.
    """
    if size > frames:
        raise ConfigError(f"TRX makes tuples of {size} frames, but a video has {frames}: raise frames=.")
    return _matrix(frames, size, like.dtype, like.device)


@cache
def _matrix(frames: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    tuples = torch.tensor(list(combinations(range(frames), size)))
    places = tuples + frames * torch.arange(size)
    return F.one_hot(places, size * frames).sum(1).to(device, dtype)
