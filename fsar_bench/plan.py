"""EpisodePlan: the episodes of a protocol as plain integer arrays, drawn once, hashed, stored, shared by all methods.

How an episode is drawn (any code base can redraw it; all arithmetic is modulo 2**64, `mix` is `randomness.splitmix64`):

1. Classes of the split are sorted by name; the clips of a class are sorted by id. Both are numbered from 0. The list is the
   full published one, regardless of which clips are on this disk.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fsar_bench.errors import ProtocolError, ResultError
from fsar_bench.io import replacing
from fsar_bench.randomness import splitmix64, stream_key
from fsar_bench.storage.archives import ArrayFile, Kind, open_arrays
from fsar_bench.storage.limits import LARGEST_PLAN, MOST_CLASSES, plan_fault
from fsar_bench.texts.characters import LONGEST, name_fault, shortened

ALGORITHM = "splitmix64-v1"
_CHUNK = 2_000_000  # keys that are drawn at a time
_CHECKED = 2_000_000  # clips that are compared at a time
_KINDS = {  # what a stored plan holds
    "header": Kind("|u1", 1, 2**16),
    "digest": Kind("|u1", 1, 64),
    "realised": Kind("|u1", 1, 64),
    "replaced": Kind("<i8", 0, 1),
    "names": Kind("|u1", 1, MOST_CLASSES * 12 * (LONGEST + 1)),  # JSON of as many classes as a record may have, escaped
    "classes": Kind("<i4", 2, LARGEST_PLAN),
    "support": Kind("<i4", 3, LARGEST_PLAN),
    "query": Kind("<i4", 3, LARGEST_PLAN),
    "recordings": Kind("<i4", 1, LARGEST_PLAN, is_needed=False),
}


def digest_of_names(names: Sequence[str]) -> str:
    """SHA-256 of the names of all classes of a split: one line each, in order."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def digest_of_recordings(numbers: np.ndarray) -> str:
    """SHA-256 of the numbers of the source recordings of all clips of a split, `[clips]`, as `<i8`."""
    sha = hashlib.sha256()
    for start in range(0, len(numbers), _CHECKED):
        sha.update(numbers[start : start + _CHECKED].astype("<i8").tobytes())
    return sha.hexdigest()


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
    def names_digest(self) -> str:
        """SHA-256 of the class names."""
        return digest_of_names(self.classes)

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
        names: name of each class of the list, for people; the hashes above do not cover them, `digest_of_names` does.
        recordings: int32 `[clips of the list]`, number of the source recording of each clip, counted through; None where it
            is not known. The hashes above do not cover it, `recordings_digest` does.
    """

    header: dict
    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray
    replaced: int
    digest: str
    realised: str
    names: tuple[str, ...] = ()
    recordings: np.ndarray | None = None

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
    def nbytes(self) -> int:
        """Memory of its arrays."""
        of_recordings = 0 if self.recordings is None else self.recordings.nbytes
        return self.classes.nbytes + self.support.nbytes + self.query.nbytes + of_recordings

    @property
    def recordings_digest(self) -> str | None:
        """SHA-256 of the recordings; None where they are not known."""
        return None if self.recordings is None else digest_of_recordings(self.recordings)

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
            way: classes per episode.
            shot: supports per class.
            query: queries per class.
            episodes: number of episodes.
            seed: of the plan.
            purpose: what the episodes are for, such as "test"; another purpose gives other episodes.
            missing: clip ids that are not on this disk.
            first: number of the first episode.
            recording: number of the source recording of each clip, counted through; if it is given, supports share none with
                the queries of their class, and the plan holds it as its `recordings`.

        Raises:
            ProtocolError: fewer classes than ways, or a class with fewer than shot + query clips (or recordings), or more
                episodes than a plan may have.
        """
        rules = _Rules(way, shot, query, episodes, seed, purpose, first)
        if fault := plan_fault(way=way, shot=shot, query=query, episodes=episodes):
            raise ProtocolError(f"The episodes of the {purpose} split are too many: {fault}")
        check_plan(clips, way=way, shot=shot, query=query, purpose=purpose, missing=missing)
        header = rules.header(clips, recording)
        classes, *order = _draw(clips, rules, frozenset(), recording)
        digest = realised = _digest(header, classes, *order)
        replaced = 0
        if missing:
            _, *usable = _draw(clips, rules, missing, recording)
            replaced = sum(int((a != b).sum()) for a, b in zip(order, usable, strict=True))
            order, realised = usable, _digest(header, classes, *usable)
        plan = cls(header, classes, order[0], order[1], replaced, digest, realised, clips.classes)
        return plan if recording is None else plan.with_recordings(recording)

    def with_recordings(self, numbers: np.ndarray | None) -> EpisodePlan:
        """The same episodes with the source recordings of the clips, which change none of their hashes.

        Args:
            numbers: whole numbers `[clips of the list]`, each from 0 to clips - 1, or None where they are not known.

        Raises:
            ProtocolError: the numbers are not such, too few for the clips of the episodes, or more than a plan file holds.
        """
        if numbers is None:
            return replace(self, recordings=None)
        if len(numbers) > LARGEST_PLAN:
            raise ProtocolError(
                f"The list has {len(numbers):,} clips; at most {LARGEST_PLAN:,} can have recordings. Leave some clips out."
            )
        if not _are_recordings(numbers, self.support, self.query):
            raise ProtocolError(
                "Recordings must be numbers from 0 to clips - 1, one for each clip of the list, and not "
                f"{shortened(str(numbers))}."
            )
        return replace(self, recordings=numbers.astype(np.int32))

    def save(self, path: Path) -> None:
        """Write the plan to a file, as `write` does; raises `ResultError` where that cannot be written."""
        with replacing(path, hint="") as file:
            self.write(file)

    def write(self, file: BinaryIO) -> None:
        """Write the plan as a compressed npz whose bytes depend on the plan alone; what is not known of clips is left out."""
        known: dict[str, Any] = {} if self.recordings is None else {"recordings": self.recordings}
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
            **known,
        )

    @classmethod
    def load(cls, path: Path) -> EpisodePlan:
        """Read a plan and check its hash; nothing is unpacked before its claims are checked.

        Raises:
            ResultError: the file is missing, damaged, larger than any plan, or not what its hash says.
        """
        try:
            with open_arrays(path, _KINDS) as file:
                sizes = _sizes(file, path)
                values = {name: file.read(name, _KINDS[name].dtype) for name in file.shapes}
            header = json.loads(values["header"].tobytes())
            digest, realised = (values[name].tobytes().decode("ascii") for name in ("digest", "realised"))
            names = _checked_names(json.loads(values["names"].tobytes()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise _unreadable(path, error) from error
        arrays = classes, support, query = values["classes"], values["support"], values["query"]
        if not sizes.episodes or any(array.min() < 0 for array in arrays) or not isinstance(header, dict):
            raise _no_plan(path)
        if _digest(header, *arrays) != realised:
            raise ResultError(f"The episode plan {path} does not have the hash it claims; delete it and run again.")
        numbers = values.get("recordings")
        if numbers is not None and not _are_recordings(numbers, support, query, drawn_by=header.get("recordings")):
            raise ResultError(f"The recordings in {path} are not those of its clips; delete it and run again.")
        return cls(header, classes, support, query, int(values["replaced"]), digest, realised, names, numbers)

    def has_a_clip_twice(self) -> bool:
        """Whether a clip is twice in an episode."""
        for rows in self._parts():
            clips = np.concatenate([self.support[rows], self.query[rows]], 2).reshape(rows.stop - rows.start, -1)
            clips.sort(axis=1)
            if (clips[:, 1:] == clips[:, :-1]).any():
                return True
        return False

    def _parts(self) -> Iterator[slice]:
        """Slices of episodes that are compared at a time, so that large plans need little more memory than their own."""
        _, way, shot = self.support.shape
        step = max(1, _CHECKED // (way * (shot + self.query.shape[2])))
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))


@dataclass(frozen=True)
class PlanSizes:
    """Sizes of a plan.

    Attributes:
        episodes: E.
        way: N.
        shot: K.
        query: queries per class.
        recorded: number of clips whose recordings it holds; None where it holds none.
    """

    episodes: int
    way: int
    shot: int
    query: int
    recorded: int | None = None


def plan_sizes(path: Path) -> PlanSizes:
    """What a plan file claims to hold, read without unpacking it.

    Raises:
        ResultError: the file is missing, damaged, or larger than any plan.
    """
    try:
        with open_arrays(path, _KINDS) as file:
            return _sizes(file, path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def stored_names(path: Path) -> tuple[str, ...]:
    """Class names of a plan file, read without its episodes.

    Raises:
        ResultError: the file is missing or damaged.
    """
    try:
        with open_arrays(path, _KINDS) as file:
            return _checked_names(json.loads(file.read("names", _KINDS["names"].dtype).tobytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def stored_recordings(path: Path) -> np.ndarray | None:
    """Recordings of a plan file, int32 `[clips]`, read without its episodes; None where it has none.

    Raises:
        ResultError: the file is missing or damaged.
    """
    try:
        with open_arrays(path, _KINDS) as file:
            return file.read("recordings", _KINDS["recordings"].dtype) if "recordings" in file.shapes else None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def changed_places(plan: EpisodePlan, path: Path) -> int | None:
    """How many supports and queries differ between a plan and the one in a file; None if its classes or sizes do.

    The arrays of the file are read one after the other: two large plans are never in memory at a time.

    Raises:
        ResultError: the file is missing or damaged.
    """
    try:
        with open_arrays(path, _KINDS) as file:
            ours = {"classes": plan.classes, "support": plan.support, "query": plan.query}
            if any(file.shapes[name] != array.shape for name, array in ours.items()):
                return None
            changed = {name: _differing(array, file.read(name, "<i4")) for name, array in ours.items()}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return None if changed["classes"] else changed["support"] + changed["query"]


def _differing(a: np.ndarray, b: np.ndarray) -> int:
    return int((a != b).sum())


def _sizes(file: ArrayFile, path: Path) -> PlanSizes:
    """Sizes of a plan whose three arrays belong together."""
    classes, support, query = (file.shapes[name] for name in ("classes", "support", "query"))
    if not (classes == support[:2] == query[:2]) or 0 in (*support, *query):
        raise _no_plan(path)
    recorded = file.shapes.get("recordings")
    sizes = PlanSizes(support[0], support[1], support[2], query[2], recorded[0] if recorded else None)
    if plan_fault(way=sizes.way, shot=sizes.shot, query=sizes.query, episodes=sizes.episodes):
        raise ResultError(f"The episode plan {path} is larger than any plan of fsar-bench ({sizes}); delete it.")
    return sizes


def _unreadable(path: Path, error: Exception) -> ResultError:
    return ResultError(f"The episode plan {path} cannot be read ({error}); delete it and run again.")


def _no_plan(path: Path) -> ResultError:
    return ResultError(f"The episode plan {path} is damaged (its arrays are no plan); delete it and run again.")


@dataclass(frozen=True)
class _Rules:
    """What a plan is drawn by; attributes as the arguments of `EpisodePlan.sample`."""

    way: int
    shot: int
    query: int
    episodes: int
    seed: int
    purpose: str
    first: int

    def header(self, clips: ClipList, recording: np.ndarray | None) -> dict[str, Any]:
        """What identifies the plan, as plain values."""
        values = {"algorithm": ALGORITHM, "list": clips.digest, **vars(self)}
        if not self.first:
            del values["first"]
        if recording is not None:
            values["recordings"] = digest_of_recordings(recording)
        return values


def _are_recordings(numbers: np.ndarray, support: np.ndarray, query: np.ndarray, drawn_by: str | None = None) -> bool:
    """Whether numbers can be those of the recordings of the clips of some episodes.

    Args:
        numbers: `[clips]`.
        support: numbers of clips.
        query: numbers of clips.
        drawn_by: digest of the recordings that the episodes were drawn by; None where they were drawn regardless of them.
    """
    clips = len(numbers)
    return (
        numbers.ndim == 1
        and np.issubdtype(numbers.dtype, np.integer)
        and clips > max(support.max(), query.max())
        and numbers.min() >= 0
        and numbers.max() < clips
        and drawn_by in (None, digest_of_recordings(numbers))
    )


def _checked_names(names: Any) -> tuple[str, ...]:
    """Class names of a plan.

    Raises:
        ValueError: they are no list of texts, or one is too long or no plain line.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are no list of texts")
    for name in names:
        if fault := name_fault(name):
            raise ValueError(f"the class name {shortened(name)!r} {fault}")
    return tuple(names)


_QUERY_KEYS = {"train": " or train.query_per_class=", "val": ""}  # val has one query per class


def check_plan(
    clips: ClipList, *, way: int, shot: int, query: int, purpose: str, missing: frozenset[str] = frozenset()
) -> None:
    """Check that a split has enough classes and clips, and no more classes than a result may have.

    Arguments are as in `EpisodePlan.sample`.

    Raises:
        ProtocolError: it has not; the message says what would suffice.
    """
    needed, prefix = shot + query, "train." if purpose in ("train", "val") else ""
    if len(clips.classes) > MOST_CLASSES:
        raise ProtocolError(
            f"The {purpose} split has {len(clips.classes):,} classes; at most {MOST_CLASSES:,} are allowed. Leave some out."
        )
    if len(clips.classes) < way:
        most = f"say {prefix}way={len(clips.classes)}" if len(clips.classes) > 1 else "choose another dataset"
        why = ", on which a training chooses its checkpoint," if purpose == "val" else ""
        raise ProtocolError(
            f"The {purpose} split{why} has {len(clips.classes)} classes, fewer than {prefix}way={way}: {most}."
        )
    for name, ids in zip(clips.classes, clips.clips, strict=True):
        usable = sum(clip not in missing for clip in ids)
        if usable < needed:
            gone = f" ({len(ids) - usable} of {len(ids)} are missing on this disk)" if usable < len(ids) else ""
            raise ProtocolError(
                f"Class {name!r} of the {purpose} split has {usable} clips{gone}, fewer than shot + query = {needed}. "
                f"Lower {prefix}shot={_QUERY_KEYS.get(purpose, ' or query=')}, or complete the data."
            )


def _draw(
    clips: ClipList, rules: _Rules, missing: frozenset[str], recording: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes `[E, way]`, supports `[E, way, shot]` and queries `[E, way, query]` as int32."""
    usable = _usable(clips, missing)
    way, episodes = rules.way, rules.episodes
    classes = np.empty((episodes, way), np.int32)
    support = np.empty((episodes, way, rules.shot), np.int32)
    queries = np.empty((episodes, way, rules.query), np.int32)
    step = max(1, _CHUNK // (way * usable.shape[1] + len(usable)))
    for start in range(0, episodes, step):
        rows = slice(start, min(start + step, episodes))
        numbers = np.arange(rules.first + start, rules.first + rows.stop, dtype=np.uint64)
        chosen, order = _orders(stream_key(rules.seed, rules.purpose), numbers, way, usable)
        count, starts = usable.sum(1)[chosen], clips.starts[chosen]
        queries[rows] = order[..., : rules.query] + starts[..., None]
        if recording is not None:
            order, count = _without_recordings(order, count, recording, starts, rules.query)
            _check_recordings(clips, rules, chosen, count)
        last = count[..., None] - 1 - np.arange(rules.shot)
        classes[rows] = chosen
        support[rows] = np.take_along_axis(order, last, axis=2) + starts[..., None]
    return classes, support, queries


def _usable(clips: ClipList, missing: frozenset[str]) -> np.ndarray:
    """Whether each place of each class holds a clip that is on this disk, bool `[classes, longest class]`."""
    usable = np.zeros((len(clips.classes), max(map(len, clips.clips))), bool)
    for row, ids in enumerate(clips.clips):
        usable[row, : len(ids)] = [clip not in missing for clip in ids]
    return usable


def _orders(key: np.uint64, numbers: np.ndarray, way: int, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes `[E, way]` of episodes and the order of their clips `[E, way, longest class]`, unusable places last."""
    count, longest = usable.shape
    episode_key = splitmix64(key ^ numbers)
    class_key = splitmix64(episode_key ^ np.uint64(1))[:, None] ^ np.arange(count, dtype=np.uint64)
    chosen = np.argsort(splitmix64(class_key), axis=1, kind="stable")[:, :way]
    clip_key = splitmix64(splitmix64(episode_key ^ np.uint64(2))[:, None] ^ chosen.astype(np.uint64))
    clip_key = splitmix64(clip_key[..., None] ^ np.arange(longest, dtype=np.uint64))
    by_key = np.argsort(clip_key, axis=2, kind="stable")
    unusable = np.take_along_axis(~usable[chosen], by_key, axis=2)
    return chosen, np.take_along_axis(by_key, np.argsort(unusable, axis=2, kind="stable"), axis=2)


def _check_recordings(clips: ClipList, rules: _Rules, chosen: np.ndarray, count: np.ndarray) -> None:
    if (count < rules.shot).any():
        name = clips.classes[chosen[count < rules.shot][0]]
        raise ProtocolError(
            f"Class {name!r} of the {rules.purpose} split has too few clips of other recordings for shot={rules.shot}. Lower "
            "shot= or query=, or allow shared recordings with group_disjoint=false."
        )


def _without_recordings(
    order: np.ndarray, count: np.ndarray, recording: np.ndarray, starts: np.ndarray, query: int
) -> tuple[np.ndarray, np.ndarray]:
    """An order `[E, way, clips]` with those last that share a recording with its first `query`, and how many do not."""
    within = np.arange(order.shape[2]) < count[..., None]
    recorded = recording[np.minimum(order + starts[..., None], len(recording) - 1)]
    shared = (recorded[..., None] == recorded[..., None, :query]).any(-1) | ~within
    return np.take_along_axis(order, np.argsort(shared, axis=2, kind="stable"), axis=2), (~shared).sum(2)


def _digest(header: dict, *arrays: np.ndarray) -> str:
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        sha.update(np.ascontiguousarray(array, dtype="<i4").data)
    return sha.hexdigest()
