"""Looking for clips below a folder: videos and folders of images, and a count of what is passed over.

Every folder is looked into once; links are followed, but not back up. The annotation keeps the path of a link, because what it
points to may have no extension (Hugging Face hub, DVC, git-annex).
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fsar_bench.data.disk import (
    VIDEO_SUFFIXES,
    identity,
    is_backup,
    is_hidden,
    is_sidecar,
    is_video,
    stem_of,
    suffix_of,
)
from fsar_bench.data.images import FrameSeries, is_image, modality, series_of
from fsar_bench.errors import DataError

Progress = Callable[[int], None]  # called with the number of clips found so far
Identity = tuple[int, int]  # device and inode

FILES = "files"
HIDDEN = "hidden files and folders"
BACKUPS = "backups that an editor or tool left"
BROKEN = "broken links"
UP = "links back up"
AGAIN = "links to folders that were looked into"
UNREADABLE = "files that cannot be read"
BESIDE_VIDEOS = "images in folders of videos"
LOOSE = "images in folders that hold clips"
BESIDE_FRAMES = "images beside frames"
NOT_FRAMES = "clips in folders of optical flow, masks, depth or previews"
COPIES = "copies of clips in folders of extracted frames"
EMPTY_CLASSES = "folders of classes without a clip"
LINKED_TWICE = "second paths of a clip (links)"


@dataclass(frozen=True)
class ClipOnDisk:
    """A clip on the disk.

    Attributes:
        path: the video file or the folder of images.
        images: number of frames; 0 for a video.
        place: where it is below the folder that was searched, in parts, without extension and without folders that tell frames
            from flow (`rgb`, `flow`); the last part is its name.
        modality: of these folders (see `fsar_bench.data.images.modality`).
        inode: device and inode as its folder lists them, which is cheap, but no proof (see `clip_identity`).
        is_link: whether a link leads to it.
        fault: why it cannot be read, or "".
        gaps: whether frames are missing by their numbers.
    """

    path: Path
    images: int
    place: tuple[str, ...] = ()
    modality: int = 0
    inode: Identity = (0, 0)
    is_link: bool = False
    fault: str = ""
    gaps: bool = False

    @property
    def name(self) -> str:
        """Its name without extension."""
        return self.place[-1]


@dataclass
class PassedOver:
    """What lies below a folder and is no clip.

    Attributes:
        suffixes: number of files by extension; "no extension" stands for those without.
        kinds: number of files and folders by kind.
        examples: the first path of each kind, and of the files.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add_file(self, suffix: str, path: str) -> None:
        """Count a file by its extension."""
        self.suffixes[suffix or "no extension"] += 1
        self.examples.setdefault(FILES, path)

    def add(self, kind: str, path: str | os.PathLike[str], count: int = 1) -> None:
        """Count something of a kind."""
        self.kinds[kind] += count
        self.examples.setdefault(kind, os.fspath(path))

    def lines(self) -> Iterator[str]:
        """One line for all files by extension, and one per kind."""
        if self.suffixes:
            parts = ", ".join(f"{suffix} {count}" for suffix, count in sorted(self.suffixes.items()))
            count = self.suffixes.total()
            which = "1 file that is no clip" if count == 1 else f"{count} files that are no clips"
            yield f"{which} ({parts}), such as {self.examples[FILES]}"
        for kind, count in self.kinds.items():
            yield f"{kind}: {count}, such as {self.examples[kind]}"


@dataclass(frozen=True)
class Found:
    """All clips below a folder.

    Attributes:
        root: the folder, links resolved.
        clips: sorted by path.
        passed_over: what else is there.
    """

    root: Path
    clips: list[ClipOnDisk]
    passed_over: PassedOver


def find_clips(root: Path, *, depth: int = 1, progress: Progress | None = None) -> Found:
    """All clips below a folder.

    Args:
        root: the folder.
        depth: parts of the shortest place of a clip, such as 3 for split/class/clip: the first `depth` - 1 folders are never
            taken for folders that tell frames from flow.
        progress: called with the number of clips found so far.

    Raises:
        DataError: the folder does not exist, cannot be read, or holds no clips.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root} is not a folder. Name the folder of your clips with --root.")
    walk = _Walk(root.resolve(), depth, progress)
    walk.run()
    clips = sorted(_settled(walk.clips, walk.passed_over), key=lambda clip: str(clip.path))
    if not clips:
        others = "".join(f" Passed over: {line}." for line in walk.passed_over.lines())
        raise DataError(f"{root} holds neither video files nor folders of images.{others}")
    return Found(walk.root, clips, walk.passed_over)


_Chain = tuple["_Chain | None", Identity]  # the folders on the way to one: (those above it, its own identity)


@dataclass(frozen=True)
class _Folder:
    """A folder that is to be looked into."""

    path: str
    chain: _Chain
    is_linked: bool


class _Walk:
    """Looks into every folder: real ones first, then those that links lead to."""

    def __init__(self, root: Path, depth: int, progress: Progress | None) -> None:
        self.root = root
        self.clips: list[ClipOnDisk] = []
        self.passed_over = PassedOver()
        self._depth = depth
        self._progress = progress
        self._seen: set[Identity] = set()
        self._links: deque[_Folder] = deque()  # with the chain of the folder that holds the link
        self._waiting: list[_Folder] = []
        self._above = {identity(parent) for parent in root.parents}
        self._strip = len(str(root).rstrip(os.sep)) + 1

    def run(self) -> None:
        """Fill `clips` and `passed_over`."""
        self._tree(_Folder(str(self.root), (None, identity(self.root)), False))
        while self._links:
            link = self._links.popleft()
            target = identity(link.path)
            if target in self._above or _is_on_the_way(target, link.chain):
                self.passed_over.add(UP, link.path)
            elif link.is_linked and target in self._seen:
                self.passed_over.add(AGAIN, link.path)
            else:
                self._tree(_Folder(link.path, (link.chain, target), True))

    def _tree(self, top: _Folder) -> None:
        self._waiting = [top]
        while self._waiting:
            folder = self._waiting.pop()
            self._seen.add(folder.chain[1])
            self._look_into(folder)
            if self._progress:
                self._progress(len(self.clips))

    def _look_into(self, folder: _Folder) -> None:
        images: list[str] = []
        before = len(self.clips)
        device = folder.chain[1][0]
        for entry in _entries(folder.path):
            if is_hidden(entry.name):
                if entry.is_dir(follow_symlinks=False) or suffix_of(entry.name) in VIDEO_SUFFIXES:
                    self.passed_over.add(HIDDEN, entry.path)
            elif _is(entry.is_dir):
                self._enter(entry, folder)
            elif not _is(entry.is_file):  # a pipe, a device, or a broken link
                self.passed_over.add(BROKEN if entry.is_symlink() else UNREADABLE, entry.path)
            elif is_image(entry.name):
                images.append(entry.name)
            elif self._is_video(entry):
                self.clips.append(self._video(entry, folder, device))
        if images and len(self.clips) > before:
            self.passed_over.add(BESIDE_VIDEOS, Path(folder.path, images[0]), len(images))
        elif images:
            self._add_images(folder, images)

    def _enter(self, entry: os.DirEntry[str], folder: _Folder) -> None:
        if entry.is_symlink():
            self._links.append(_Folder(entry.path, folder.chain, folder.is_linked))
            return
        try:
            own = identity(entry.path)
        except OSError as error:
            raise _unreadable(entry.path, error) from error
        self._waiting.append(_Folder(entry.path, (folder.chain, own), folder.is_linked))

    def _is_video(self, entry: os.DirEntry[str]) -> bool:
        """Whether a file is a video; others are counted."""
        try:
            if is_video(entry.path):
                return True
        except OSError:
            self.passed_over.add(UNREADABLE, entry.path)
            return False
        if is_backup(entry.name):
            self.passed_over.add(BACKUPS, entry.path)
        elif not is_sidecar(entry.name):
            self.passed_over.add_file(suffix_of(entry.name), entry.path)
        return False

    def _video(self, entry: os.DirEntry[str], folder: _Folder, device: int) -> ClipOnDisk:
        is_link = entry.is_symlink()
        own = identity(entry.path) if is_link else (device, entry.inode())
        parts = Path(entry.path[self._strip :]).parts
        place, kind = self._placed((*parts[:-1], stem_of(entry.name)), named_by_last=False)
        return ClipOnDisk(Path(entry.path), 0, place, kind, own, is_link or folder.is_linked)

    def _add_images(self, folder: _Folder, images: list[str]) -> None:
        """Count the images of a folder as a clip."""
        path = Path(folder.path)
        parts = Path(folder.path[self._strip :]).parts
        if not parts:  # images directly in the folder that was named
            self.passed_over.add(LOOSE, path / images[0], len(images))
            return
        place, kind = self._placed(parts, named_by_last=True)
        fault = ""
        try:
            series = series_of(images, path)
        except DataError as error:
            series, fault = FrameSeries(tuple(images)), str(error)
        if series.passed_over:
            self.passed_over.add(BESIDE_FRAMES, path / series.passed_over[0], len(series.passed_over))
        own, gaps = folder.chain[1], bool(series.missing)
        self.clips.append(ClipOnDisk(path, len(series.names), place, kind, own, folder.is_linked, fault, gaps))

    def _placed(self, parts: tuple[str, ...], *, named_by_last: bool) -> tuple[tuple[str, ...], int]:
        """The place of a clip without folders that tell frames from flow, and what these tell."""
        fixed = self._depth - 1
        kinds = [
            0 if at < fixed or (at == len(parts) - 1 and not named_by_last) else modality(part)
            for at, part in enumerate(parts)
        ]
        if not any(kinds):
            return parts, 0
        place = tuple(part for part, kind in zip(parts, kinds, strict=True) if not kind)
        return (place, max(kinds)) if len(place) >= self._depth else (parts, 0)


def _is_on_the_way(target: Identity, chain: _Chain | None) -> bool:
    while chain is not None:
        chain, own = chain
        if own == target:
            return True
    return False


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link to itself, or to where one may not look, is of none."""
    try:
        return kind()
    except OSError:
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(f"The folder {folder} cannot be read ({error.strerror}). Fix its permissions.")


def _settled(clips: list[ClipOnDisk], passed_over: PassedOver) -> list[ClipOnDisk]:
    """The clips without optical flow, and without folders that hold clips and a few images that are no frames."""
    kept = []
    for clip in clips:
        if clip.modality == 2:
            passed_over.add(NOT_FRAMES, clip.path)
        else:
            kept.append(clip)
    above = _folders_above(kept) if any(clip.images for clip in kept) else {}
    settled = []
    for clip in kept:
        if not clip.images or clip.path not in above:
            settled.append(clip)
        elif clip.images == 1 or clip.fault:
            passed_over.add(LOOSE, clip.path, clip.images)
        else:
            fault = f"The folder {clip.path} holds frames, and below it another clip: {above[clip.path]}. Keep one of them there."
            settled.append(replace(clip, fault=fault))
    return settled


def _folders_above(clips: list[ClipOnDisk]) -> dict[Path, Path]:
    """All folders that hold a clip at any depth, each with the first one."""
    above: dict[Path, Path] = {}
    for clip in clips:
        folder = clip.path.parent
        while folder not in above and folder != folder.parent:
            above[folder] = clip.path
            folder = folder.parent
    return above
