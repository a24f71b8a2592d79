"""AIM (ICLR 2023, arXiv 2302.03024) as a few-shot method: adapters for time, space and both in every block of a frozen ViT.

Followed: the official code of AIM for action recognition: three adapters in each block (four with two temporal ones), attention
over time at every position with the frozen attention, the temporal embedding, initialisation, optimiser and weight decay.
Differs: AIM classifies videos; here a matcher compares frames with class prototypes, the frame-by-frame means of the shots, as
in MA-CLIP. Frames are projected to the joint space (`project`), which AIM does not do. No drop path (AIM: up to 0.2), and weight
decay also reaches the temporal embedding. OTAM, with MA-CLIP's settings, so that the row differs from MA-CLIP's only by the
text, the extra tokens, which are replaced by attention at every position, and the prototype module.
Unknown: published few-shot results of these adapters come with neither matcher nor schedule: both are MA-CLIP's here.
"""

from __future__ import annotations

from torch import Tensor, nn

from fsar_bench.backbones.adapters import SpaceTimeBlock, new_temporal_embedding, read_class_tokens
from fsar_bench.matching import build_matcher
from fsar_bench.method import METHODS, Backbone, FewShotMethod, Scores, Traits, VideoFeatures


@METHODS.register_module()
class AIM(FewShotMethod):
    """Space-time adapters in a frozen ViT, then any matcher; no text.

    Args:
        backbone: a ViT.
        matcher: config of the matcher (any).
        adapter_ratio: width of the adapters' bottleneck relative to D.
        joint_scale: s, factor of the adapter next to the MLP; AIM has 0.5 on Kinetics, and 1 on SSv2.
        num_temporal_adapters: 1, or 2 for a further one before the attention over time; AIM has 2 on SSv2.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm.
        project: match frame features of width C; otherwise class tokens of width D, as in AIM.
        frames: T of the temporal embedding; the protocol's frames.

    Raises:
        ConfigError: neither one nor two temporal adapters.
        NotApplicableError: the backbone is not a ViT.
    """

    role_free = True
    matched = "frames"

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        adapter_ratio: float = 0.25,
        joint_scale: float = 0.5,
        num_temporal_adapters: int = 1,
        temporal_embedding: bool = True,
        project: bool = True,
        frames: int = 8,
    ) -> None:
        super().__init__(backbone)
        D = backbone.map_width
        self.project = project
        self.matcher = build_matcher(matcher, backbone.embedding_width if project else D)
        self.adapted = nn.ModuleList(
            SpaceTimeBlock(D, ratio=adapter_ratio, joint_scale=joint_scale, num_temporal_adapters=num_temporal_adapters)
            for _ in backbone.blocks()
        )
        self.temporal_embedding = new_temporal_embedding(frames, D) if temporal_embedding else None
        self.traits = Traits(
            uses_class_names=False,
            trainable=True,
            transductive=False,
            order_sensitive=temporal_embedding or self.matcher.order_sensitive,
        )

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted image tower, in both roles alike."""
        V, T = frames.shape[:2]
        x = self.backbone.embed_tokens(frames, self.temporal_embedding).unflatten(0, (V, 1, T))
        for adapted, block in zip(self.adapted, self.backbone.blocks(), strict=True):
            x = adapted(x, block)
        features = read_class_tokens(self.backbone, x.flatten(0, 2), project=self.project)
        return VideoFeatures(frames=features.unflatten(0, (V, T)))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Match queries with the mean frames of each class."""
        return Scores(-self.matched_distance(query, support, mean_of_shots=True))
