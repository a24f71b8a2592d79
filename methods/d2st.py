"""D2ST-Adapter (ICCV 2025, arXiv 2312.01431): deformable attention over space and time in an adapter after each frozen block.

Followed: the official code for ViTs: the adapter with its two branches and their initialisation, the temporal embedding, class
tokens after the last LayerNorm without projection, mean shots, Bi-MHM with the plain cosine, optimiser, learning rate.
Differs: ViTs only; the official code also adapts the stages of a ResNet, which `DeformableAdapter` can compute. Windows follow
the grid (see `windows_of`) and are the official ones at 14 x 14 patches and 8 frames. The suite's queries per class and schedule
(official: 1 query per class, its own schedule). No classification loss: the official configs set none.
Unknown: nothing that the official code does not settle.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fsar_bench.backbones.adapters import new_temporal_embedding, read_class_tokens
from fsar_bench.backbones.deformable import DeformableAdapter, Window, windows_of
from fsar_bench.matching import build_matcher
from fsar_bench.method import METHODS, Backbone, FewShotMethod, Scores, Traits, VideoFeatures


@METHODS.register_module()
class D2ST(FewShotMethod):
    """A deformable adapter after each block of a frozen ViT, then any matcher; no text.

    Args:
        backbone: a ViT.
        matcher: config of the matcher (any).
        adapter_ratio: width of the adapters relative to D.
        heads: heads of the deformable attention.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm.
        project: match frame features of width C; otherwise class tokens of width D, as in the official code.
        frames: T; the protocol's frames.
        spatial_kernel: windows of the spatial branch over frames, rows and columns; None takes that of `windows_of`.
        spatial_stride: distance between them.
        temporal_kernel: windows of the temporal branch.
        temporal_stride: distance between them.

    Raises:
        ConfigError: windows that give no sample, or heads that do not divide the width of the adapters.
        NotApplicableError: the backbone is not a ViT.
    """

    role_free = True
    matched = "frames"
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        adapter_ratio: float = 0.25,
        heads: int = 4,
        temporal_embedding: bool = True,
        project: bool = False,
        frames: int = 8,
        spatial_kernel: Sequence[int] | None = None,
        spatial_stride: Sequence[int] | None = None,
        temporal_kernel: Sequence[int] | None = None,
        temporal_stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__(backbone)
        blocks, D, side = backbone.blocks(), backbone.map_width, backbone.crop // backbone.map_stride
        grid = (frames, side, side)
        usual = windows_of(grid)
        windows = {
            "spatial": Window(spatial_kernel or usual["spatial"].kernel, spatial_stride or usual["spatial"].stride),
            "temporal": Window(
                temporal_kernel or usual["temporal"].kernel, temporal_stride or usual["temporal"].stride
            ),
        }
        self.project = project
        self.matcher = build_matcher(matcher, backbone.embedding_width if project else D)
        self.adapters = nn.ModuleList(
            DeformableAdapter(D, grid, windows, ratio=adapter_ratio, heads=heads, outer_gelu=True) for _ in blocks
        )
        self.temporal_embedding = new_temporal_embedding(frames, D) if temporal_embedding else None

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted image tower, in both roles alike."""
        leading = frames.shape[:2]
        x = self.backbone.embed_tokens(frames, self.temporal_embedding)
        for adapter, block in zip(self.adapters, self.backbone.blocks(), strict=True):
            x = adapter(block(x).unflatten(0, leading)).flatten(0, 1)
        return VideoFeatures(frames=read_class_tokens(self.backbone, x, project=self.project).unflatten(0, leading))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Match queries with the mean frames of each class."""
        return Scores(-self.matched_distance(query, support, mean_of_shots=True))
