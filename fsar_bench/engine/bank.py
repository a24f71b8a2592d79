"""FeatureBank: every clip encoded at most once per role, in memory or in a mapped file, gathered by episode."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fsar_bench.config.settings import FramesAs
from fsar_bench.data.contents import contents_of
from fsar_bench.data.dataset import Split
from fsar_bench.data.decode import Request
from fsar_bench.data.frames import FrameSource
from fsar_bench.engine.controls import differences, order_of_frames, reorder, reorder_features
from fsar_bench.engine.exchange import Exchange
from fsar_bench.engine.locks import making
from fsar_bench.engine.memory import Room, Shelf
from fsar_bench.errors import ProtocolError
from fsar_bench.io import read_whole, write_cached
from fsar_bench.method import FewShotMethod, VideoFeatures
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import CACHED, HASHING, counter
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import DamagedError, check_tensors, seal_tensors

CHUNK = 32  # clips encoded at a time; fixed, so that shapes, and so floats, do not depend on a resume
LARGEST = 1 << 20  # bytes per clip that are stored; what is larger, such as all tokens of a ViT, would fill disks

Progress = Callable[..., None]  # of videos encoded, videos in all and, where they were stored before, CACHED


@dataclass(frozen=True)
class BankStore:
    """A folder that keeps encoded chunks, so that an interrupted encoding can be resumed.

    Attributes:
        folder: where chunks are stored.
        key: what they depend on beside their clips (weights, geometry, frames, reader).
    """

    folder: Path
    key: str


@dataclass(frozen=True)
class BankPlace:
    """Where encoded chunks are kept, also of a method that is still to be trained.

    Attributes:
        folder: where chunks are stored.
        embedding: what they depend on beside their clips and the weights.
        weights: fingerprint of the weights; empty where it is the checkpoint that tells them.
    """

    folder: Path
    embedding: str
    weights: str = ""

    def store(self, checkpoint: str) -> BankStore:
        """The store of a method with the trained weights of this SHA-256."""
        return BankStore(self.folder, f"{self.embedding}|{self.weights or checkpoint}")


class Gathering:
    """Gathers rows of tensors into new memory."""

    def rows(self, tensor: Tensor, index: Tensor, use: str, *, as_float: bool = False) -> Tensor:
        """Rows `[*index.shape, ...]` of a tensor.

        Args:
            tensor: all rows.
            index: numbers of the rows, of any shape, on the device of the tensor.
            use: names what they are gathered for; no two tensors have the same.
            as_float: rows in float16 become float32.
        """
        # the rows of tensor[index], which takes them one number at a time: up to three times as long on a CPU
        rows = torch.index_select(
            tensor, 0, index.flatten(), out=self._memory(tensor, index.numel(), use, tensor.dtype)
        )
        if as_float and tensor.dtype == torch.half:
            memory = self._memory(tensor, len(rows), use, torch.float)
            rows = rows.float() if memory is None else memory.copy_(rows)
        return rows.view(*index.shape, *tensor.shape[1:])

    def _memory(self, tensor: Tensor, rows: int, use: str, dtype: torch.dtype) -> Tensor | None:
        """Memory for so many rows of a tensor; None lets torch take it."""
        return None


class RepeatedGathering(Gathering):
    """Gathers into the same memory each time: what was gathered before for the same use is overwritten. Not for gradients.

    New memory goes back to the system between batches, and to fault it in again takes as long as to fill it.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def _memory(self, tensor: Tensor, rows: int, use: str, dtype: torch.dtype) -> Tensor:
        kept = self._kept.get((use, dtype))
        if kept is None or len(kept) < rows:
            kept = self._kept[use, dtype] = torch.empty(rows, *tensor.shape[1:], dtype=dtype, device=tensor.device)
        return kept[:rows]


class _Rows(Mapping[str, Tensor]):
    """Rows of tensors by name, gathered when they are read, and kept.

    Args:
        features: all rows.
        gather: gives the rows of one tensor, with its name.
    """

    def __init__(self, features: VideoFeatures, gather: Callable[[str, Tensor], Tensor]) -> None:
        self._features, self._gather = features, gather
        self._gathered: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._features:
            raise KeyError(name)
        if name not in self._gathered:
            self._gathered[name] = self._gather(name, getattr(self._features, name))
        return self._gathered[name]

    def __contains__(self, name: object) -> bool:
        return str(name) in self._features

    def __iter__(self) -> Iterator[str]:
        return iter(self._features.names())

    def __len__(self) -> int:
        return len(self._features.names())


@dataclass
class FeatureBank:
    """Features of the clips that a plan uses.

    Attributes:
        row: row of each clip of the split, int64 `[clips]`, -1 where a clip is not used.
        query: features of all clips in the query role.
        support: features of all clips in the support role (the same object for a role-free method).
        seconds: seconds of encoding, without decoding; cached chunks count their original time.
        room: what is left for what is made of these features.
        is_mapped: some of them are in a mapped file, on the CPU, and are brought to the device of the method when they are
            gathered.
    """

    row: np.ndarray
    query: VideoFeatures
    support: VideoFeatures
    seconds: float
    room: Room = field(default_factory=Room)
    is_mapped: bool = False

    def episodes(
        self, plan: EpisodePlan, rows: slice, gathering: Gathering | None = None
    ) -> tuple[VideoFeatures, VideoFeatures]:
        """Supports `[E, N, K, ...]` and queries `[E, Q, ...]` of some episodes.

        Args:
            plan: the episodes.
            rows: which of them.
            gathering: gathers the features; None gathers into new memory. `RepeatedGathering` is for callers that are done
                with the features of all episodes before.
        """
        gathering = gathering or Gathering()
        support, query = self.row[plan.support[rows]], self.row[plan.query[rows].reshape(len(plan.query[rows]), -1)]
        if not self.is_mapped:
            return (
                self._gathered_when_read(self.support, support, gathering, "support"),
                self._gathered_when_read(self.query, query, gathering, "query"),
            )
        if self.query is not self.support:
            (of_support,) = self._gathered_once(self.support, gathering, support=support)
            (of_query,) = self._gathered_once(self.query, gathering, query=query)
            return of_support, of_query
        both = self._gathered_once(self.support, gathering, support=support, query=query)
        return both[0], both[1]

    def indexed(self, index: Callable[[VideoFeatures], VideoFeatures]) -> FeatureBank:
        """The bank with what a method computes of each video alone, in fixed chunks."""
        room = replace(self.room, is_half=False)  # norms and products of features are larger than these
        support, adds_mapped = self._indexed(index, self.support, room)
        query = support
        if self.query is not self.support:
            query, maps_more = self._indexed(index, self.query, room)
            adds_mapped = adds_mapped or maps_more
        room.is_half = self.room.is_half
        return replace(self, query=query, support=support, room=room, is_mapped=self.is_mapped or adds_mapped)

    def restricted(self, clips: np.ndarray) -> FeatureBank:
        """A bank of some clips, in memory."""
        rows, row = self.row[clips], np.full_like(self.row, -1)
        row[clips] = np.arange(len(clips))
        support = self._whole(self._gathered(self.support, rows, Gathering()))
        query = support if self.query is self.support else self._whole(self._gathered(self.query, rows, Gathering()))
        return FeatureBank(row, query, support, self.seconds)

    def episode_bytes(self, plan: EpisodePlan) -> int:
        """Bytes of the features of one episode, as `episodes` gathers them."""
        size = plan.support[0].size * clip_bytes(self.support) + plan.query[0].size * clip_bytes(self.query)
        return size * 2 if self.room.is_half else size

    def _gathered(
        self, features: VideoFeatures, rows: np.ndarray, gathering: Gathering, use: str = ""
    ) -> VideoFeatures:
        """Rows of features as they are kept, on the device of the method."""
        index = torch.from_numpy(rows)
        tensors = {
            name: gathering.rows(tensor, index.to(tensor.device), f"{use} {name}") for name, tensor in features.items()
        }
        gathered = VideoFeatures(**tensors)
        return gathered if self.room.device is None or not self.is_mapped else gathered.to(self.room.device)

    def _gathered_when_read(
        self, features: VideoFeatures, rows: np.ndarray, gathering: Gathering, role: str
    ) -> VideoFeatures:
        """Rows of features, each tensor when it is first read: a role may need a small part of what its videos have."""
        index = torch.from_numpy(rows).to(next(tensor for _, tensor in features.items()).device)

        def gather(name: str, tensor: Tensor) -> Tensor:
            return gathering.rows(tensor, index, f"{role} {name}", as_float=self.room.is_half)

        return VideoFeatures.of(_Rows(features, gather))

    def _gathered_once(
        self, features: VideoFeatures, gathering: Gathering, **rows_of: np.ndarray
    ) -> list[VideoFeatures]:
        """Arrays of rows of features by their role; each distinct row is read from the file once, in the order of the file."""
        distinct, places = np.unique(np.concatenate([rows.ravel() for rows in rows_of.values()]), return_inverse=True)
        near = self._gathered(features, distinct, gathering, f"distinct {' '.join(rows_of)}")
        ends = np.cumsum([rows.size for rows in rows_of.values()])[:-1]
        parts = zip(rows_of.items(), np.split(places, ends), strict=True)
        return [
            self._gathered_when_read(near, part.reshape(rows.shape), gathering, role) for (role, rows), part in parts
        ]

    def _near(self, features: VideoFeatures) -> VideoFeatures:
        return self._whole(features if self.room.device is None else features.to(self.room.device))

    def _whole(self, features: VideoFeatures) -> VideoFeatures:
        """Features in float32, also where they are kept in float16."""
        if not self.room.is_half:
            return features
        return VideoFeatures(**{name: self._float(tensor) for name, tensor in features.items()})

    @staticmethod
    def _float(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == torch.half else tensor

    def _indexed(
        self, index: Callable[[VideoFeatures], VideoFeatures], features: VideoFeatures, room: Room
    ) -> tuple[VideoFeatures, bool]:
        """Features with their index, and whether that is in a mapped file; what the index leaves as it is stays where it is."""
        shelf = Shelf(len(features), room)
        names: dict[str, bool] = {}  # whether each is new
        for start in range(0, len(features), CHUNK):
            videos = self._near(features[start : start + CHUNK])
            result = dict(index(videos).items())
            new = {name: name not in videos or tensor is not getattr(videos, name) for name, tensor in result.items()}
            names = names or new
            if new != names:
                raise ProtocolError(
                    "index() changed features of some videos and returned those of others as they are. Return new tensors "
                    "for all of them."
                )
            if any(new.values()):
                shelf.put(VideoFeatures(**{name: result[name] for name in new if new[name]}), len(videos))
        made = shelf.features()
        tensors = {name: getattr(made if is_new else features, name) for name, is_new in names.items()}
        return VideoFeatures(**tensors), shelf.is_mapped


def clip_bytes(features: VideoFeatures) -> int:
    """Bytes per clip of features."""
    return sum(tensor.nbytes for _, tensor in features.items()) // len(features)


def frames_to_tensor(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 `[V, T, H, W, 3]` to uint8 `[V, T, 3, H, W]` on a device."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))).to(device)


@torch.no_grad()
def build_bank(
    method: FewShotMethod,
    split: Split,
    clips: np.ndarray,
    class_text: Tensor,
    source: FrameSource,
    *,
    frames_as: FramesAs = "as_is",
    queries_alone: bool = False,
    store: BankStore | None = None,
    room: Room | None = None,
    progress: Progress | None = None,
    exchange: Exchange | None = None,
) -> FeatureBank:
    """Encode clips in fixed chunks.

    Args:
        method: in the mode it is in; it is set to eval mode.
        split: the clips' split.
        clips: numbers of the clips to encode, sorted.
        class_text: text features of all classes of the split, `[classes, C]`.
        source: gives frames.
        frames_as: what the method sees of the frames.
        queries_alone: the support role is not needed.
        store: keeps encoded chunks; None keeps nothing.
        room: memory for the features, which becomes that of the bank; None for all there is.
        progress: called with (videos encoded, videos in all).
        exchange: ranks that encode a part of the chunks each, this one being the first; see `encode_for_first`.

    Raises:
        ProtocolError: the method returns features of other shapes for some clips.
        OSError: features that do not fit cannot be written.
    """
    method.eval()
    roles = _roles(method, frames_as, queries_alone=queries_alone)
    room = Room() if room is None else room
    shelves = {role: Shelf(len(clips), room) for role in roles}
    seconds, encoded = 0.0, 0
    contents_of([split.clips[number] for number in clips], counter(HASHING))
    if progress:
        progress(0, len(clips) * len(roles))
    chunks = _chunks(method, split, clips, class_text, source, frames_as, exchange)
    parts = ((role, len(chunk.clips), _encode_role(chunk, role, store)) for chunk in chunks for role in roles)
    for role, size, part in _of_all(exchange, parts, len(clips), roles, class_text.device):
        shelves[role].put(part.features, size)
        seconds, encoded = seconds + part.seconds, encoded + size
        if progress:
            progress(encoded, len(clips) * len(roles), CACHED if part.is_cached else "")
        del part  # before the next one is encoded
    row = np.full(len(split.clips), -1, np.int64)
    row[clips] = np.arange(len(clips))
    banks = {role: shelf.features() for role, shelf in shelves.items()}
    is_mapped = any(shelf.is_mapped for shelf in shelves.values())
    return FeatureBank(row, banks["query"], banks[roles[-1]], seconds, room, is_mapped)


@torch.no_grad()
def encode_for_first(
    method: FewShotMethod,
    split: Split,
    clips: np.ndarray,
    class_text: Tensor,
    source: FrameSource,
    *,
    exchange: Exchange,
    store: BankStore | None = None,
) -> None:
    """Encode this rank's part of the chunks of a bank that the first rank builds; arguments as for `build_bank`."""
    method.eval()
    roles = _roles(method, "as_is")
    contents_of([split.clips[number] for number in clips])
    chunks = _chunks(method, split, clips, class_text, source, "as_is", exchange)
    parts = ((role, len(chunk.clips), _encode_role(chunk, role, store)) for chunk in chunks for role in roles)
    for _ in _of_all(exchange, parts, len(clips), roles, class_text.device):
        pass


@torch.no_grad()
def encode_into_store(
    method: FewShotMethod,
    split: Split,
    clips: np.ndarray,
    class_text: Tensor,
    source: FrameSource,
    *,
    frames_as: FramesAs,
    store: BankStore,
    exchange: Exchange,
    progress: Progress,
) -> None:
    """Encode this rank's part of the chunks of a bank, for a process that will build it; arguments as for `build_bank`.

    Features that are too large to be stored are left to that process.
    """
    method.eval()
    roles, encoded = _roles(method, frames_as), 0
    contents_of([split.clips[number] for number in clips])
    for chunk in _chunks(method, split, clips, class_text, source, frames_as, exchange):
        for role in roles:
            part = _encode_role(chunk, role, store)
            if clip_bytes(part.features) > LARGEST:
                return
            encoded += len(chunk.clips) * exchange.size  # the other ranks are about as far
            progress(min(encoded, len(clips) * len(roles)), len(clips) * len(roles), CACHED if part.is_cached else "")


def _roles(method: FewShotMethod, frames_as: FramesAs, *, queries_alone: bool = False) -> tuple[str, ...]:
    is_one = queries_alone or (method.role_free and frames_as != "reversed")
    return ("query",) if is_one else ("query", "support")


_Part = tuple[str, int, "_Timed"]  # a role, and a chunk of so many clips in it


def _of_all(
    exchange: Exchange | None, parts: Iterator[_Part], clips: int, roles: tuple[str, ...], device: torch.device
) -> Iterator[_Part]:
    """The parts of all ranks in the order of the chunks, or nothing in ranks other than the first."""
    if exchange is None:
        yield from parts
        return
    rounds = math.ceil(math.ceil(clips / CHUNK) / exchange.size) * len(roles)
    for role, size, tensors, seconds, is_cached in exchange.in_turn(map(_sent, parts), rounds):
        yield role, size, _Timed(VideoFeatures(**tensors).to(device), seconds, is_cached)


def _sent(part: _Part) -> tuple[str, int, dict[str, Tensor], float, bool]:
    """A part as it is sent to another rank."""
    role, size, of_chunk = part
    tensors = {name: tensor.cpu() for name, tensor in of_chunk.features.items()}
    return role, size, tensors, of_chunk.seconds, of_chunk.is_cached


@dataclass(frozen=True)
class _Timed:
    """Features and the seconds that they took, perhaps in an earlier run."""

    features: VideoFeatures
    seconds: float
    is_cached: bool = False


@dataclass
class _Chunk:
    """Clips that are encoded together; frames are read, and embedded without text, at most once.

    Attributes:
        clips: numbers of the clips.
        ids: of the clips.
        contents: hashes of their files.
        text: class text of each clip, `[V, C]`.
        read: gives their frames, uint8 `[V, T, H, W, 3]`.
        frames_as: what the method sees of the frames.
        time: T.
    """

    method: FewShotMethod
    clips: np.ndarray
    ids: list[str]
    contents: list[str]
    text: Tensor
    read: Callable[[], np.ndarray]
    frames_as: FramesAs
    time: int
    _pixels: Tensor | None = field(default=None, init=False)
    _embedding: dict[bool, VideoFeatures] = field(default_factory=dict, init=False)

    def pixels(self) -> Tensor:
        """Frames uint8 `[V, T, 3, H, W]` on the device."""
        if self._pixels is None:
            self._pixels = frames_to_tensor(self.read(), self.text.device)
        return self._pixels

    def order(self, role: str) -> Tensor | None:
        """The order of frames that a role sees, `[V, T]`; None where it is their own."""
        return order_of_frames(self.frames_as, role, self.ids, self.time)

    def embed(self, text: Tensor | None, order: Tensor | None) -> VideoFeatures:
        """The method's embedding of frames in an order, in the support role with text, in the query role without."""
        if not self.method.role_blind_embedding:
            return self.method.embed(reorder(self.pixels(), order), text)
        key = order is None  # all reordered roles of a control see the same order
        if key not in self._embedding:
            self._embedding[key] = self.method.embed(reorder(self.pixels(), order), None)
        return self._embedding[key]

    def encode(self, embedded: VideoFeatures, text: Tensor | None) -> VideoFeatures:
        """The method's own layers."""
        return self.method.encode(differences(embedded) if self.frames_as == "differences" else embedded, text)

    def timed(self, compute: Callable[[], VideoFeatures]) -> _Timed:
        """Features with the time of their computation; frames are read before the clock starts."""
        began = perf_counter()
        features = compute()
        if self.text.device.type == "cuda":
            torch.cuda.synchronize(self.text.device)
        return _Timed(features, perf_counter() - began)

    def key(self, store: BankStore, kind: str, text: Tensor | None) -> str:
        """Hash of what the stored features of this chunk depend on."""
        sha = hashlib.sha256(f"{store.key}|{kind}".encode())
        for content in self.contents:
            sha.update(content.encode())
        if text is not None:
            sha.update(text.cpu().numpy().tobytes())
        return sha.hexdigest()


def _encode_role(chunk: _Chunk, role: str, store: BankStore | None) -> _Timed:
    """Features of a chunk in one role.

    The plain embedding of a frozen encoder is cached for all methods, and encoded by each; otherwise the encoded features
    are cached for this method. What a frame-wise encoder gives of reordered frames are its features in that order.
    """
    text, order = chunk.text if role == "support" else None, chunk.order(role)
    kind = role if chunk.frames_as == "as_is" else f"{role}|{chunk.frames_as}"
    if order is not None:  # it follows the ids of the clips, of which the key of stored features knows nothing
        kind += f"|{order.tolist()}"
    if not chunk.method.shares_embedding:
        return _cached(chunk, kind, text, lambda: chunk.encode(chunk.embed(text, order), text), store)
    frame_wise = not chunk.method.backbone.sees_order
    before, after = (None, order) if frame_wise else (order, None)
    shared = "embedding" if before is None else f"embedding|{kind}"
    embedded = _cached(chunk, shared, None, lambda: chunk.embed(None, before), store)
    encoded = chunk.timed(lambda: chunk.encode(reorder_features(embedded.features, after), text))
    return _Timed(encoded.features, embedded.seconds + encoded.seconds, embedded.is_cached)


def _cached(
    chunk: _Chunk, kind: str, text: Tensor | None, compute: Callable[[], VideoFeatures], store: BankStore | None
) -> _Timed:
    """Stored features with the seconds that they took, or computed ones, which are stored if they are not too large."""
    if store is None:
        chunk.pixels()
        return chunk.timed(compute)
    key = chunk.key(store, kind, text)
    path = store.folder / f"{key}.safetensors"
    read = partial(_load, key=key, rows=len(chunk.clips), device=chunk.text.device)
    find = partial(recall, path, read, "features", again="They are encoded again")
    if (loaded := find()) is not None:
        return loaded
    with making(path):
        if (loaded := find()) is not None:  # another cell encoded them meanwhile
            return loaded
        chunk.pixels()
        part = chunk.timed(compute)
        _save(path, part, key)
    return part


def _chunks(
    method: FewShotMethod,
    split: Split,
    clips: np.ndarray,
    class_text: Tensor,
    source: FrameSource,
    frames_as: FramesAs,
    exchange: Exchange | None = None,
) -> Iterator[_Chunk]:
    """Chunks of clips, or the share of this rank; frames are read ahead by one chunk once any are asked for."""
    class_of = np.array(split.class_of)
    starts = range(0, len(clips), CHUNK)
    if exchange:
        starts = starts[exchange.rank :: exchange.size]
    requests = {start: [Request(split.clips[i]) for i in clips[start : start + CHUNK]] for start in starts}
    pending: dict[int, list[np.ndarray | Future]] = {}

    def read(start: int) -> np.ndarray:
        for ahead in (start, start + starts.step):
            if ahead in requests and ahead not in pending:
                pending[ahead] = source.prefetch(requests[ahead])
        return source.collect(requests[start], pending.pop(start))

    for start in starts:
        numbers = clips[start : start + CHUNK]
        yield _Chunk(
            method,
            numbers,
            [split.clips[number].id for number in numbers],
            [split.clips[number].content for number in numbers],
            class_text[torch.from_numpy(class_of[numbers]).to(class_text.device)],
            lambda start=start: read(start),  # type: ignore[misc]  # the loop's value, not its variable
            frames_as,
            source.plan.frames,
        )


def _load(path: Path, key: str, rows: int, device: torch.device) -> _Timed:
    """Features of `rows` clips, as `_save` wrote them; raises an `OSError` or a `DamagedError`."""
    data = read_whole(path)
    seconds = float(check_tensors(data, key)["seconds"])
    try:
        features = VideoFeatures(**{name: tensor.to(device) for name, tensor in load(data).items()})
    except SafetensorError as error:
        raise DamagedError("it holds no tensors") from error
    tensors = [tensor for _, tensor in features.items()]
    if {len(tensor) for tensor in tensors} != {rows} or not all(t.is_floating_point() for t in tensors):
        raise DamagedError("it holds no features of these clips")
    if not 0 <= seconds < math.inf:
        raise DamagedError("it holds no seconds")
    return _Timed(features, seconds, is_cached=True)


def _save(path: Path, part: _Timed, key: str) -> None:
    if clip_bytes(part.features) > LARGEST:
        return
    data = save({name: tensor.contiguous() for name, tensor in part.features.items()})
    sealed = seal_tensors(data, key, {"seconds": repr(part.seconds)})
    write_cached(path, lambda file: file.writelines(sealed))
