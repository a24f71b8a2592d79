"""MA-CLIP (arXiv 2308.01532 v1; v2 is titled MA-FSAR): multimodal adaptation of frozen CLIP.

Re-implementation from the paper: no official code is public.

Followed: figures 2 to 4 (adapters in every block of the frozen image tower, text-guided prototype construction) and tables 3 to 8
(which parts there are, parameter counts).
Differs: nothing known.
Unknown: alpha, temperature, the target of the KL terms (`label_sharpness`), the classes of the support-to-text term,
whether the text terms read features before or after the prototype module, the prompt (protocol `template`), joint_scale,
temporal_embedding, num_temporal_adapters, the skips inside the adapters, OTAM's lambda, width and dropout of the prototype
module, and the optimiser with its learning rate, weight decay and accumulation. Each is a config key. Heads (8) and FFN
dropout (0.05) of the prototype module are CLIP-FSAR's, fixed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.backbones import Backbone, ViTBlock
from fsar_bench.errors import ConfigError
from fsar_bench.layers import Adapter, ModulationBlock
from fsar_bench.matching import build_matcher
from fsar_bench.method import EpisodeBatch, FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.registry import METHODS

PROTOTYPES = ("none", "transformer", "multimodal_transformer", "text_guided")
SUPPORT_BRANCHES = ("multimodal", "spatiotemporal")
TEXT_FEATURES = ("before", "after")
S2T_CLASSES = ("episode", "train")
ALPHA_GRID = tuple(i / 20 for i in range(21))


class AdaptedBlock(nn.Module):
    """The trained parts beside one frozen transformer block (figure 3).

    Args:
        width: D.
        text_width: C; 0 leaves the text token out.
        ratio: bottleneck ratio of the adapters.
        multimodal: the adapter after the attention (spatio-temporal in the query branch).
        temporal_adapters: adapters applied one after the other in the temporal adaptation (figure 3 shows one); 0 leaves out the
            temporal token.
        joint: the adapter beside the MLP.
        joint_scale: s, its factor (not in the paper; AIM uses 0.5).
        skips: whether the temporal, multimodal and joint adapters add their own input.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        *,
        ratio: float,
        multimodal: bool,
        temporal_adapters: int,
        joint: bool,
        joint_scale: float,
        skips: tuple[bool, bool, bool],
    ) -> None:
        super().__init__()
        self.temporal = nn.ModuleList(Adapter(width, ratio=ratio, skip=skips[0]) for _ in range(temporal_adapters))
        self.multimodal = Adapter(width, ratio=ratio, skip=skips[1]) if multimodal else nn.Identity()
        self.joint = Adapter(width, ratio=ratio, skip=skips[2]) if joint else None
        self.text_fc = nn.Linear(text_width, width) if text_width else None
        self.joint_scale = joint_scale

    def forward(self, x: Tensor, block: ViTBlock, frames: int, text: Tensor | None) -> Tensor:
        """Run one block.

        Args:
            x: tokens `[V * T, P + 1, D]`, token 0 the class token of its frame.
            block: the frozen block: its attention serves time, text and space alike.
            frames: T.
            text: class text `[V, C]` in the support role, None in the query role.
        """
        VT, rows, D = x.shape
        extra = []
        if len(self.temporal):  # the class tokens of a video attend to each other
            t = x[:, 0].view(VT // frames, frames, D)
            for adapter in self.temporal:
                t = t + adapter(block.attend(block.norm1(t), frames))
            extra.append(t.reshape(VT, 1, D))
        if text is not None and self.text_fc is not None:  # the text of the class joins every frame
            extra.append(self.text_fc(text)[:, None].expand(-1, frames, -1).reshape(VT, 1, D))
        # The extra tokens serve as keys and values; what they would become is not selected, so it is not computed.
        y = x + self.multimodal(block.attend(block.norm1(torch.cat([x, *extra], 1)), rows))
        z = block.norm2(y)
        out = y + block.mlp(z)
        return out if self.joint is None else out + self.joint_scale * self.joint(z)


@METHODS.register_module()
class MACLIP(FewShotMethod):
    """Adapters inside a frozen ViT, prototypes guided by text, prediction mixed from text and matching.

    Args:
        backbone: CLIP; with a ViT image tower wherever there is an adaptation.
        matcher: config of the matcher (any).
        tune: "none" (the image tower is frozen) or "visual" (all of it is trained).
        multimodal: multimodal adaptation of supports, spatio-temporal adaptation of queries: adapter and text token.
        temporal: temporal adaptation: adapter and temporal token.
        joint: joint adaptation: adapter beside the MLP.
        support_branch: "multimodal" (supports see the text of their class) or "spatiotemporal" (as queries, table 5).
        prototype: "text_guided" (TPCM), "multimodal_transformer" (frames and text attend to each other), "transformer" (frames
            alone) or "none" (table 6).
        alpha: weight of the text terms in the loss and in the prediction.
        predict_alpha: alpha of the prediction alone; None means `alpha`, "val" chooses it on val after training.
        temperature: factor of cosines in the text terms; None takes the backbone's learned scale (CLIP: 100).
        label_sharpness: None for one-hot targets (the KL terms are cross-entropies then); a number s for softmax(s * one-hot).
        text_features: the text terms read the mean frame "before" or "after" the prototype module.
        s2t_classes: a support is compared in the loss with the texts of its "episode", or of all "train" classes.
        adapter_ratio: bottleneck ratio.
        joint_scale: s of the joint adapter.
        temporal_skip: the temporal adapter adds its input.
        multimodal_skip: the multimodal adapter adds its input.
        joint_skip: the joint adapter adds its input.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm (as AIM does), where there is an
            adaptation.
        num_temporal_adapters: temporal adapters of a block.
        frames: T of the temporal embedding; the protocol's frames.
        ffn_width: width of the FFN in the prototype module.
        dropout: dropout of its attention.
    """

    score_only = ("predict_alpha",)

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        tune: str = "none",
        multimodal: bool = True,
        temporal: bool = True,
        joint: bool = True,
        support_branch: str = "multimodal",
        prototype: str = "text_guided",
        alpha: float = 0.5,
        predict_alpha: float | str | None = None,
        temperature: float | None = None,
        label_sharpness: float | None = None,
        text_features: str = "before",
        s2t_classes: str = "episode",
        adapter_ratio: float = 0.25,
        joint_scale: float = 0.5,
        temporal_skip: bool = False,
        multimodal_skip: bool = True,
        joint_skip: bool = False,
        temporal_embedding: bool = True,
        num_temporal_adapters: int = 1,
        frames: int = 8,
        ffn_width: int = 2048,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(backbone)
        for name, value, known in (
            ("prototype", prototype, PROTOTYPES),
            ("support_branch", support_branch, SUPPORT_BRANCHES),
            ("text_features", text_features, TEXT_FEATURES),
            ("s2t_classes", s2t_classes, S2T_CLASSES),
        ):
            if value not in known:
                raise ConfigError(f"method.{name}={value!r} is unknown. Choose from: {', '.join(known)}.")
        self.fits = predict_alpha == "val"
        for name, value in (("alpha", alpha), ("predict_alpha", None if self.fits else predict_alpha)):
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ConfigError(f"method.{name}={value} must lie in 0..1.")
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher, self.alpha = build_matcher(matcher, C), alpha
        self.temperature = backbone.logit_scale if temperature is None else temperature
        self.predict_alpha = alpha if predict_alpha is None or self.fits else predict_alpha
        self.label_sharpness, self.text_features, self.s2t_classes = label_sharpness, text_features, s2t_classes
        self.train_text: Tensor | None = None
        self.adapted, self.temporal_embedding = nn.ModuleList(), None
        if multimodal or temporal or joint:
            self.adapted.extend(
                AdaptedBlock(
                    block.norm1.weight.shape[0],
                    C if multimodal and support_branch == "multimodal" else 0,
                    ratio=adapter_ratio,
                    multimodal=multimodal,
                    temporal_adapters=num_temporal_adapters if temporal else 0,
                    joint=joint,
                    joint_scale=joint_scale,
                    skips=(temporal_skip, multimodal_skip, joint_skip),
                )
                for block in backbone.blocks()
            )
            if temporal_embedding:
                self.temporal_embedding = nn.Parameter(torch.zeros(frames, 1, backbone.map_width))
        self.text_in_prototype = prototype in ("multimodal_transformer", "text_guided")
        text_in_encoder = multimodal and support_branch == "multimodal"
        text_decides, matcher_decides = self.fits or self.predict_alpha > 0, self.fits or self.predict_alpha < 1
        self.guides = prototype == "text_guided"
        self.prototype = None if prototype == "none" else ModulationBlock(C, ffn_width=ffn_width, dropout=dropout)
        self.traits = Traits(
            uses_class_names=text_decides or self.text_in_prototype or text_in_encoder,
            trainable=any(p.requires_grad for p in self.parameters()),
            transductive=False,
            order_sensitive=self.temporal_embedding is not None or (matcher_decides and self.matcher.order_sensitive),
        )

    def prepare(self, class_text: Tensor) -> None:
        """Keep the text features `[classes, C]` of all training classes."""
        self.train_text = class_text

    @property
    def role_blind_embedding(self) -> bool:
        return not len(self.adapted)

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted image tower: support mode when `class_text` `[V, C]` is given, else query mode."""
        if not len(self.adapted):
            return super().embed(frames, class_text)
        V, T = frames.shape[:2]
        x = self.backbone.embed_tokens(frames, self.temporal_embedding)
        for adapted, block in zip(self.adapted, self.backbone.blocks(), strict=True):
            x = adapted(x, block, T, class_text)
        return VideoFeatures(frames=self.backbone.read_tokens(x).unflatten(0, (V, T)))

    def construct(self, frames: Tensor, class_text: Tensor | None) -> Tensor:
        """Prototype module (figure 4) on frames `[V, T, C]`; class text `[V, C]` in the support role."""
        if self.prototype is None:
            return frames
        if class_text is None or not self.text_in_prototype:
            return self.prototype(frames)
        text = class_text[:, None]
        if self.guides:
            return self.prototype(frames + text, torch.cat([text, frames], 1))
        return self.prototype(torch.cat([frames, text], 1))[:, :-1]

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Give `matched` `[V, T, C]`, after the prototype module, and `video` `[V, C]`, the mean frame of the text terms."""
        matched = self.construct(features.frames, class_text)
        return VideoFeatures(
            matched=matched, video=(features.frames if self.text_features == "before" else matched).mean(1)
        )

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

    def fit(self, accuracy) -> dict[str, float | str]:
        """Take the alpha of the prediction, in steps of 0.05, that is best on val; the smallest of equals."""
        best = -1.0
        for alpha in ALPHA_GRID:
            self.predict_alpha = alpha
            if (reached := accuracy()) > best:
                best, chosen = reached, alpha
        self.predict_alpha = chosen
        return {"predict_alpha": chosen}

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
        if self.s2t_classes == "train":
            own = episodes.classes.repeat_interleave(K, 1)
            texts = self.train_text.expand(E, -1, -1)
        else:
            own = torch.arange(N, device=parts["text"].device).repeat_interleave(K).expand(E, -1)
            texts = episodes.class_text
        s2t = self.text_logits(support.video.flatten(1, 2), texts)
        visual = F.cross_entropy(parts["visual"].flatten(0, 1), episodes.labels.flatten())
        return {
            "loss_s2t": self.alpha / 2 * self.text_loss(s2t, own),
            "loss_q2t": self.alpha / 2 * self.text_loss(parts["text"], episodes.labels),
            "loss_q2s": (1 - self.alpha) * visual,
        }
