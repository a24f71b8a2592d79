"""FeatureBank: every clip encoded at most once per role, resident on the device, gathered by episode."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fsar_bench.data.dataset import Split
from fsar_bench.data.decode import Request
from fsar_bench.data.frames import FrameSource
from fsar_bench.method import FewShotMethod, VideoFeatures
from fsar_bench.plan import EpisodePlan

CHUNK = 32  # clips encoded at a time; fixed, so that shapes, and so floats, do not depend on a resume

Progress = Callable[[int, int], None]


@dataclass
class FeatureBank:
    """Features of the clips that a plan uses.

    Attributes:
        row: row of each clip of the split, int64 `[clips]`, -1 where a clip is not used.
        query: features of all clips in the query role.
        support: features of all clips in the support role (the same object for a role-free method).
        seconds: what encoding took, without reading frames; for chunks taken up from a store, what it took then.
    """

    row: np.ndarray
    query: VideoFeatures
    support: VideoFeatures
    seconds: float

    def episodes(self, plan: EpisodePlan, rows: slice) -> tuple[VideoFeatures, VideoFeatures]:
        """Supports `[E, N, K, ...]` and queries `[E, Q, ...]` of some episodes."""
        query = plan.query[rows].reshape(len(plan.query[rows]), -1)
        return self.support[self._index(plan.support[rows])], self.query[self._index(query)]

    def _index(self, clips: np.ndarray) -> Tensor:
        device = next(tensor for _, tensor in self.query.items()).device
        return torch.from_numpy(self.row[clips]).to(device)


def frames_to_tensor(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 `[V, T, H, W, 3]` to uint8 `[V, T, 3, H, W]` on a device."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))).to(device)


@torch.inference_mode()
def build_bank(
    method: FewShotMethod,
    split: Split,
    clips: np.ndarray,
    class_text: Tensor,
    source: FrameSource,
    *,
    store: Path | None = None,
    store_key: str = "",
    progress: Progress | None = None,
) -> FeatureBank:
    """Encode clips in fixed chunks.

    Args:
        clips: numbers of the clips to encode, sorted.
        class_text: text features of all classes of the split, `[classes, C]`.
        store: folder that keeps encoded chunks, so that an interrupted encoding goes on; None keeps nothing.
        store_key: what the chunks depend on beside their clips (weights, geometry, frames, reader).
        progress: called with (videos encoded, videos in all).
    """
    method.eval()
    device, class_of = class_text.device, np.array(split.class_of)
    roles = ("query",) if method.role_free else ("query", "support")
    total, done = len(clips) * len(roles), 0
    parts: dict[str, list[VideoFeatures]] = {role: [] for role in roles}
    seconds = 0.0
    for chunk, frames in _chunks(split, clips, source):
        pixels = cache(lambda frames=frames: frames_to_tensor(frames(), device))
        embedding = cache(lambda pixels=pixels: method.embed(pixels(), None))
        for role in roles:
            text = class_text[torch.from_numpy(class_of[chunk]).to(device)] if role == "support" else None
            if method.shares_embedding:
                kind, key_text, compute = "embedding", None, embedding
            else:
                embed = embedding if method.role_blind_embedding else partial(_embed, method, pixels, text)
                kind, key_text, compute = role, text, partial(_encode, method, embed, text)
            path = store and store / f"{_chunk_key(store_key, kind, split, chunk, key_text)}.safetensors"
            features, spent = _cached(path, device, pixels, compute)
            if method.shares_embedding:
                features, more = _timed(partial(method.encode, features, text), device)
                spent += more
            seconds += spent
            parts[role].append(features)
            done += len(chunk)
            if progress:
                progress(done, total)
    row = np.full(len(split.clips), -1, np.int64)
    row[clips] = np.arange(len(clips))
    banks = {role: VideoFeatures.cat(parts[role]) for role in roles}
    return FeatureBank(row, banks["query"], banks[roles[-1]], seconds)


def _embed(method: FewShotMethod, pixels: Callable[[], Tensor], text: Tensor | None) -> VideoFeatures:
    return method.embed(pixels(), text)


def _encode(method: FewShotMethod, embed: Callable[[], VideoFeatures], text: Tensor | None) -> VideoFeatures:
    return method.encode(embed(), text)


def _timed(compute: Callable[[], VideoFeatures], device: torch.device) -> tuple[VideoFeatures, float]:
    began = perf_counter()
    features = compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return features, perf_counter() - began


def _cached(
    path: Path | None, device: torch.device, pixels: Callable[[], Tensor], compute: Callable[[], VideoFeatures]
) -> tuple[VideoFeatures, float]:
    """Stored features and the seconds they took, or computed ones (frames are read before the clock starts)."""
    loaded = _load(path, device)
    if loaded is not None:
        return loaded
    pixels()
    features, seconds = _timed(compute, device)
    _save(path, features, seconds)
    return features, seconds


def _chunks(split: Split, clips: np.ndarray, source: FrameSource) -> Iterator[tuple[np.ndarray, Callable]]:
    """Chunks of clip numbers, each with a function that gives its frames (read ahead by one chunk once it is asked for)."""
    starts = range(0, len(clips), CHUNK)
    requests = {start: [Request(split.clips[i]) for i in clips[start : start + CHUNK]] for start in starts}
    pending: dict[int, list] = {}
    kept: dict[int, np.ndarray] = {}

    def frames(start: int) -> np.ndarray:
        if start not in kept:
            kept.clear()
            for ahead in (start, start + CHUNK):
                if ahead in requests and ahead not in pending:
                    pending[ahead] = source.prefetch(requests[ahead])
            kept[start] = source.collect(requests[start], pending.pop(start))
        return kept[start]

    for start in starts:
        yield clips[start : start + CHUNK], lambda start=start: frames(start)


def _chunk_key(store_key: str, role: str, split: Split, chunk: np.ndarray, text: Tensor | None) -> str:
    sha = hashlib.sha256(f"{store_key}|{role}".encode())
    for number in chunk:
        sha.update(split.clips[number].content.encode())
    if text is not None:
        sha.update(text.cpu().numpy().tobytes())
    return sha.hexdigest()


def _load(path: Path | None, device: torch.device) -> tuple[VideoFeatures, float] | None:
    if path is None or not path.exists():
        return None
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            seconds = float(file.metadata()["seconds"])
            return VideoFeatures(**{name: file.get_tensor(name) for name in file.keys()}), seconds  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        path.unlink(missing_ok=True)  # damaged: encode again
        return None


def _save(path: Path | None, features: VideoFeatures, seconds: float) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    tensors = {name: tensor.contiguous() for name, tensor in features.items()}
    save_file(tensors, temporary, metadata={"seconds": repr(seconds)})
    os.replace(temporary, path)
