"""Network parts and formulas that several methods share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError


def cosine_logits(video: Tensor, text: Tensor, scale: float | Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Scaled cosine of videos and texts, as in CLIP (Radford et al., ICML 2021).

    Args:
        video: features `[..., V, C]`, of any length.
        text: features `[..., N, C]`, of any length.
        scale: factor of the cosine (the inverse temperature).
        epsilon: added to the product of the norms, as the official code of CLIP-FSAR does in its loss (0.01).

    Returns:
        `[..., V, N]`.
    """
    if epsilon:
        norms = video.norm(dim=-1)[..., :, None] * text.norm(dim=-1)[..., None, :]
        return scale * (video @ text.transpose(-1, -2)) / (norms + epsilon)
    return scale * F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).transpose(-1, -2)


def query_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of scores `[E, Q, N]` for labels `[E, Q]`, averaged over all queries: a scalar."""
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten())


def soft_divergence(logits: Tensor, same: Tensor, sharpness: float) -> Tensor:
    """KL divergence of softmax(sharpness * same) from softmax(logits), averaged over rows (ActionCLIP, arXiv 2109.08472).

    Args:
        logits: `[B, M]`.
        same: 1 where row and column agree, else 0, `[B, M]`.
        sharpness: factor of the labels.
    """
    return F.kl_div(logits.log_softmax(-1), (sharpness * same).softmax(-1), reduction="batchmean")


def log_mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Mix two predictions: log(share softmax(first) + (1 - share) softmax(second)).

    Args:
        first: logits `[..., N]`.
        second: logits `[..., N]`.
        share: from 0 to 1; at either end the other logits are not read.

    Returns:
        Log-probabilities `[..., N]`.
    """
    if share in (0.0, 1.0):
        return (first if share else second).log_softmax(-1)
    return torch.logaddexp(
        first.log_softmax(-1) + math.log(share),
        second.log_softmax(-1) + math.log1p(-share),
    )


class Adapter(nn.Module):
    """Bottleneck adapter: W_up GELU(W_down z + b_down) + b_up, plus z with `skip`.

    W_up and both biases start at zero, W_down at a truncated normal of std 0.02 (AIM, ICLR 2023).

    Args:
        width: D, width of the tokens.
        ratio: width of the bottleneck relative to D.
        skip: add the input to the output.
    """

    def __init__(self, width: int, *, ratio: float = 0.25, skip: bool) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.down, self.up, self.skip = nn.Linear(width, hidden), nn.Linear(hidden, width), skip
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, z: Tensor) -> Tensor:
        """Map tokens `[..., D]` to tokens `[..., D]`."""
        out = self.up(F.gelu(self.down(z)))
        return out + z if self.skip else out


class SinusoidalPositions(nn.Module):
    """Sinusoidal positions of the transformer (Vaswani et al., NeurIPS 2017), scaled and followed by dropout.

    Args:
        width: C.
        scale: factor of the positions.
        dropout: probability of the dropout after the sum, in training.
        frequency_power: 1 is standard; HyRSM's code uses 2, so its frequencies fall twice as fast.
        pair_frequency: the sine and cosine of a pair share one frequency, as is standard; HyRSM's cosines use the next one.
    """

    frequency: Tensor
    odd: Tensor

    def __init__(
        self, width: int, *, scale: float, dropout: float, frequency_power: int = 1, pair_frequency: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.drop = scale, nn.Dropout(dropout)
        channel = torch.arange(width, dtype=torch.float64)
        exponent = channel - channel % 2 if pair_frequency else channel
        self.register_buffer("frequency", 10_000 ** (-frequency_power * exponent / width), persistent=False)
        self.register_buffer("odd", channel % 2 == 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add positions 0 to L - 1 to tokens `[..., L, C]`."""
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] * self.frequency
        positions = torch.where(self.odd, angle.cos(), angle.sin())
        return self.drop(x + self.scale * positions.to(x.dtype))


class PreNormAttention(nn.Module):
    """Multi-head attention with one LayerNorm before it, dropout after it and a skip connection; no positions.

    y = q + Drop(W_o Attention(LN q, LN k, LN v)); the q, k and v projections have no bias.

    Args:
        width: C.
        heads: number of attention heads; must divide the inner width.
        dropout: probability of the dropout after the attention.
        inner: width of queries, keys and values, all heads together; None means C.

    Raises:
        ConfigError: `heads` does not divide the inner width.
    """

    def __init__(self, width: int, *, heads: int = 8, dropout: float = 0.2, inner: int | None = None) -> None:
        super().__init__()
        inner = width if inner is None else inner
        if inner % heads:
            raise ConfigError(f"heads={heads} does not divide the embedding width {inner}.")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out, self.drop = nn.Linear(inner, width), nn.Dropout(dropout)

    def forward(self, query: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from `query` `[B, T, C]` to `context` `[B, S, C]` (default: to itself). Returns `[B, T, C]`."""
        q = self.norm(query)
        k = v = q if context is None else self.norm(context)
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.to_q, q), (self.to_k, k), (self.to_v, v))
        ]
        attended = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)
        return query + self.drop(self.out(attended))


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Make an FFN without a norm and without a skip connection: Drop(W_2 Drop(GELU(W_1 x))).

    Args:
        width: C.
        hidden: width between the two layers.
        dropout: probability of both dropouts.
    """
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
    )


class ModulationBlock(PreNormAttention):
    """Attention and FFN over the tokens of a video, as in CLIP-FSAR's prototype modulation and MoLo's branches.

    y as in `PreNormAttention`; out = y + FFN(y), with no LayerNorm before the FFN (`Transformer_v1`, `Transformer_v2` of the
    official code). It has 3,149,824 parameters at C = 512 and ffn_width 2048.

    Args:
        width: C.
        heads: number of attention heads.
        ffn_width: hidden width of the FFN.
        dropout: probability of the dropout after the attention.
        ffn_dropout: probability of the dropout inside and after the FFN.
        inner: width of queries, keys and values; None means C.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 8,
        ffn_width: int = 2048,
        dropout: float = 0.2,
        ffn_dropout: float = 0.05,
        inner: int | None = None,
    ) -> None:
        super().__init__(width, heads=heads, dropout=dropout, inner=inner)
        self.ffn = feed_forward(width, ffn_width, ffn_dropout)

    def forward(self, query: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from `query` `[B, T, C]` to `context` `[B, S, C]` (default: to itself), then apply the FFN: `[B, T, C]`."""
        y = super().forward(query, context)
        return y + self.ffn(y)


class ClassTokenBranch(nn.Module):
    """A learned class token in front of a sequence, then positions, one transformer layer and a ReLU (MoLo, CVPR 2023).

    Scaling and positions of the sequence are HyRSM's (CVPR 2022).

    Args:
        width: D.
        input_scale: A; the sequence is multiplied by sqrt(D / A).
        position_scale: B, factor of the positions.
    """

    def __init__(self, width: int, *, input_scale: float, position_scale: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = SinusoidalPositions(
            width, scale=position_scale, dropout=0.1, frequency_power=2, pair_frequency=False
        )
        self.factor = math.sqrt(width / input_scale)
        self.block = ModulationBlock(width, ffn_width=2048)

    def forward(self, x: Tensor) -> Tensor:
        """Map a sequence `[V, L, D]` to `[V, 1 + L, D]`, class token first."""
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return F.relu(self.block(self.positions(self.factor * x)))


class ClassAndPatchBlock(nn.Module):
    """Class tokens attend over time and patches within their frame, each with a skip connection; then an FFN with another.

    The reasoning block of EMP-Net (`Transformer_v3` of its code).

    Args:
        width: C.
        heads: attention heads.
        ffn_width: hidden width of the FFN.
        dropout: dropout after the attention.
        ffn_dropout: dropout of the FFN.
        inner: width of queries, keys and values.
    """

    def __init__(
        self, width: int, *, heads: int, ffn_width: int, dropout: float, ffn_dropout: float, inner: int
    ) -> None:
        super().__init__()
        self.over_time, self.within_frame = (
            PreNormAttention(width, heads=heads, dropout=dropout, inner=inner) for _ in range(2)
        )
        self.ffn = feed_forward(width, ffn_width, ffn_dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[V, T, 1 + P, C]`, class token first, to the same shape."""
        token = self.over_time(tokens[:, :, 0])
        patches = self.within_frame(tokens[:, :, 1:].flatten(0, 1)).unflatten(0, token.shape[:2])
        y = torch.cat([token[:, :, None], patches], 2)
        return y + self.ffn(y)


class TransformerBlock(nn.Module):
    """CLIP's transformer block (Radford et al., ICML 2021): y = x + Attention(LN x), out = y + W_2 QuickGELU(W_1 LN y).

    Attention and the MLP, 4 C wide, have biases; there is no dropout. QuickGELU(x) = x sigmoid(1.702 x).

    Args:
        width: C.
        heads: number of attention heads; must divide C.
        epsilon: added to the variance in both LayerNorms.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, *, heads: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads={heads} does not divide the embedding width {width}.")
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=epsilon), nn.LayerNorm(width, eps=epsilon)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, T, C]`, which attend to each other, to tokens `[B, T, C]`."""
        normed = self.norm1(x)
        y = x + self.attention(normed, normed, normed, need_weights=False)[0]
        hidden = self.widen(self.norm2(y))
        return y + self.narrow(hidden * torch.sigmoid(1.702 * hidden))


class TaskAttention(nn.Module):
    """Multi-head self-attention over the videos of a task, with a skip connection and a LayerNorm after it (HyRSM, CVPR 2022).

    Args:
        width: C.
        heads: number of attention heads; must divide C.
        dropout: dropout of the output; that of the attention weights is fixed at 0.1.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.05) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads={heads} does not divide the embedding width {width}.")
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        for layer in (self.to_q, self.to_k, self.to_v):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (width + width // heads)))
        self.out, self.drop, self.norm = nn.Linear(width, width), nn.Dropout(dropout), nn.LayerNorm(width)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map the L videos of a task `[..., L, C]` to `[..., L, C]`."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return self.norm(x + self.drop(self.out(attended.transpose(-2, -3).flatten(-2))))

    def index(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `of_tasks` needs of each video alone; it is linear, so that a class has the mean of its shots.

        The output layer is applied to the values here, head by head: once a video, not once for every token of every task.

        Args:
            x: videos `[..., C]`.

        Returns:
            `[..., 3, C]`: a video with the output layer's bias, its scaled query and its key; and what each head gives of it,
            `[..., heads, C]`.
        """
        query = self.to_q(x) / (x.shape[-1] // self.heads) ** 0.5
        values = self.to_v(x).unflatten(-1, (self.heads, -1))
        outputs = torch.einsum("...hd,chd->...hc", values, self.out.weight.unflatten(1, (self.heads, -1)))
        return torch.stack([x + self.out.bias, query, self.to_k(x)], -2), outputs

    def of_tasks(self, classes: Tensor, class_outputs: Tensor, queries: Tensor, query_outputs: Tensor) -> Tensor:
        """Compute `forward` of the classes and one query, for every query, without a gradient or dropout.

        Attention between classes is the same for all queries: a query adds one row and one column to its logits.

        Args:
            classes: `[E, N, 3, C]`, of `index`, as are the others.
            class_outputs: `[E, N, heads, C]`.
            queries: `[E, Q, 3, C]`.
            query_outputs: `[E, Q, heads, C]`.

        Returns:
            `[E, Q, N + 1, C]`, the query last.
        """
        E, N = classes.shape[:2]
        Q, heads = queries.shape[1], self.heads
        q, k = classes[:, :, 1:].unflatten(-1, (heads, -1)).permute(2, 0, 3, 1, 4)  # [E, heads, N, C / heads]
        own_q, own_k = queries[:, :, 1:].unflatten(-1, (heads, -1)).permute(2, 0, 3, 1, 4)  # [E, heads, Q, C / heads]
        logits = q.new_empty(E, Q, N + 1, N + 1, heads)
        by_head = logits.permute(0, 4, 1, 2, 3)  # [E, heads, Q, N + 1, N + 1]
        by_head[..., :N, :N] = (q @ k.transpose(-1, -2))[:, :, None]
        by_head[..., :N, N] = own_k @ q.transpose(-1, -2)
        by_head[..., N, :N] = own_q @ k.transpose(-1, -2)
        by_head[..., N, N] = (own_q * own_k).sum(-1)
        weight = logits.softmax(-2)
        of_classes = weight[..., :N, :].reshape(E, Q * (N + 1), N * heads) @ class_outputs.flatten(1, 2)
        attended = of_classes.view(E, Q, N + 1, -1)
        attended += weight[..., N, :] @ query_outputs
        attended[:, :, :N] += classes[:, None, :, 0]
        attended[:, :, N] += queries[:, :, 0]
        return self.norm(attended)


class PatchEnrichment(nn.Module):
    """Gated attention among the patches of a frame, then a residual bottleneck (STRM, CVPR 2022).

    The gate starts at zero; the dot products are not scaled.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(width, scale=0.1, dropout=0.1)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.gate = nn.Parameter(torch.zeros(1))
        self.bottleneck = nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width // 2), nn.ReLU(),
            nn.Linear(width // 2, width),
        )  # fmt: skip

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches `[B, P, D]` to `[B, P, D]`."""
        x = self.positions(patches)
        attention = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        x = x + self.gate * (attention @ self.value(x))
        return x + self.bottleneck(x)


class FrameEnrichment(nn.Module):
    """Two layers over the frames of a video, then two over its channels, each pair with a skip connection (STRM, CVPR 2022).

    Args:
        width: D.
        frames: T.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(width, scale=0.1, dropout=0.1)
        self.tokens = nn.Sequential(nn.Linear(frames, frames), nn.ReLU(), nn.Linear(frames, frames))
        self.channels = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[V, T, D]` to `[V, T, D]`."""
        x = self.positions(frames)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.channels(x)
