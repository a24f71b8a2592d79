"""Frame controls: what a method is shown in place of a clip's frames, to see what it makes of their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fsar_bench.config.settings import FramesAs
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.method import FewShotMethod, VideoFeatures

OVER_TIME = ("frames", "maps", "level0", "level1", "level2", "level3")  # features `[V, T, ...]` that `embed` may return


def order_of_frames(kind: FramesAs, role: str, clips: Sequence[str], frames: int) -> Tensor | None:
    """The frame that is shown in each place.

    Args:
        kind: of control.
        role: "support" or "query".
        clips: ids of the clips; a clip is shuffled in one way, in every episode, role and run.
        frames: T.

    Returns:
        int64 `[V, T]`; None where the frames of the role stay as they are.
    """
    if kind == "shuffled":
        return torch.from_numpy(np.stack([_permutation(clip, frames) for clip in clips]))
    if kind == "middle":
        return torch.full((len(clips), frames), frames // 2)
    if kind == "reversed" and role == "query":
        return torch.arange(frames).flip(0).expand(len(clips), -1)
    return None


def _permutation(clip: str, frames: int) -> np.ndarray:
    """A random order of frames, the same for one id everywhere; not the true one, unless there is a single frame."""
    seed = int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8], "big")
    random = np.random.Generator(np.random.PCG64(seed))
    while True:
        order = random.permutation(frames)
        if frames < 2 or (order != np.arange(frames)).any():
            return order


def reorder(videos: Tensor, order: Tensor | None) -> Tensor:
    """Videos, or features over time, `[V, T, ...]`, in the order `[V, T]`; as they are where it is None."""
    if order is None:
        return videos
    return videos[torch.arange(len(videos), device=videos.device)[:, None], order.to(videos.device)]


def reorder_features(features: VideoFeatures, order: Tensor | None) -> VideoFeatures:
    """Features of a frame-wise encoder, in another order of frames: what it gives of the reordered frames."""
    return VideoFeatures(**{name: reorder(tensor, order) for name, tensor in features.items()})


def differences(features: VideoFeatures) -> VideoFeatures:
    """Differences of neighbouring frames `[V, T - 1, ...]` in place of features over time `[V, T, ...]`.

    Raises:
        NotApplicableError: `embed` returns others.
    """
    if not all(name in OVER_TIME for name, _ in features.items()):
        raise NotApplicableError(
            f"frames_as=differences needs features of frames or maps; this method embeds a clip as "
            f"{', '.join(name for name, _ in features.items())}. Choose another frames_as=."
        )
    return VideoFeatures(**{name: tensor[:, 1:] - tensor[:, :-1] for name, tensor in features.items()})


def check_takes_differences(method: FewShotMethod, frames: int) -> None:
    """Check that the layers of a method, on random features and texts, take one step less than there are frames.

    Raises:
        NotApplicableError: they do not.
    """
    backbone, random = method.backbone, torch.Generator().manual_seed(0)
    shape = (2, frames, 3, backbone.crop, backbone.crop)
    video = torch.randint(0, 255, shape, dtype=torch.uint8, generator=random).to(backbone.device)
    width = backbone.embedding_width if backbone.has_text else 0
    text = torch.randn(2, width, generator=random).to(backbone.device)
    method.eval()
    with torch.no_grad():
        as_query = differences(method.embed(video, None))
        as_support = as_query if method.role_blind_embedding else differences(method.embed(video, text))
        try:
            support, query = method.encode(as_support, text), method.encode(as_query, None)
            if method.reads_train_bank:
                method.learn_from_bank(query, torch.arange(2, device=backbone.device))  # replaced before scoring
            method.score_episodes(support.view(1, 2, 1), query.view(1, 2), text[None])
        except (RuntimeError, ConfigError) as error:
            raise NotApplicableError(
                f"frames_as=differences gives one step less than there are frames, and the layers of this method are sized for "
                f"{frames} ({str(error).splitlines()[0][:200]}). Choose another frames_as=."
            ) from error
