"""EpisodePlan: the episodes of a protocol as plain integer arrays, drawn once, hashed, stored, shared by all methods.

How an episode is drawn (any code base can redraw it; all arithmetic is modulo 2**64, `mix` is `randomness.splitmix64`):

1. Classes of the split are sorted by name; the clips of a class are sorted by id. Both are numbered from 0. The list is the
   full published one, whatever lies on this disk.
2. `key = mix(mix(seed) xor crc32(purpose))`, then `episode_key = mix(key xor episode)`.
3. The classes of the episode are the `way` classes with the smallest `mix(mix(episode_key xor 1) xor class)`, in that order:
   label 0 is the smallest.
4. Every class of the episode orders its clips by `mix(mix(mix(episode_key xor 2) xor class) xor clip)`. Queries are the
   first `query` clips of that order, supports the last `shot` clips, last first.

With `group_disjoint`, a support may not come from the source recording of a query of its class: such clips are left out
before the last `shot` of step 4 are taken; queries stay as they are.

So classes and queries do not depend on the shot, and 1-shot supports are the first of the 5-shot ones. A clip that is
missing on this disk is left out of the order of step 4, which puts the next clip in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fsar_bench.errors import ProtocolError, ResultError
from fsar_bench.randomness import splitmix64, stream_key

ALGORITHM = "splitmix64-v1"
_CHUNK = 2_000_000  # keys that are drawn at a time
_LARGEST = 2**30  # bytes of an unpacked plan


@dataclass(frozen=True)
class ClipList:
    """Published list of a split: sorted class names and, of each class, sorted clip ids."""

    classes: tuple[str, ...]
    clips: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, rows: list[tuple[str, str]]) -> ClipList:
        """List of (class name, clip id) pairs in any order."""
        names = sorted({name for name, _ in rows})
        by_class: dict[str, list[str]] = {name: [] for name in names}
        for name, clip in rows:
            by_class[name].append(clip)
        return cls(tuple(names), tuple(tuple(sorted(by_class[name])) for name in names))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical list: one line `class<TAB>clip` each, in order."""
        sha = hashlib.sha256()
        for name, clips in zip(self.classes, self.clips, strict=True):
            for clip in clips:
                sha.update(f"{name}\t{clip}\n".encode())
        return sha.hexdigest()

    @property
    def starts(self) -> np.ndarray:
        """Number of the first clip of each class when all clips are counted through, int64 `[classes]`."""
        return np.concatenate([[0], np.cumsum([len(clips) for clips in self.clips])[:-1]]).astype(np.int64)

    @property
    def flat(self) -> list[str]:
        """Clip ids counted through, class after class."""
        return [clip for clips in self.clips for clip in clips]


@dataclass(frozen=True)
class EpisodePlan:
    """Episodes as arrays of numbers into a `ClipList`.

    Attributes:
        header: what the plan was drawn from (plain values).
        classes: int32 `[E, N]`, class of each label.
        support: int32 `[E, N, K]`, clips counted through.
        query: int32 `[E, N, query]`, clips counted through; query number q of an episode has label q // query.
        replaced: how many places hold another clip than on a complete disk.
        digest: SHA-256 of the header and of the arrays as drawn from the full list.
        realised: SHA-256 of the header and of the arrays as they are here.
        names: name of each class of the list, for people; empty where it was not kept.
    """

    header: dict
    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray
    replaced: int
    digest: str
    realised: str
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    def name(self, number: int) -> str:
        """Name of a class."""
        return self.names[number] if number < len(self.names) else f"class {number}"

    @property
    def labels(self) -> np.ndarray:
        """True label of each query of an episode, int64 `[N * query]`."""
        return np.repeat(np.arange(self.classes.shape[1]), self.query.shape[2])

    @property
    def used_clips(self) -> np.ndarray:
        """Clips that appear at least once, sorted."""
        return np.unique(np.concatenate([self.support.ravel(), self.query.ravel()]))

    @classmethod
    def sample(
        cls,
        clips: ClipList,
        *,
        way: int,
        shot: int,
        query: int,
        episodes: int,
        seed: int,
        purpose: str,
        missing: frozenset[str] = frozenset(),
        first: int = 0,
        recording: np.ndarray | None = None,
    ) -> EpisodePlan:
        """Draw episodes number `first` to `first + episodes - 1`; see the module's docstring for the algorithm.

        Args:
            clips: the full published list of the split.
            purpose: what the episodes are for, such as "test"; another purpose gives other episodes.
            missing: clip ids that are not on this disk.
            recording: number of the source recording of each clip, counted through; given, supports share none with the queries
                of their class.

        Raises:
            ProtocolError: fewer classes than ways, or a class with fewer than shot + query clips (or recordings).
        """
        _check(clips, way, shot + query, purpose, missing)
        draw = partial(_draw, clips, way, episodes, seed, purpose, first, shot=shot, query=query, recording=recording)
        classes, order = draw(missing=frozenset())
        header = {
            "algorithm": ALGORITHM,
            "list": clips.digest,
            "way": way,
            "shot": shot,
            "query": query,
            "episodes": episodes,
            "seed": seed,
            "purpose": purpose,
            **({"first": first} if first else {}),
            **(
                {}
                if recording is None
                else {"recordings": hashlib.sha256(recording.astype("<i8").tobytes()).hexdigest()}
            ),
        }
        digest = realised = _digest(header, classes, *order)
        replaced = 0
        if missing:
            _, here = draw(missing=missing)
            replaced = sum(int((a != b).sum()) for a, b in zip(order, here, strict=True))
            order, realised = here, _digest(header, classes, *here)
        return cls(header, classes, order[0], order[1], replaced, digest, realised, clips.classes)

    def save(self, path: Path) -> None:
        """Write the plan as a compressed npz whose bytes depend on the plan alone."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                header=np.frombuffer(json.dumps(self.header, sort_keys=True).encode(), np.uint8),
                digest=np.frombuffer(self.digest.encode(), np.uint8),
                realised=np.frombuffer(self.realised.encode(), np.uint8),
                replaced=np.int64(self.replaced),
                names=np.frombuffer(json.dumps(self.names).encode(), np.uint8),
                classes=self.classes,
                support=self.support,
                query=self.query,
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> EpisodePlan:
        """Read a plan and check its hash.

        Raises:
            ResultError: the file is missing, damaged, or not what its hash says.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                    raise ValueError("it unpacks to more than any plan")
            with np.load(path, allow_pickle=False) as store:
                header = json.loads(store["header"].tobytes())
                digest, realised = (store[name].tobytes().decode() for name in ("digest", "realised"))
                arrays = [store[name] for name in ("classes", "support", "query")]
                replaced = int(store["replaced"])
                names = tuple(map(str, json.loads(store["names"].tobytes()))) if "names" in store.files else ()
        except Exception as error:
            raise ResultError(f"The episode plan {path} cannot be read ({error}); delete it and run again.") from error
        shapes = [array.shape for array in arrays]
        sound = [len(shape) for shape in shapes] == [2, 3, 3] and len({shape[:2] for shape in shapes}) == 1
        if (
            not sound
            or any(a.dtype != np.int32 or not a.size or a.min() < 0 for a in arrays)
            or not isinstance(header, dict)
        ):
            raise ResultError(f"The episode plan {path} is damaged (its arrays are no plan); delete it and run again.")
        if _digest(header, *arrays) != realised:
            raise ResultError(f"The episode plan {path} does not have the hash it claims; delete it and run again.")
        return cls(header, arrays[0], arrays[1], arrays[2], replaced, digest, realised, names)


def _check(clips: ClipList, way: int, needed: int, purpose: str, missing: frozenset[str]) -> None:
    if len(clips.classes) < way:
        raise ProtocolError(
            f"The {purpose} split has {len(clips.classes)} classes, fewer than way={way}. Lower way= or choose another dataset."
        )
    for name, ids in zip(clips.classes, clips.clips, strict=True):
        here = sum(clip not in missing for clip in ids)
        if here < needed:
            gone = f" ({len(ids) - here} of {len(ids)} are missing on this disk)" if here < len(ids) else ""
            raise ProtocolError(
                f"Class {name!r} of the {purpose} split has {here} clips{gone}, fewer than shot + query = {needed}. "
                "Lower shot= or query=, or complete the data."
            )


def _draw(
    clips: ClipList,
    way: int,
    episodes: int,
    seed: int,
    purpose: str,
    first: int,
    *,
    missing: frozenset[str],
    shot: int,
    query: int,
    recording: np.ndarray | None,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Classes `[E, way]` and (supports `[E, way, shot]`, queries `[E, way, query]`) as int32."""
    counts = np.array([len(ids) for ids in clips.clips])
    longest = int(counts.max())
    usable = np.zeros((len(counts), longest), bool)
    for row, ids in enumerate(clips.clips):
        usable[row, : len(ids)] = [clip not in missing for clip in ids]
    here = usable.sum(1)
    starts, key = clips.starts, stream_key(seed, purpose)
    classes = np.empty((episodes, way), np.int32)
    support, queries = np.empty((episodes, way, shot), np.int32), np.empty((episodes, way, query), np.int32)
    step = max(1, _CHUNK // (way * longest + len(counts)))
    for start in range(0, episodes, step):
        numbers = np.arange(first + start, first + min(start + step, episodes), dtype=np.uint64)
        rows = slice(start, start + len(numbers))
        episode_key = splitmix64(key ^ numbers)
        class_key = splitmix64(episode_key ^ np.uint64(1))[:, None] ^ np.arange(len(counts), dtype=np.uint64)
        chosen = np.argsort(splitmix64(class_key), axis=1, kind="stable")[:, :way]
        clip_key = splitmix64(splitmix64(episode_key ^ np.uint64(2))[:, None] ^ chosen.astype(np.uint64))
        clip_key = splitmix64(clip_key[..., None] ^ np.arange(longest, dtype=np.uint64))
        # Unusable places go last, whatever their key: sort by (unusable, key).
        by_key = np.argsort(clip_key, axis=2, kind="stable")
        unusable = np.take_along_axis(~usable[chosen], by_key, axis=2)
        order = np.take_along_axis(by_key, np.argsort(unusable, axis=2, kind="stable"), axis=2)
        queries[rows] = order[..., :query] + starts[chosen][..., None]
        usable_here = here[chosen]
        if recording is not None:
            order, usable_here = _without_recordings(order, usable_here, recording, starts[chosen], query)
            if (usable_here < shot).any():
                name = clips.classes[chosen[usable_here < shot][0]]
                raise ProtocolError(
                    f"Class {name!r} of the {purpose} split has too few clips of other recordings for shot={shot}. Lower shot= "
                    "or query=, or allow shared recordings with group_disjoint=false."
                )
        last = usable_here[..., None] - 1 - np.arange(shot)
        classes[rows] = chosen
        support[rows] = np.take_along_axis(order, last, axis=2) + starts[chosen][..., None]
    return classes, (support, queries)


def _without_recordings(
    order: np.ndarray, count: np.ndarray, recording: np.ndarray, starts: np.ndarray, query: int
) -> tuple[np.ndarray, np.ndarray]:
    """An order `[E, way, clips]` with those last that share a recording with its first `query`, and how many do not."""
    within = np.arange(order.shape[2]) < count[..., None]
    own = recording[np.minimum(order + starts[..., None], len(recording) - 1)]
    shared = (own[..., None] == own[..., None, :query]).any(-1) | ~within
    return np.take_along_axis(order, np.argsort(shared, axis=2, kind="stable"), axis=2), (~shared).sum(2)


def _digest(header: dict, *arrays: np.ndarray) -> str:
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        sha.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    return sha.hexdigest()
