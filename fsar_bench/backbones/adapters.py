"""Adapters in the blocks of a frozen ViT, shared by methods that attend over frames and videos with its own attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.errors import ConfigError
from fsar_bench.layers import Adapter

SupportBranch = Literal["multimodal", "spatiotemporal"]
TextStart = Literal["random", "zero", "projection"]


class SpaceTimeBlock(nn.Module):
    """The trained parts of one frozen block that serves time, space and, with `across`, the videos of a set (AIM, ICLR 2023).

        x += A_time(MSA(LN_1 x)), over the frames at each position; with two adapters A_time(MSA(A_before(LN_1 x)))
        x += A_space(MSA(LN_1 x)), over the tokens of each frame
        x += A_across(MSA(LN_1 x)), over the videos of a set at each frame and position (Task-Adapter, ACM MM 2024)
        x += MLP(LN_2 x) + s A_joint(LN_2 x)

    A_before and A_space have a skip. All adapters start at zero, so that the block starts as the frozen one.

    Args:
        width: D.
        ratio: width of the adapters' bottleneck relative to D.
        joint_scale: s.
        num_temporal_adapters: 1, or 2 with A_before.
        across: let the videos of a set attend to each other.

    Raises:
        ConfigError: neither one nor two temporal adapters.
    """

    def __init__(
        self, width: int, *, ratio: float, joint_scale: float, num_temporal_adapters: int = 1, across: bool = False
    ) -> None:
        super().__init__()
        if num_temporal_adapters not in (1, 2):
            raise ConfigError(f"method.num_temporal_adapters={num_temporal_adapters} must be 1 or 2.")
        self.joint_scale = joint_scale
        self.before_time = Adapter(width, ratio=ratio, skip=True) if num_temporal_adapters == 2 else nn.Identity()
        self.time = Adapter(width, ratio=ratio, skip=False)
        self.space = Adapter(width, ratio=ratio, skip=True)
        self.across = Adapter(width, ratio=ratio, skip=False) if across else None
        self.joint = Adapter(width, ratio=ratio, skip=False)

    def forward(self, x: Tensor, block: ViTBlock) -> Tensor:
        """Run the block on the tokens of S sets of V videos, `[S, V, T, 1 + P, D]`; returns the same shape."""
        x = x + self.time(_attend_along(block, self.before_time(block.norm1(x)), 2))
        x = x + self.space(_attend_along(block, block.norm1(x), 3))
        if self.across is not None:
            x = x + self.across(_attend_along(block, block.norm1(x), 1))
        return _add_mlp(x, block, self.joint, self.joint_scale)


def _attend_along(block: ViTBlock, x: Tensor, dim: int) -> Tensor:
    """Apply a block's attention along one dimension of tokens `[..., D]`, to every sequence alone."""
    sequences = x.movedim(dim, -2)
    attended = block.attend(sequences.flatten(0, -3), x.shape[dim])
    return attended.reshape(sequences.shape).movedim(-2, dim)


def _add_mlp(x: Tensor, block: ViTBlock, joint: Adapter | None, joint_scale: float) -> Tensor:
    """Add a block's MLP to tokens `[..., D]`, and next to it the joint adapter if there is one, both of LN_2 x."""
    z = block.norm2(x)
    out = x + block.mlp(z)
    return out if joint is None else out + joint_scale * joint(z)


def new_temporal_embedding(frames: int, width: int) -> nn.Parameter:
    """Return one learned vector per frame `[T, 1, D]`, zero at first, for `Backbone.embed_tokens`."""
    return nn.Parameter(torch.zeros(frames, 1, width))


def read_class_tokens(backbone: Backbone, tokens: Tensor, *, project: bool) -> Tensor:
    """Read frames from the tokens `[B, 1 + P, D]` that leave the last block.

    Args:
        backbone: a ViT.
        tokens: of B frames.
        project: give frame features `[B, C]`, as the backbone does; otherwise the class token after the last LayerNorm `[B, D]`.
    """
    return backbone.read_tokens(tokens) if project else backbone.norm_tokens(tokens)[:, 0]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The adaptation of an image tower to the text of a class and to time (MA-CLIP, figure 3): which parts, of which shape.

    Attributes:
        multimodal: multimodal adaptation of supports, spatio-temporal adaptation of queries: adapter and text token.
        temporal: temporal adaptation: adapter and temporal token.
        joint: joint adaptation: adapter parallel to the MLP.
        support_branch: "multimodal" (supports see the text of their class) or "spatiotemporal" (as queries, table 5).
        adapter_ratio: width of the adapters' bottleneck relative to D.
        joint_scale: s, factor of the joint adapter (not in the paper; AIM uses 0.5).
        temporal_skip: the temporal adapter adds its input.
        multimodal_skip: the multimodal adapter adds its input.
        joint_skip: the joint adapter adds its input.
        temporal_embedding: learn one vector per frame, added before the first LayerNorm (as AIM does); only where there is an
            adaptation.
        num_temporal_adapters: temporal adapters of a block, applied one after the other (figure 3 shows one).
        frames: T of the temporal embedding; the protocol's frames.
        text_start: what the layers that map a text to a token start as: "random" (torch's default), "zero" (all classes have the
            same token), or "projection" (the token is the vector that the image tower's last projection maps to the text).

    Raises:
        ConfigError: an unknown word for `support_branch` or `text_start`.
    """

    multimodal: bool = True
    temporal: bool = True
    joint: bool = True
    support_branch: SupportBranch = "multimodal"
    adapter_ratio: float = 0.25
    joint_scale: float = 0.5
    temporal_skip: bool = False
    multimodal_skip: bool = True
    joint_skip: bool = False
    temporal_embedding: bool = True
    num_temporal_adapters: int = 1
    frames: int = 8
    text_start: TextStart = "random"

    def __post_init__(self) -> None:
        for name, kind in (("support_branch", SupportBranch), ("text_start", TextStart)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"method.{name}={getattr(self, name)!r} is unknown. Choose from: {', '.join(get_args(kind))}."
                )

    @property
    def reads_text(self) -> bool:
        """Whether supports see the text of their class inside the image tower."""
        return self.multimodal and self.support_branch == "multimodal"

    def build(self, backbone: Backbone) -> tuple[nn.ModuleList, nn.Parameter | None]:
        """Make an `AdaptedBlock` for each block of a ViT, and the temporal embedding.

        Returns:
            No block and no embedding where nothing is adapted; any backbone will do then.
        """
        if not (self.multimodal or self.temporal or self.joint):
            return nn.ModuleList(), None
        D, C = backbone.map_width, backbone.embedding_width
        blocks = [AdaptedBlock(D, C, self) for _ in backbone.blocks()]
        if self.reads_text and self.text_start != "random":
            start = torch.zeros(D, C) if self.text_start == "zero" else _unprojected(backbone)
            for block in blocks:
                block.start_text(start)
        return nn.ModuleList(blocks), new_temporal_embedding(self.frames, D) if self.temporal_embedding else None


@torch.no_grad()
def _unprojected(backbone: Backbone) -> Tensor:
    """The weight `[D, C]` of a layer whose token the projection of the image tower maps to the text that it was made of."""
    D = backbone.map_width
    return torch.linalg.pinv(backbone.project_tokens(torch.eye(D, device=backbone.device))).T


class AdaptedBlock(nn.Module):
    """The trained parts of one frozen block whose frames attend to two more tokens: of time, and of the text of the class.

        t += A_time(MSA(LN_1 t)), over the class tokens t of a video
        x += A_multimodal(MSA(LN_1 [x, t, FC(text)])), over the tokens of each frame; t and the text are keys and values only
        x += MLP(LN_2 x) + s A_joint(LN_2 x)

    Every part can be left out. Adapters start at zero.

    Args:
        width: D.
        text_width: C.
        adaptation: which parts there are.
    """

    def __init__(self, width: int, text_width: int, adaptation: Adaptation) -> None:
        super().__init__()
        ratio = adaptation.adapter_ratio
        self.temporal = nn.ModuleList(
            Adapter(width, ratio=ratio, skip=adaptation.temporal_skip)
            for _ in range(adaptation.num_temporal_adapters if adaptation.temporal else 0)
        )
        self.multimodal = (
            Adapter(width, ratio=ratio, skip=adaptation.multimodal_skip) if adaptation.multimodal else nn.Identity()
        )
        self.joint = Adapter(width, ratio=ratio, skip=adaptation.joint_skip) if adaptation.joint else None
        self.text_fc = nn.Linear(text_width, width) if adaptation.reads_text else None
        self.joint_scale = adaptation.joint_scale

    @torch.no_grad()
    def start_text(self, weight: Tensor) -> None:
        """Let the text layer start with a weight `[D, C]` and without a bias."""
        assert self.text_fc is not None, "only a block that reads text has such a layer"
        self.text_fc.weight.copy_(weight)
        self.text_fc.bias.zero_()

    def forward(self, x: Tensor, block: ViTBlock, frames: int, text: Tensor | None) -> Tensor:
        """Run one block.

        Args:
            x: tokens `[V * T, P + 1, D]`, token 0 the class token of its frame.
            block: the frozen block; its attention serves time, text and space.
            frames: T.
            text: class text `[V, C]` in the support role, None in the query role.

        Returns:
            Tokens `[V * T, P + 1, D]`.
        """
        VT, tokens, D = x.shape
        extra = []
        if len(self.temporal):  # the class tokens of a video attend to each other
            t = x[:, 0].view(VT // frames, frames, D)
            for adapter in self.temporal:
                t = t + adapter(block.attend(block.norm1(t), frames))
            extra.append(t.reshape(VT, 1, D))
        if text is not None and self.text_fc is not None:  # the text of the class joins every frame
            extra.append(self.text_fc(text)[:, None].expand(-1, frames, -1).reshape(VT, 1, D))
        # The extra tokens serve only as keys and values; their own outputs are not used, so they are not computed.
        x = x + self.multimodal(block.attend(block.norm1(torch.cat([x, *extra], 1)), tokens))
        return _add_mlp(x, block, self.joint, self.joint_scale)
