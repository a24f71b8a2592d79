"""MA-CLIP (arXiv 2308.01532 v1; v2 is titled MA-FSAR): multimodal adaptation of frozen CLIP.

Re-implementation from the paper: no official code is public. Followed: figures 2 to 4 (adapters in every block of the frozen
image tower, text-guided prototype construction) and tables 4 and 8 (parameter counts). Differs: nothing known.
Unknown in the paper, so config keys: alpha, temperature, the target of the KL terms (`label_sharpness`), the prompt (protocol
`template`), joint_scale, temporal_embedding, num_temporal_adapters, OTAM's lambda.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError
from fsar_bench.features import VideoFeatures
from fsar_bench.matching import build_matcher
from fsar_bench.method import EpisodeBatch, FewShotMethod, Scores, Traits
from fsar_bench.modules import Adapter, ModulationBlock
from fsar_bench.registry import METHODS


class AdaptedBlock(nn.Module):
    """The trained parts beside one frozen transformer block (figure 3).

    Args:
        width: D.
        text_width: C.
        ratio: bottleneck ratio of the adapters.
        joint_scale: s, factor of the joint adapter (not in the paper; AIM uses 0.5).
        temporal_adapters: adapters applied one after the other in the temporal adaptation (figure 3 shows one).
    """

    def __init__(
        self, width: int, text_width: int, *, ratio: float, joint_scale: float, temporal_adapters: int
    ) -> None:
        super().__init__()
        self.temporal = nn.ModuleList(Adapter(width, ratio=ratio, skip=False) for _ in range(temporal_adapters))
        self.multimodal = Adapter(width, ratio=ratio, skip=True)
        self.joint = Adapter(width, ratio=ratio, skip=False)
        self.text_fc = nn.Linear(text_width, width)
        self.joint_scale = joint_scale

    def forward(self, x: Tensor, block: nn.Module, frames: int, text: Tensor | None) -> Tensor:
        """Run one block.

        Args:
            x: tokens `[V * T, P + 1, D]`, token 0 the class token of its frame.
            block: the frozen block: its attention serves time, text and space alike.
            frames: T.
            text: class text `[V, C]` in the support role, None in the query role.
        """
        VT, _, D = x.shape
        # Temporal adaptation: the class tokens of a video attend to each other.
        c = x[:, 0].view(VT // frames, frames, D)
        t = c
        for adapter in self.temporal:
            t = t + adapter(block.attention(block.ln_1(t)))
        extra = [t.reshape(VT, 1, D)]
        if text is not None:  # multimodal adaptation: the text of the class joins every frame
            extra.append(self.text_fc(text)[:, None].expand(-1, frames, -1).reshape(VT, 1, D))
        # The extra tokens serve as keys and values; what they would become is not selected, so it is not computed.
        context = block.ln_1(torch.cat([x, *extra], 1))
        selected = context[:, : x.shape[1]]
        y = x + self.multimodal(block.ls_1(block.attention(selected, k_x=context, v_x=context)))
        z = block.ln_2(y)
        return y + block.ls_2(block.mlp(z)) + self.joint_scale * self.joint(z)


@METHODS.register_module()
class MACLIP(FewShotMethod):
    """Adapters inside a frozen ViT, prototypes guided by text, prediction mixed from text and matching.

    Args:
        backbone: CLIP with a ViT image tower.
        matcher: config of the matcher (any).
        alpha: weight of the text terms in the loss and in the prediction.
        predict_alpha: alpha of the prediction alone; None means `alpha`.
        temperature: factor of cosines in the text terms; None takes the backbone's learned scale (CLIP: 100).
        label_sharpness: None for one-hot targets (the KL terms are cross-entropies then); a number s for softmax(s * one-hot).
        adapter_ratio: bottleneck ratio.
        joint_scale: s of the joint adapter.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm (as AIM does).
        num_temporal_adapters: temporal adapters of a block.
        frames: T of the temporal embedding; the protocol's frames.
        ffn_width: width of the FFN in the prototype module.
        dropout: dropout of its attention.
    """

    score_only = ("predict_alpha",)

    def __init__(
        self,
        backbone: nn.Module,
        matcher: dict,
        alpha: float = 0.5,
        predict_alpha: float | None = None,
        temperature: float | None = None,
        label_sharpness: float | None = None,
        adapter_ratio: float = 0.25,
        joint_scale: float = 0.5,
        temporal_embedding: bool = True,
        num_temporal_adapters: int = 1,
        frames: int = 8,
        ffn_width: int = 2048,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(backbone)
        blocks = getattr(getattr(backbone.visual, "transformer", None), "resblocks", None)
        if blocks is None:
            raise ConfigError(
                f"MA-CLIP adapts the blocks of a ViT, and {backbone.name} has none: choose a ViT with backbone=."
            )
        for name, value in (("alpha", alpha), ("predict_alpha", predict_alpha)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"method.{name}={value} must lie in 0..1.")
        width, C = backbone.visual.conv1.out_channels, backbone.embedding_width
        self.matcher, self.alpha = build_matcher(matcher), alpha
        self.temperature = backbone.logit_scale if temperature is None else temperature
        self.predict_alpha = alpha if predict_alpha is None else predict_alpha
        self.label_sharpness = label_sharpness
        self.adapted = nn.ModuleList(
            AdaptedBlock(
                width, C, ratio=adapter_ratio, joint_scale=joint_scale, temporal_adapters=num_temporal_adapters
            )
            for _ in blocks
        )
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, 1, width)) if temporal_embedding else None
        self.prototype = ModulationBlock(C, ffn_width=ffn_width, dropout=dropout)
        self.traits = Traits(True, True, False, temporal_embedding or self.matcher.order_sensitive)

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted image tower: support mode when `class_text` `[V, C]` is given, else query mode."""
        V, T = frames.shape[:2]
        visual = self.backbone.visual
        x = visual.conv1(self.backbone.normalise(frames)).flatten(2).transpose(1, 2)  # [V * T, P, D]
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1)
        x = x + visual.positional_embedding.to(x.dtype)
        if self.temporal_embedding is not None:
            x = (x.unflatten(0, (V, T)) + self.temporal_embedding).flatten(0, 1)
        x = visual.ln_pre(x)
        for adapted, block in zip(self.adapted, visual.transformer.resblocks, strict=True):
            x = adapted(x, block, T, class_text)
        return VideoFeatures(frames=(visual.ln_post(x[:, 0]) @ visual.proj).unflatten(0, (V, T)))

    def construct(self, frames: Tensor, class_text: Tensor | None) -> Tensor:
        """Text-guided prototype construction (figure 4) of frames `[V, T, C]`; text `[V, C]` in the support role."""
        if class_text is None:
            return self.prototype(frames)
        text = class_text[:, None]
        return self.prototype(frames + text, torch.cat([text, frames], 1))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Give `matched` `[V, T, C]` after the prototype module, and `video` `[V, C]`, the mean frame before it."""
        return VideoFeatures(matched=self.construct(features.frames, class_text), video=features.frames.mean(1))

    def text_logits(self, video: Tensor, class_text: Tensor) -> Tensor:
        """temperature * cosine of videos `[E, V, C]` and texts `[E, N, C]`: `[E, V, N]`."""
        return self.temperature * F.normalize(video, dim=-1) @ F.normalize(class_text, dim=-1).transpose(1, 2)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = log(alpha p_Q2T + (1 - alpha) p_Q2S); parts are the logits of both."""
        visual = -self.matcher(query.matched, support.matched.mean(2)[:, :, None])
        text = self.text_logits(query.video, class_text)
        if self.predict_alpha in (0.0, 1.0):
            return Scores((text if self.predict_alpha else visual).log_softmax(-1), {"visual": visual, "text": text})
        mixed = torch.logaddexp(
            text.log_softmax(-1) + math.log(self.predict_alpha),
            visual.log_softmax(-1) + math.log1p(-self.predict_alpha),
        )
        return Scores(mixed, {"visual": visual, "text": text})

    def text_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Divergence of similarities `[E, V, N]` from the label distribution of labels `[E, V]`."""
        logits, labels = logits.flatten(0, 1), labels.flatten()
        if self.label_sharpness is None:
            return F.cross_entropy(logits, labels)
        target = (self.label_sharpness * F.one_hot(labels, logits.shape[-1])).softmax(-1)
        return F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """alpha * (L_S2T + L_Q2T) / 2 + (1 - alpha) * L_Q2S."""
        support, query = self.episode_features(episodes)
        parts = self.score(support, query, episodes.class_text).parts
        E, N, K = episodes.support.shape[:3]
        own = torch.arange(N, device=parts["text"].device).repeat_interleave(K).expand(E, -1)
        s2t = self.text_logits(support.video.flatten(1, 2), episodes.class_text)
        visual = F.cross_entropy(parts["visual"].flatten(0, 1), episodes.labels.flatten())
        return {
            "loss_s2t": self.alpha / 2 * self.text_loss(s2t, own),
            "loss_q2t": self.alpha / 2 * self.text_loss(parts["text"], episodes.labels),
            "loss_q2s": (1 - self.alpha) * visual,
        }
