"""Verification: every clip is decoded once, before a long run meets the bad ones; these are named, and left out if accepted.

A video is decoded from its beginning to its end: a clip of which a reader takes other frames than FFmpeg presents is bad, and
what is odd about a good one is remarked.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsar_bench.data.dataset import Clip, Dataset
from fsar_bench.data.decode import DecodedClip, DecodePool, ReadPlan, Remark, Request
from fsar_bench.errors import ConfigError, DataError, ResultError
from fsar_bench.io import CachedLines, cache_folder, digest, read_whole, reason_of, to_json, write_atomically
from fsar_bench.registry import READERS, find
from fsar_bench.storage.recall import check_limits

FRAMES = 16  # at segment midpoints: from the first to almost the last
SIDE = 32  # pixels of the decoded frames; their content does not matter here
PARITY_SIDE = 64  # pixels of the frames on which readers are compared
AHEAD = 64  # clips that are handed to the decode processes in advance

Progress = Callable[[int, int], None]  # called with (clips done, clips in all)


@dataclass(frozen=True)
class ListedClip:
    """A clip and its split.

    Attributes:
        split: name of the split.
        clip: the clip.
    """

    split: str
    clip: Clip


@dataclass(frozen=True)
class Verdict:
    """Result of decoding a clip.

    Attributes:
        split: name of the split.
        clip: the clip.
        reason: why it is bad; empty for a good clip.
        remarks: what is odd about a good clip.
    """

    split: str
    clip: Clip
    reason: str
    remarks: tuple[Remark, ...] = ()


def all_clips(dataset: Dataset) -> list[ListedClip]:
    """Every clip that is on this disk."""
    splits = (dataset.split(name) for name in dataset.names)
    return [ListedClip(split.name, clip) for split in splits for clip in split.clips if clip.id not in split.missing]


@dataclass(frozen=True)
class Verification:
    """Result of verifying a dataset.

    Attributes:
        verdicts: of all clips on this disk.
        quarantine: file that lists the bad clips; None if there are none, or if it cannot be written.
        is_left_out: whether runs leave the bad clips out as missing; also where that was said before.
        can_be_left_out: whether runs could do so: only for prepared datasets.
    """

    verdicts: list[Verdict]
    quarantine: Path | None
    is_left_out: bool
    can_be_left_out: bool

    @property
    def bad(self) -> list[Verdict]:
        """Verdicts on clips that do not decode."""
        return [verdict for verdict in self.verdicts if verdict.reason]


def verify_dataset(
    dataset: Dataset,
    *,
    reader: str,
    workers: int,
    seconds: float,
    accept: bool = False,
    decides: bool = True,
    progress: Progress | None = None,
) -> Verification:
    """Decode every clip of a dataset once, and list the bad ones in a quarantine, or remove it where there are none.

    The quarantine of a prepared dataset is next to its annotation, that of another one in the cache folder.

    Args:
        dataset: the dataset, with its quarantined clips.
        reader: registered name of the reader; folders of images have their own.
        workers: number of decode processes.
        seconds: time limit per clip.
        accept: let runs leave the bad clips of a prepared dataset out, as missing.
        decides: whether the quarantine is changed; it belongs to the reader that runs use.
        progress: called with (clips done, clips in all).

    Raises:
        ConfigError: no such reader, or it cannot be used.
        ResultError: bad clips are to be left out, but the quarantine cannot be written; or it cannot be removed.
    """
    find(READERS, reader)
    folder = dataset.annotation.parent if dataset.is_prepared else cache_folder() / "verify" / dataset.name
    verdicts = verify(
        all_clips(dataset),
        reader="images" if dataset.frames else reader,
        workers=workers,
        seconds=seconds,
        log=folder / "verified.jsonl",
        progress=progress,
    )
    bad = [verdict for verdict in verdicts if verdict.reason]
    was_accepted = {(verdict.clip.class_name, verdict.clip.id) for verdict in bad} <= dataset.accepted
    is_left_out = bool(bad) and dataset.is_prepared and (accept or was_accepted)
    quarantine = folder / "quarantine.json" if decides else None
    if quarantine and not bad:
        _remove(quarantine)  # what it lists has been mended
        quarantine = None
    if quarantine:
        try:
            write_quarantine(quarantine, bad, accept=is_left_out)
        except ResultError:
            if is_left_out:
                raise
            quarantine = None  # the verdicts are worth more than a list of them
    return Verification(verdicts, quarantine, is_left_out, can_be_left_out=dataset.is_prepared)


def _remove(quarantine: Path) -> None:
    """Remove a quarantine, or raise `ResultError`: runs would stop at clips that are good."""
    try:
        quarantine.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(
            f"Cannot remove {quarantine} ({reason_of(error)}), which lists clips that decode now. Remove it yourself."
        ) from error


def verify(
    clips: list[ListedClip],
    *,
    reader: str,
    workers: int,
    seconds: float,
    log: Path,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Decode clips, in parallel and watched; good clips of an earlier, interrupted verification are not decoded again.

    Args:
        clips: the clips.
        reader: registered name of the reader.
        workers: number of decode processes.
        seconds: time limit per clip.
        log: one line per clip, appended as clips are decoded: the state from which a verification resumes. A line carries
            its digest; the clip of a damaged one is decoded again.
        progress: called with (clips done, clips in all).

    Returns:
        One verdict per clip, in their order.
    """
    good = _read_good(log, reader)
    verdicts: list[Verdict] = []
    lines = CachedLines(log)
    lines.append("")  # ends an incomplete line of a run that was killed
    pool = DecodePool(ReadPlan(reader, SIDE, SIDE, FRAMES, is_inspected=True), workers=workers, seconds=seconds)
    try:
        for item in _submit(clips, good, pool):
            reason, remarks = ("", good[item.identity]) if item.future is None else _judged(item.future)
            if item.future is not None:
                lines.append(_line([reader, *item.identity, reason, remarks]))
            verdicts.append(Verdict(item.split, item.clip, reason, remarks))
            if progress:
                progress(len(verdicts), len(clips))
    finally:
        pool.close()
        lines.close()
    return verdicts


Identity = tuple[str, str, str, str]  # split, class, id and content of a clip
_Good = dict[Identity, tuple[Remark, ...]]  # remarks on clips that are known to be good


@dataclass(frozen=True)
class _Submitted:
    """A clip with its content and the future of its decoding; None for a clip that is known to be good."""

    split: str
    clip: Clip
    content: str
    future: Future[DecodedClip] | None

    @property
    def identity(self) -> Identity:
        return self.split, self.clip.class_name, self.clip.id, self.content


def _submit(clips: list[ListedClip], good: _Good, pool: DecodePool) -> Iterator[_Submitted]:
    """Clips in their order; up to `AHEAD` of them are decoded in advance."""
    waiting: deque[_Submitted] = deque()
    for listed in clips:
        waiting.append(_submit_one(listed, good, pool))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _submit_one(listed: ListedClip, good: _Good, pool: DecodePool) -> _Submitted:
    split, clip = listed.split, listed.clip
    try:
        content = clip.content
    except DataError as error:  # empty, unreadable, or not what the annotation describes
        future: Future[DecodedClip] = Future()
        future.set_exception(error)
        return _Submitted(split, clip, "", future)
    if (split, clip.class_name, clip.id, content) in good:
        return _Submitted(split, clip, content, None)
    return _Submitted(split, clip, content, pool.submit(Request(clip)))


def _judged(future: Future[DecodedClip]) -> tuple[str, tuple[Remark, ...]]:
    """Why a clip is bad, empty for a good one, and remarks on it."""
    try:
        decoded = future.result()
    except DataError as error:
        return str(error), ()
    count = decoded.frames.shape[0]
    return ("", decoded.remarks) if count == FRAMES else (f"it gave {count} frames", ())


def _line(verdict: list[Any]) -> str:
    """A line of the log: what is told of a clip, and the digest of that."""
    return json.dumps([*verdict, digest(verdict)], ensure_ascii=False)


def _read_good(log: Path, reader: str) -> _Good:
    """Clips that this reader decoded before."""
    good: _Good = {}
    try:
        lines = read_whole(log).split(b"\n")
    except OSError as error:  # there is none, or it cannot be read: decode again
        check_limits(error, log)
        return good
    for line in lines:
        try:
            *verdict, _ = json.loads(line)
            if _line(verdict).encode() != line:
                continue
            line_reader, split, class_name, clip_id, content, reason, remarks = verdict
            if line_reader == reader and not reason:
                good[split, class_name, clip_id, content] = tuple(Remark(kind, text) for kind, text in remarks)
        except (ValueError, TypeError, RecursionError):
            continue  # empty, or an incomplete line of a run that was killed: decode again
    return good


def write_quarantine(path: Path, bad: list[Verdict], *, accept: bool) -> None:
    """List bad clips next to the annotation.

    Args:
        path: the file.
        bad: verdicts on the bad clips.
        accept: let runs leave them out as missing.

    Raises:
        ResultError: the folder cannot be written.
    """
    clips = [{"split": v.split, "class": v.clip.class_name, "id": v.clip.id, "reason": v.reason} for v in bad]
    write_atomically(path, to_json({"accepted": accept, "clips": clips}), hint="$FSAR_BENCH_DATA or $FSAR_BENCH_CACHE")


def sample(clips: list[ListedClip], count: int) -> list[Clip]:
    """Up to `count` clips, spread evenly over all."""
    places = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int))
    return [clips[i].clip for i in places]


@dataclass(frozen=True)
class Difference:
    """How much the frames of a clip differ between two readers.

    Attributes:
        clip: the clip.
        mean: mean absolute difference, of 255; NaN where a reader refuses the clip.
        largest: largest absolute difference, of 255; NaN likewise.
        refusal: why a reader refuses the clip; empty where both read it.
    """

    clip: Clip
    mean: float
    largest: float
    refusal: str = ""


def compare_readers(
    dataset: Dataset,
    readers: tuple[str, str],
    *,
    count: int,
    workers: int,
    seconds: float,
    progress: Progress | None = None,
) -> list[Difference]:
    """Compare two readers on a sample of a dataset's videos.

    Args:
        dataset: the dataset.
        readers: registered names of the readers.
        count: number of clips, spread evenly over all.
        workers: number of decode processes.
        seconds: time limit per clip.
        progress: called with (clips decoded, clips to decode), by both readers.

    Raises:
        ConfigError: the clips are folders of images, or no such reader, or one that cannot be used.
    """
    if dataset.frames:
        raise ConfigError(f"The clips of {dataset.name} are folders of images: there is one reader for them.")
    for reader in readers:
        find(READERS, reader)
    return parity(sample(all_clips(dataset), count), readers, workers=workers, seconds=seconds, progress=progress)


def parity(
    clips: list[Clip],
    readers: tuple[str, str],
    *,
    workers: int,
    seconds: float,
    progress: Progress | None = None,
) -> list[Difference]:
    """Differences between two readers at `FRAMES` segment midpoints of each clip.

    Args:
        clips: the clips.
        readers: registered names of the readers.
        workers: number of decode processes.
        seconds: time limit per clip.
        progress: called with (clips decoded, clips to decode), by both readers.
    """
    answers: list[list[np.ndarray | DataError]] = []
    for reader in readers:
        plan = ReadPlan(reader, PARITY_SIDE, PARITY_SIDE, FRAMES)
        pool = DecodePool(plan, workers=workers, seconds=seconds)
        try:
            futures = pool.map(Request(clip) for clip in clips)
            answers.append([])
            for future in futures:
                answers[-1].append(_frames_or_refusal(future))
                if progress:
                    progress(sum(map(len, answers)), len(clips) * len(readers))
        finally:
            pool.close()
    return [_difference(clip, *both) for clip, *both in zip(clips, *answers, strict=True)]


def _frames_or_refusal(future: Future[DecodedClip]) -> np.ndarray | DataError:
    try:
        frames: np.ndarray = future.result().frames.astype(np.int16)
    except DataError as error:
        return error
    return frames


def _difference(clip: Clip, first: np.ndarray | DataError, second: np.ndarray | DataError) -> Difference:
    if isinstance(first, DataError) or isinstance(second, DataError):
        refusal = first if isinstance(first, DataError) else second
        return Difference(clip, float("nan"), float("nan"), str(refusal))
    difference = np.abs(first - second)
    return Difference(clip, float(difference.mean()), float(difference.max()))
