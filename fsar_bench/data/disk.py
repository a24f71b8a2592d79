"""What lies on real disks: names that systems and editors leave behind, and which files are videos."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from fsar_bench.io import IMAGE_SUFFIXES, open_file

VIDEO_SUFFIXES = (  # read by FFmpeg, and videos whatever is in them
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".3g2", ".asf", ".divx", ".dv",
    ".f4v", ".h261", ".h263", ".h264", ".h265", ".264", ".265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v",
    ".mjpeg", ".mjpg", ".mk3d", ".mpe", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".vob",
    ".wtv", ".xvid", ".y4m",
)  # fmt: skip
MAYBE_VIDEO_SUFFIXES = (".ts", ".gif", ".ogg", ".dat", ".mod", ".vid", ".video", "")  # videos if they begin like one
SIDECAR_SUFFIXES = (  # lie beside clips and are not worth a word
    ".ann", ".ass", ".bib", ".c3d", ".cfg", ".conf", ".cpp", ".css", ".csv", ".db", ".docx", ".eaf", ".env", ".h5", ".hdf5",
    ".htm", ".html", ".info", ".ini", ".ipynb", ".js", ".json", ".json5", ".jsonl", ".list", ".lock", ".log", ".lst", ".map",
    ".mat", ".md", ".md5", ".mod", ".nfo", ".npy", ".npz", ".parquet", ".pdf", ".pickle", ".pkl", ".pt", ".pth", ".py", ".rst",
    ".sh", ".sha1", ".sha256", ".skeleton", ".srt", ".tex", ".toml", ".ts", ".tsv", ".tsx", ".txt", ".url", ".vtt", ".xls",
    ".xlsx", ".xml", ".yaml", ".yml",
)  # fmt: skip
NO_VIDEO_SUFFIXES = (  # begin like videos, some of them, and are sound, stills, previews of a camera, or not whole
    ".aac", ".aax", ".avif", ".cr3", ".f4a", ".f4b", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".lrv", ".m4a", ".m4b",
    ".m4p", ".m4r", ".mka", ".mks", ".mp2", ".mp3", ".oga", ".opus", ".ra", ".spx", ".wav", ".weba", ".wma", ".aria2",
    ".crdownload", ".download", ".filepart", ".opdownload", ".part", ".partial", ".temp", ".tmp", ".ytdl",
)  # fmt: skip
BACKUP_SUFFIXES = (".backup", ".bak", ".bck", ".old", ".orig", ".original", ".save", ".sav", ".swo", ".swp")
_SIDECAR_NAMES = frozenset(("license", "licence", "readme", "makefile", "notice", "version", "checksums", "md5sum"))
_HIDDEN = frozenset(  # beside names that begin with a dot
    ("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler",
     "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)  # fmt: skip
_BEGINNINGS = (  # (offset, bytes)
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (0, b"\x1aE\xdf\xa3"), (0, b"FLV\x01"), (0, b".RMF"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"\0\0\x01\xba"), (0, b"\0\0\x01\xb3"), (0, b"YUV4MPEG2 "), (0, b"DKIF"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01"), (0, b"nut/multimedia container\0"),
)  # fmt: skip
_ENDINGS = "|".join(re.escape(suffix) for suffix in VIDEO_SUFFIXES)
_BACKUP = re.compile(rf"~$|^#.*#$|(?:{_ENDINGS})_(?:original|orig|backup|bak|old)$", re.IGNORECASE | re.DOTALL)
_KNOWN = frozenset(
    (*VIDEO_SUFFIXES, *MAYBE_VIDEO_SUFFIXES, *SIDECAR_SUFFIXES, *NO_VIDEO_SUFFIXES, *BACKUP_SUFFIXES, *IMAGE_SUFFIXES)
)
_READ = 4096  # bytes that tell what a file is


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left behind by a system or an editor, and is never a clip, class or list.

    Names that begin with a dot (`._clip.mp4`, `.ipynb_checkpoints`, `.Trash`), and those that macOS, Windows and NAS systems
    give to their own folders (`__MACOSX`, `@eaDir`, `$RECYCLE.BIN`, `lost+found`).
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def is_backup(name: str) -> bool:
    """Whether a file of this name is what an editor or tool left of another one, such as `c.mp4~`, `#c.mp4#` or `c.mp4.orig`."""
    return bool(_BACKUP.search(name)) or suffix_of(name) in BACKUP_SUFFIXES


def suffix_of(name: str) -> str:
    """Extension of a file name in lower case with its dot; empty where there is none.

    What follows the last dot counts only if it can be an extension: `v1.0 final take` has none.
    """
    suffix = PurePath(name).suffix.lower()
    return suffix if 1 < len(suffix) <= 11 and suffix[1:].isascii() and suffix[1:].replace("_", "").isalnum() else ""


def stem_of(name: str) -> str:
    """A file name without its extension, if that is a known one: `v1.0` is a name of its own, beside `v1.1`."""
    suffix = suffix_of(name)
    return name[: -len(suffix)] if suffix and suffix in _KNOWN else name


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video that FFmpeg reads, by its extension; where that leaves it open, by its first bytes.

    An extension that is not known may be no extension (`v1.0`), unless it follows that of a video (`c.mp4.1`).

    Raises:
        OSError: the file has to be looked into and cannot be read.
    """
    name = os.path.basename(path)
    suffix = suffix_of(name)
    if suffix in VIDEO_SUFFIXES:
        return True
    if is_backup(name) or (suffix in _KNOWN and suffix not in MAYBE_VIDEO_SUFFIXES):
        return False
    is_copy = bool(suffix) and suffix_of(name[: -len(suffix)]) in VIDEO_SUFFIXES
    return not is_copy and begins_like_a_video(path)


def begins_like_a_video(path: str | os.PathLike[str]) -> bool:
    """Whether the first bytes of a file are those of a video: a container with a signature, or an animated GIF.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(path) as file:
        head = file.read(_READ)
    if any(head[at : at + len(sign)] == sign for at, sign in _BEGINNINGS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] in (b"AVI ", b"CDXA")
    if head[:4] == b"OggS":
        return b"theora" in head or b"OVP80" in head
    if head[:4] == b"GIF8":
        return b"NETSCAPE2.0" in head or b"ANIMEXTS1.0" in head
    packets = ((0, 188), (4, 192))  # of transport streams, plain and with time codes: first sync byte, and distance
    return any(len(head) > at + 2 * step and head[at : at + 2 * step + 1 : step] == b"GGG" for at, step in packets)


def is_sidecar(name: str) -> bool:
    """Whether a file that is no clip is of a kind that lies beside clips anyway, such as lists and subtitles."""
    suffix = suffix_of(name)
    return suffix in SIDECAR_SUFFIXES or name.lower().removesuffix(suffix) in _SIDECAR_NAMES


def identity(path: str | Path) -> tuple[int, int]:
    """What two paths of one file or folder share, links followed: its device and inode.

    Raises:
        OSError: there is nothing at the path.
    """
    state = os.stat(path)
    return state.st_dev, state.st_ino


def clip_identity(path: str | Path) -> tuple[object, ...]:
    """What two paths of one clip share, links followed, and no others do: some file systems give several files one inode.

    Raises:
        OSError: there is nothing at the path.
    """
    state = os.stat(path)
    if not state.st_ino:  # the file system has no inodes
        return (os.path.realpath(path),)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
