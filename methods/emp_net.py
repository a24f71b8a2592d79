"""EMP-Net (ECCV 2024): tokens of three depths of a frozen CLIP, reasoned over, fused with text, matched in three streams.

Followed: the official code (cong-wu/EMP-Net): tokens after each third of the blocks (3, 7 and 11 of 12) in the joint space,
the three reasoning blocks, the interaction of class tokens, patches and frames, their fusion with the text of the class in
the support role, OTAM (lambda 0.5, epsilon 0.01) in each stream, the three text scores, the mean of the six probabilities,
and a loss of six cross-entropies of probabilities (a softmax twice, `double_softmax`). Training: 5 queries per class.
Differs: each support is given the text of its own class (the code takes the texts of the first five of its shuffled
supports, which are right at one shot alone). The text scores are plain cosines (`text_epsilon=0`), so that a clip's patches
can be averaged over time before they are stored: 0.4 MB per query clip at 224 pixels; `text_epsilon=0.01` is the code's, for
3.2 MB. Shots are averaged after the fusion; averaging them before it (the code's MERGE_BEFORE) would need the patches of every
frame in the store. Texts come from the one prompt of the protocol (there 16, one drawn per step in training and their mean
in evaluation). Frames of fewer than 49 patches give the mean of all of them. Training: AdamW with warm-up and cosine; 16
episodes per step (there 8); 20,000 episodes everywhere (there 5,000 to 40,000); the checkpoint is chosen on val (there on test).
Unknown: nothing that the code leaves open.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import ClassAndPatchBlock, ModulationBlock, query_cross_entropy
from fsar_bench.matching import build_matcher
from fsar_bench.method import METHODS, Backbone, EpisodeBatch, FewShotMethod, Scores, Traits, VideoFeatures

STREAMS = ("token", "frame", "patch")


@METHODS.register_module()
class EMPNet(FewShotMethod):
    """Multi-level reasoning on frozen tokens of CLIP, with a visual and a text score of class tokens, frames and patches.

    Args:
        backbone: CLIP with a ViT; it stays frozen.
        matcher: config of the matcher of all streams.
        heads: attention heads of all blocks.
        inner_ratio: width of queries, keys and values relative to C.
        ffn_ratio: hidden width of all FFNs relative to C.
        dropout: dropout after every attention.
        ffn_dropout: dropout of every FFN.
        top_patches: number of patches, those most similar to a text, in its patch score.
        top_frames: number of frames in its frame score.
        text_epsilon: added to the product of norms in the text scores; above 0 the patches of every frame are stored.
        double_softmax: the cross-entropy takes the probabilities for logits, as the official code does.
    """

    traits = Traits(uses_class_names=True, trainable=True, transductive=False, order_sensitive=True)

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        heads: int = 4,
        inner_ratio: float = 0.5,
        ffn_ratio: float = 0.25,
        dropout: float = 0.2,
        ffn_dropout: float = 0.05,
        top_patches: int = 49,
        top_frames: int = 2,
        text_epsilon: float = 0.0,
        double_softmax: bool = True,
    ) -> None:
        super().__init__(backbone)
        C = backbone.embedding_width
        shape: dict[str, Any] = {"heads": heads, "ffn_width": int(C * ffn_ratio), "inner": int(C * inner_ratio)}
        shape |= {"dropout": dropout, "ffn_dropout": ffn_dropout}
        self.reasoning = nn.ModuleList(ClassAndPatchBlock(C, **shape) for _ in range(3))
        self.interaction, self.fusion = (
            nn.ModuleDict({stream: ModulationBlock(C, **shape) for stream in STREAMS}) for _ in range(2)
        )
        self.matcher = build_matcher(matcher, C)
        self.top_patches, self.top_frames = top_patches, top_frames
        self.text_epsilon, self.double_softmax = text_epsilon, double_softmax

    @property
    def role_blind_embedding(self) -> bool:
        """Always: the frozen tower knows neither role nor text."""
        return True

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Return the tokens after each third of the blocks in the joint space, `level0` to `level2`: `[V, T, 1 + P, C]`."""
        x, after = self.backbone.embed_tokens(frames), []
        for block in self.backbone.blocks():
            x = x + block.attend(block.norm1(x), x.shape[1])
            x = x + block.mlp(block.norm2(x))
            after.append(x)
        thirds = [after[ceil(len(after) * part / 3) - 1] for part in (1, 2, 3)]
        levels = [self.backbone.project_tokens(self.backbone.norm_tokens(tokens)) for tokens in thirds]
        return VideoFeatures(**{f"level{i}": x.unflatten(0, frames.shape[:2]) for i, x in enumerate(levels)})

    def streams(self, levels: VideoFeatures) -> VideoFeatures:
        """Reason over tokens of three depths: class tokens `token`, frames `frame` `[V, T, C]`, `patch` `[V, T, P, C]`."""
        x = torch.zeros_like(levels.level0)
        for reasoning, (_, level) in zip(self.reasoning, levels.items(), strict=True):
            x = reasoning(x + level)
        token = self.interaction["token"](x[:, :, 0])
        joined = torch.cat([token[:, :, None], x[:, :, 1:]], 2).flatten(0, 1)
        patch = self.interaction["patch"](joined)[:, 1:].unflatten(0, token.shape[:2])
        frame = self.interaction["frame"](patch.mean(2) + x[:, :, 1:].mean(2))
        return VideoFeatures(token=token, frame=frame, patch=patch)

    def fuse(self, streams: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Let each stream attend over time, and to the text `[V, C]` of its class: `token`, `frame`, `patch`, `[V, T, C]`.

        Patches do so at each position and are averaged afterwards.
        """
        V, _, P, _ = streams.patch.shape
        patches = streams.patch.transpose(1, 2).flatten(0, 1)
        each = None if class_text is None else class_text.repeat_interleave(P, 0)
        patch = self._fuse("patch", patches, each).unflatten(0, (V, P)).mean(1)
        token, frame = (self._fuse(name, getattr(streams, name), class_text) for name in ("token", "frame"))
        return VideoFeatures(token=token, frame=frame, patch=patch)

    def _fuse(self, stream: str, x: Tensor, text: Tensor | None) -> Tensor:
        if text is None:
            return self.fusion[stream](x)
        return self.fusion[stream](x + text[:, None], torch.cat([x, text[:, None]], 1))

    def for_text(self, streams: VideoFeatures) -> VideoFeatures:
        """Return what the text scores read: unit vectors, of patches their mean over time, if there is no epsilon."""
        if self.text_epsilon:
            return VideoFeatures(**{f"text_{name}": x for name, x in streams.items()})
        unit = {name: F.normalize(x, dim=-1) for name, x in streams.items()}
        return VideoFeatures(
            text_token=unit["token"], text_frame=unit["frame"], text_patch=unit["patch"].mean(1)[:, None]
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return the fused streams `[V, T, C]` and, in the query role, what the text scores read."""
        streams = self.streams(features)
        fused = self.fuse(streams, class_text)
        more = {} if class_text is not None else dict(self.for_text(streams).items())
        return VideoFeatures(**dict(fused.items()), **more)

    def text_tables(self, videos: VideoFeatures, class_text: Tensor) -> dict[str, Tensor]:
        """Probabilities `[E, V, N]` of each stream, from what `for_text` gives `[E, V, ...]` and texts `[E, N, C]`."""
        token, frame, patch = (self._similarity(getattr(videos, f"text_{name}"), class_text) for name in STREAMS)
        patch = patch.mean(2)
        scores = {
            "token": token.mean(2),
            "frame": frame.topk(min(self.top_frames, frame.shape[2]), 2).values.mean(2),
            "patch": patch.topk(min(self.top_patches, patch.shape[2]), 2).values.mean(2),
        }
        return {f"text_{name}": score.softmax(-1) for name, score in scores.items()}

    def _similarity(self, x: Tensor, text: Tensor) -> Tensor:
        """Cosine `[E, V, ..., N]` of `[E, V, ..., C]`, unit vectors if there is no epsilon, and texts `[E, N, C]`."""
        if not self.text_epsilon:
            return torch.einsum("ev...c,enc->ev...n", x, F.normalize(text, dim=-1))
        norms = torch.einsum("ev...,en->ev...n", x.norm(dim=-1), text.norm(dim=-1))
        return torch.einsum("ev...c,enc->ev...n", x, text) / (norms + self.text_epsilon)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = mean of the six probabilities, which are the parts."""
        parts = self.text_tables(query, class_text)
        for name in STREAMS:
            prototype = getattr(support, name).mean(2, keepdim=True)
            parts[f"visual_{name}"] = (-self.matcher(getattr(query, name), prototype)).softmax(-1)
        return Scores(torch.stack(list(parts.values())).mean(0), parts)

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Six cross-entropies: of queries in the visual tables, of supports and queries in the text tables."""
        E, N, K = episodes.support.shape[:3]
        streams = self.streams(self.embed(episodes.videos(), None))
        for_text = self.for_text(streams)
        supports, queries = slice(E * N * K), slice(E * N * K, None)
        own_text = episodes.class_text[:, :, None].expand(-1, -1, K, -1).flatten(0, 2)
        support = self.fuse(streams[supports], own_text).view(E, N, K)
        query = VideoFeatures(**dict(self.fuse(streams[queries], None).items()), **dict(for_text[queries].items()))
        parts = self.score(support, query.view(E, -1), episodes.class_text).parts
        of_supports = self.text_tables(for_text[supports].view(E, N * K), episodes.class_text)
        labels = torch.arange(N, device=episodes.labels.device).repeat_interleave(K).expand(E, -1)
        losses = {}
        for name, of_queries in parts.items():
            p, expected = of_queries, episodes.labels
            if name in of_supports:
                p, expected = torch.cat([of_supports[name], p], 1), torch.cat([labels, expected], 1)
            losses[f"loss_{name}"] = query_cross_entropy(p if self.double_softmax else p.log(), expected)
        return losses
