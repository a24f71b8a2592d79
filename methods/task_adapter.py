"""Task-Adapter (ACM MM 2024, arXiv 2408.00249): adapters in the last blocks of frozen CLIP, one across the videos of a set.

Followed: the official code: three space-time adapters and one across videos in each of the last blocks, their initialisation
(the adapter across videos does not start at zero), supports and queries in two sets, score = cosine with the class prototype
times cosine with the class text, factor 64 in the loss, one query per class, plain SGD with its learning rate.
Differs: a set is all supports, or all queries, of an episode regardless of the number of devices; the official code splits each
set over two GPUs or more. The prompt is the protocol's (official: "a photo of action about {}"). Training episodes, accumulation,
warm-up and cosine are the suite's (official: an update per episode at a constant learning rate).
Unknown: nothing that the official code does not settle.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fsar_bench.backbones.adapters import SpaceTimeBlock, new_temporal_embedding, read_class_tokens
from fsar_bench.layers import Adapter, cosine_logits
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, VideoFeatures

CHUNK = 64  # videos that pass the adapted blocks together; sets are never split


@METHODS.register_module()
class TaskAdapter(FewShotMethod):
    """Frozen blocks per video, adapted blocks per set of videos, score from prototypes and texts.

    The tokens between the two are kept per video, 4.8 MB with ViT-B/16 and 8 frames, and the adapted blocks run again for every
    episode: fewer episodes than the protocol's default are reasonable.

    Args:
        backbone: CLIP with a ViT image tower.
        layers: adapted blocks, the last ones; None for half of the blocks (6 of the 12 of ViT-B, as in the official code).
        adapter_ratio: width of the adapters' bottleneck relative to D.
        joint_scale: s, factor of the adapter next to the MLP.
        scale: factor of the score, for the loss.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm. Gradients pass the frozen blocks
            because of it.
        query_group: None for a set of all queries of the episode (transductive), or 1 for a set of each query (inductive).
            Queries are stored class by class, so that groups in between would tell which of them share a class.
        frames: T of the temporal embedding; the protocol's frames.

    Raises:
        ConfigError: more adapted blocks than there are, or another group of queries.
        NotApplicableError: the backbone is not a ViT.
    """

    role_free = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: int | None = None,
        adapter_ratio: float = 0.25,
        joint_scale: float = 1.0,
        scale: float = 64.0,
        temporal_embedding: bool = True,
        query_group: int | None = None,
        frames: int = 8,
    ) -> None:
        super().__init__(backbone)
        D, depth = backbone.map_width, len(backbone.blocks())
        layers = max(1, depth // 2) if layers is None else layers
        if not 1 <= layers <= depth:
            raise ConfigError(f"method.layers={layers} must be from 1 to {depth}, the blocks of {backbone.name}.")
        if query_group not in (None, 1):
            raise ConfigError(
                f"method.query_group={query_group} must be none (all queries of an episode together) or 1 (each query alone): "
                "other groups would tell which queries share a class."
            )
        self.layers, self.scale, self.query_group = layers, scale, query_group
        self.adapted = nn.ModuleList(
            SpaceTimeBlock(D, ratio=adapter_ratio, joint_scale=joint_scale, across=True) for _ in range(layers)
        )
        self._initialise()
        self.temporal_embedding = new_temporal_embedding(frames, D) if temporal_embedding else None
        self.traits = Traits(
            uses_class_names=True,
            trainable=True,
            transductive=query_group is None,
            order_sensitive=temporal_embedding,
            set_wise=True,
        )

    def _initialise(self) -> None:
        """Give the adapters the initialisation of the official code: torch's, but zero where the output is to start at zero."""
        for adapter in [module for module in self.modules() if isinstance(module, Adapter)]:
            adapter.down.reset_parameters()
        for block in self.modules():
            if isinstance(block, SpaceTimeBlock) and block.across is not None:
                block.across.up.reset_parameters()

    @property
    def role_blind_embedding(self) -> bool:
        """Always: the first blocks know neither role nor text, so that one pass serves both roles."""
        return True

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the frozen blocks: `tokens` `[V, T, 1 + P, D]` that enter the first adapted block."""
        x = self.backbone.embed_tokens(frames, self.temporal_embedding)
        for block in self.backbone.blocks()[: -self.layers]:
            x = block(x)
        return VideoFeatures(tokens=x.unflatten(0, frames.shape[:2]))

    def encode_set(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted blocks: `frames` `[E, V, T, C]` of all supports together, and of the queries by `query_group`."""
        E, V = features.leading(2)
        size = V if self.query_group is None or class_text is not None else self.query_group
        sets = features.tokens.flatten(0, 1).unflatten(0, (-1, size))
        frames = torch.cat(list(self._chunks(sets)))
        return VideoFeatures(frames=frames.flatten(0, 1).unflatten(0, (E, V)))

    def _chunks(self, sets: Tensor) -> Iterator[Tensor]:
        """Encode sets `[S, V, T, 1 + P, D]` to frames `[S, V, T, C]`, some sets at a time."""
        for x in sets.split(max(1, CHUNK // sets.shape[1])):
            leading = x.shape[:3]
            for adapted, block in zip(self.adapted, self.backbone.blocks()[-self.layers :], strict=True):
                x = adapted(x, block)
            yield read_class_tokens(self.backbone, x.flatten(0, 2), project=True).unflatten(0, leading)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = scale * visual * text, the cosines of the mean frame of a query with class prototypes and class texts.

        As in the official code, the product of two negative cosines is positive.
        """
        video = query.frames.mean(2)
        visual = cosine_logits(video, support.frames.mean((2, 3)), 1.0)
        text = cosine_logits(video, class_text, 1.0)
        return Scores(self.scale * visual * text, {"visual": visual, "text": text})
