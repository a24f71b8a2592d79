"""TRX's distance in inner products of frames: what a video alone decides is computed once, nothing is made per pair of tuples.

A layer over a tuple of w frames is a sum over its places, and so are inner products of two tuples. The w T rows of a video, every
frame in every place, therefore stand for all of its tuples: 24 rows instead of 56 triples of 8 frames.

Layers are linear, so the product of a row of a query, K_i x, and a row of a support, K_j y, is that of x and K_i' K_j y. Where
frames are narrow beside the layers, supports carry the latter, w rows of width C for each of theirs, and queries their frames:
the same products in C / W of the operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError


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
        With R = w T rows, by place, then by frame, and M tuples: "scale" `[..., M]`, one over the standard deviation of a
        tuple's key; "shift" `[..., M]`, the product of a tuple's key and LayerNorm's shift; "gram" `[..., R, R]`, inner products
        of rows of values; "norm" `[...]`, squared norms of the values of all tuples, summed. Where 2 C is above W, "key" and
        "value" `[..., R, W]`; else they are `[..., w R, C + 1]` and `[..., w R, C]`, by place of the query, then by row, and
        "frame" `[..., T, C + 1]` is the frames with a 1, which the bias of the keys multiplies. Logits are divided by the root
        of W here.

    Raises:
        ConfigError: a video has fewer frames than a tuple.
    """
    C, W = frames.shape[-1], key.out_features
    membership = _membership(frames.shape[-2], size, frames)
    key_weight, key_bias = key.weight - key.weight.mean(0), key.bias - key.bias.mean()
    keys, values = _rows(frames, key_weight, key_bias, size), _rows(frames, value.weight, None, size)
    index = {
        "scale": ((membership @ keys).square().mean(-1) + norm.eps).rsqrt(),
        "shift": (keys * norm.weight) @ norm.bias @ membership.T / W**0.5,
        "gram": values @ values.transpose(-1, -2),
        "norm": (membership @ values).square().sum((-1, -2)),
    }
    if 2 * C > W:
        return {**index, "key": keys * (norm.weight / W**0.25), "value": values}
    biases = F.pad(key_bias[:, None], (0, size - 1)).T  # in the first place, as in the rows
    with_bias = [torch.cat([w, b[:, None]], 1) for w, b in zip(key_weight.chunk(size, 1), biases, strict=True)]
    return {
        **index,
        "key": torch.cat([keys * norm.weight.square() / W**0.5 @ weight for weight in with_bias], -2),
        "value": torch.cat([values @ weight for weight in value.weight.chunk(size, 1)], -2),
        "frame": F.pad(frames, (0, 1), value=1.0),
    }


def indexed_distance(query: Mapping[str, Tensor], support: Mapping[str, Tensor], size: int) -> Tensor:
    """Compute `tuple_distance` from what `index_tuples` gives.

    |v - sum a v'|^2 = v.v - 2 sum a (v.v') + sum a a' (v'.v''), over the tuples v' of all shots of a class. Attention is summed
    over the tuples that share a row before it meets products of values, which are made of rows alone. The rounding error is
    relative to v.v: in float32 a distance of 0 may come out as some 1e-7 of it.

    Args:
        query: leading dimensions `[E, Q]`.
        support: leading dimensions `[E, N, K]`.
        size: number of frames in a tuple.

    Returns:
        Distances `[E, Q, N]`, not negative.
    """
    E, N, K, L = support["scale"].shape
    Q, M = query["scale"].shape[1:]
    keys, values = (_products(query, support, name, size) for name in ("key", "value"))  # [E, Q, R, N K, S]
    R, S = keys.shape[2], keys.shape[4]
    ours, theirs = _membership(R // size, size, keys), _membership(S // size, size, keys)
    half = (keys.view(-1, S) @ theirs.T).view(E, Q, R, N * K * L) * support["scale"].reshape(E, 1, 1, -1)
    shift = (support["shift"] * support["scale"]).reshape(E, 1, 1, -1).expand(E, Q, 1, N * K * L)
    weight = query["scale"][..., None] * ours  # what a row of a query is in a tuple, by its deviation
    logits = torch.baddbmm(shift.flatten(0, 1), weight.flatten(0, 1), half.flatten(0, 1))  # [E Q, M, N K L]
    attention = logits.view(E, Q, M, N, K * L).softmax(-1)
    moved = (attention.view(-1, L) @ theirs).view(E, Q, M, N, K * S)
    cross = ((ours.T @ moved.flatten(3).flatten(0, 1)).view(E, Q, R, N, K * S) * values.view(E, Q, R, N, K * S)).sum(
        (2, 4)
    )
    gram = support["gram"][:, :, 0].flatten(0, 1) if K == 1 else _between_shots(support, size)  # [E N, K S, K S]
    of_class = moved.permute(0, 3, 1, 2, 4).reshape(E * N, Q * M, K * S)
    both = ((of_class @ gram) * of_class).view(E, N, Q, -1).sum(-1).transpose(1, 2)
    return (query["norm"][..., None] - 2 * cross + both).clamp(min=0) / M


def _rows(frames: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """Every frame in every place, `[..., w T, W]`; the bias is in the first place."""
    places = weight.chunk(size, 1)
    return torch.cat([F.linear(frames, w, bias if place == 0 else None) for place, w in enumerate(places)], -2)


def _products(query: Mapping[str, Tensor], support: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """Inner products of all rows of keys or values of queries and supports, `[E, Q, R, N K, S]`."""
    theirs = support[name]
    E, N, K = theirs.shape[:3]
    if "frame" not in query:
        ours = query[name]
        return (ours.flatten(1, 2) @ theirs.flatten(1, 3).transpose(1, 2)).view(*ours.shape[:3], N * K, -1)
    frames = query["frame"][..., : theirs.shape[-1]]  # values have no bias
    Q, T = frames.shape[1:3]
    products = frames.flatten(1, 2) @ theirs.flatten(1, 3).transpose(1, 2)  # [E, Q T, N K w S]
    return products.view(E, Q, T, N * K, size, -1).permute(0, 1, 4, 2, 3, 5).reshape(E, Q, size * T, N * K, -1)


def _between_shots(support: Mapping[str, Tensor], size: int) -> Tensor:
    """Inner products of the rows of values of all shots of a class, `[E N, K S, K S]`."""
    names = [name for name in ("value", "frame") if name in support]
    shots = {name: support[name].flatten(0, 1) for name in names}  # each class in place of an episode of K queries
    products = _products(shots, {"value": shots["value"][:, None]}, "value", size)  # [E N, K, S, K, S]
    return products.flatten(3).flatten(1, 2)


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
