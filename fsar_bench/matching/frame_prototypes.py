"""Classes as sequences of frame prototypes: appearance and temporal similarity to clips (ATA, ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_prior(frames: int, sigma: float = 1.0) -> Tensor:
    """Attention of frame t to prototype s if clips are synchronous: normal in t - s, rows sum to 1, `[T, T]`."""
    t = torch.arange(frames, dtype=torch.double)
    spread = 2 * (sigma * frames) ** 2 * (2 / 64)
    return (-((t[:, None] - t) ** 2) / spread).softmax(-1)


def similarity(frames: Tensor, prototypes: Tensor, scale: Tensor) -> Tensor:
    """Scaled products of the frames of clips and the frame prototypes of classes.

    Args:
        frames: `[E, V, T, C]`.
        prototypes: `[E, N, S, C]`.
        scale: factor of each episode, `[E]`.

    Returns:
        `[E, V, T, S, N]`.
    """
    return scale.view(-1, 1, 1, 1, 1) * torch.einsum("evtc,ensc->evtsn", frames, prototypes)


def appearance(similarity: Tensor) -> Tensor:
    """Log-sum-exp over the prototypes, averaged over frames: `[..., N]` of similarities `[..., T, S, N]`."""
    return similarity.logsumexp(-2).mean(-2)


def temporal(similarity: Tensor, prior: Tensor) -> Tensor:
    """2 - KL(attention, prior), averaged over frames: `[..., N]` of similarities `[..., T, S, N]`; at most 2."""
    attention = similarity.softmax(-2)
    divergence = (attention * (attention / prior[..., None] + 1e-12).log()).sum(-2)
    return 2 - divergence.mean(-2)


def training_terms(similarity: Tensor, labels: Tensor, prior: Tensor) -> dict[str, Tensor]:
    """Terms of the training loss of each clip, without their weights.

    Args:
        similarity: `[..., T, S, N]`.
        labels: true class of each clip, `[...]`.
        prior: `[T, S]`.

    Returns:
        By name, each `[...]`: "class" (cross-entropy of the appearance), "frame_entropy" (of the attention to the true class,
        averaged over frames), "mean_entropy" (of the averaged attention), "temporal" (similarity to the true class).
    """
    index = labels[..., None, None, None].expand(*similarity.shape[:-1], 1)
    true = similarity.gather(-1, index)
    attention = true[..., 0].softmax(-1)
    return {
        "class": appearance(true)[..., 0] * -1 + appearance(similarity).logsumexp(-1),
        "frame_entropy": torch.special.entr(attention).sum(-1).mean(-1),
        "mean_entropy": torch.special.entr(attention.mean(-2)).sum(-1),
        "temporal": temporal(true, prior)[..., 0],
    }
