"""ATA (ECCV 2022, arXiv 2207.10785): classes are sequences of frame prototypes, refined on the supports or on the queries.

Followed: the official code (VinAIResearch/fsvc-ata): scaled products of frames and prototypes, softmax over the prototypes'
time, appearance (log-sum-exp) and temporal (divergence from a diagonal prior) similarity. Inductive: 50 steps of Adam on
prototypes and scale with the training loss of the supports without its temporal term, then the sum of both softmaxes.
Transductive: 50 closed-form updates of the prototypes with the queries, then appearance alone (the official code leaves the
temporal term out there, so that the two rows differ by more than transduction). Training is no episode: clips are classified
among the training classes; the loss has two entropies and the temporal similarity of the true class.
Differs: the clips of a training step are those of an episode, supports and queries alike (there 32 random clips). The backbone
alone is kept from training, so `tune="none"` is training-free. Evaluation on the suite's own episodes. AdamW with one learning
rate, warm-up and cosine instead of SGD 1e-3 with factors per layer and steps to 0.1 and 0.01; 20,000 episodes instead of 25
epochs; batch norm of a ResNet stays in eval mode (there the first one is trained). The transductive score is the logarithm of
the official one up to a constant per query: the same prediction without rounding to 0 and 1.
Unknown: nothing; the prior's width grows with T, as in the code (sigma 1 is exp(-(t - s)^2 / 4) at T = 8).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.method import (
    METHODS,
    Backbone,
    ConfigError,
    EpisodeBatch,
    FewShotMethod,
    Scores,
    Traits,
    Tuned,
    VideoFeatures,
)


def diagonal_prior(frames: int, sigma: float = 1.0) -> Tensor:
    """Attention of frame t to prototype s if clips are synchronous: normal in t - s, rows sum to 1, `[T, T]`."""
    t = torch.arange(frames, dtype=torch.double)
    spread = 2 * (sigma * frames) ** 2 * (2 / 64)
    return (-((t[:, None] - t) ** 2) / spread).softmax(-1)


def similarity(frames: Tensor, prototypes: Tensor, scale: Tensor) -> Tensor:
    """Products `[E, V, T, S, N]` of frames `[E, V, T, C]` and frame prototypes `[E, N, S, C]`, scaled per episode `[E]`."""
    return scale.view(-1, 1, 1, 1, 1) * torch.einsum("evtc,ensc->evtsn", frames, prototypes)


def appearance(similarity: Tensor) -> Tensor:
    """Log-sum-exp over the prototypes, averaged over frames: `[..., N]` of similarities `[..., T, S, N]`."""
    return similarity.logsumexp(-2).mean(-2)


def temporal(similarity: Tensor, prior: Tensor) -> Tensor:
    """2 - KL(attention, prior), averaged over frames: `[..., N]` of similarities `[..., T, S, N]`; at most 2."""
    attention = similarity.softmax(-2)
    divergence = (attention * (attention / prior[..., None] + 1e-12).log()).sum(-2)
    return 2 - divergence.mean(-2)


def shares(parts: dict[str, Tensor]) -> Tensor:
    """Sum of the softmaxes of both similarities `[E, Q, N]` over the classes."""
    return parts["appearance"].softmax(-1) + parts["temporal"].softmax(-1)


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
        "class": appearance(similarity).logsumexp(-1) - appearance(true)[..., 0],
        "frame_entropy": torch.special.entr(attention).sum(-1).mean(-1),
        "mean_entropy": torch.special.entr(attention.mean(-2)).sum(-1),
        "temporal": temporal(true, prior)[..., 0],
    }


@METHODS.register_module()
class ATA(FewShotMethod):
    """Appearance and temporal alignment with frame prototypes that are refined in each episode.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none"; "none" is training-free.
        transductive: refine the prototypes with the queries of the episode instead of by gradients on its supports.
        steps: refinements; 0 compares with the mean of the supports.
        step_size: learning rate of the gradient steps.
        scale: factor of the products, to begin with.
        sharpness: factor of both similarities in a score; 1 in losses.
        frame_weight: weight of the mean entropy of the frames' attention, which is minimised.
        spread_weight: weight of the entropy of the mean attention, which is maximised.
        temporal_weight: weight of the temporal similarity in training.
        dropout: dropout of the frames in training.
        frames: T; the protocol's frames.

    Raises:
        ConfigError: an unknown word for `tune`, or fewer than 0 steps.
    """

    role_free = True
    score_only = ("transductive", "steps", "step_size", "scale", "sharpness")
    prior: Tensor
    classifier: nn.Linear  # of the training classes, made by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        transductive: bool = False,
        steps: int = 50,
        step_size: float = 1e-3,
        scale: float = 10.0,
        sharpness: float = 5.0,
        frame_weight: float = 0.1,
        spread_weight: float = 1.0,
        temporal_weight: float = 0.05,
        dropout: float = 0.5,
        frames: int = 8,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        if steps < 0:
            raise ConfigError(f"method.steps={steps} must be 0 or more.")
        self.steps, self.step_size, self.scale, self.sharpness = steps, step_size, scale, sharpness
        self.frame_weight, self.spread_weight, self.temporal_weight = frame_weight, spread_weight, temporal_weight
        self.drop = nn.Dropout(dropout)
        self.register_buffer("prior", diagonal_prior(backbone.time_steps(frames)).float(), persistent=False)
        self.traits = Traits(
            uses_class_names=False, trainable=tune == "visual", transductive=transductive, order_sensitive=True
        )

    def prepare(self, class_text: Tensor) -> None:
        """Make the classifier: frame prototypes of the training classes; a frozen backbone has no use for it."""
        if self.traits.trainable:
            self.classifier = nn.Linear(self.backbone.embedding_width, len(self.prior) * len(class_text))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `frames` `[V, T, C]` of unit length."""
        return VideoFeatures(frames=F.normalize(features.frames, dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = softmax("appearance") + softmax("temporal") over the classes; transductive: "appearance" alone."""
        prototypes = support.frames.mean(2)
        scale = prototypes.new_full((len(prototypes),), self.scale)
        if self.traits.transductive:
            prototypes = self.refine(prototypes, query.frames, scale)
        elif self.steps:
            prototypes, scale = self.descend(prototypes, support.frames, scale)
        parts = self.parts(query.frames, prototypes, scale)
        return Scores(parts["appearance"] if self.traits.transductive else shares(parts), parts)

    def parts(self, queries: Tensor, prototypes: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Both similarities `[E, Q, N]` as a score has them."""
        products = similarity(queries, prototypes, scale)
        return {
            "appearance": self.sharpness * appearance(products),
            "temporal": self.sharpness * temporal(products, self.prior),
        }

    def refine(self, prototypes: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Add the means of the queries, weighted by their scores, to the supports' prototypes, `steps` times."""
        supports = prototypes
        for _ in range(self.steps):
            share = shares(self.parts(queries, prototypes, scale))
            total = share.sum(1).clamp_min(torch.finfo(share.dtype).tiny)
            mean = torch.einsum("eqn,eqtc->entc", share, queries) / total[..., None, None]
            prototypes = F.normalize(mean + supports, dim=-1)
        return prototypes

    @torch.enable_grad()
    def descend(self, prototypes: Tensor, supports: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Take `steps` steps of Adam on prototypes and scale; each episode's loss has parameters of its own."""
        E, N, K = supports.shape[:3]
        clips = supports.detach().flatten(1, 2)
        labels = torch.arange(N, device=clips.device).repeat_interleave(K).expand(E, -1)
        w, g = (tensor.detach().clone().requires_grad_() for tensor in (prototypes, scale))
        optimizer = torch.optim.Adam([w, g], lr=self.step_size)
        for _ in range(self.steps):
            terms = training_terms(similarity(clips, w, g), labels, self.prior)
            optimizer.zero_grad()
            self.loss_of(terms).mean(1).sum().backward()
            optimizer.step()
        return w.detach(), g.detach()

    def loss_of(self, terms: dict[str, Tensor]) -> Tensor:
        """The training loss of each clip without its temporal term."""
        return terms["class"] + self.frame_weight * terms["frame_entropy"] - self.spread_weight * terms["mean_entropy"]

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """The training loss over all clips of the episodes, supports and queries alike."""
        frames = self.drop(self.embed(episodes.videos(), None).frames)
        products = self.classifier(frames).unflatten(-1, (len(self.prior), -1))
        terms = training_terms(products, episodes.video_classes(), self.prior)
        return {
            "loss_class": self.loss_of(terms).mean(),
            "loss_temporal": -self.temporal_weight * terms["temporal"].mean(),
        }
