"""Seals: a digest of what a stored file was made from and of all of its bytes, so that nothing else is ever believed.

Three forms, each of which other programs still read:

- bytes (`.npy`, `.npz`, `last.pt`) end in a line of text with both digests;
- safetensors carry both in their metadata, where the digest of the content is that of the whole file with its own digits zeroed;
- JSON objects carry one over both in the field `digest`.

Digests are SHA-256: on processors with instructions for it, it is the fastest of the cryptographic ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from fsar_bench.io import to_json

DIGEST, MADE_FROM = "fsar_bench_digest", "fsar_bench_made_from"  # of the metadata of safetensors
FIELD = "digest"  # of JSON objects
_MAGIC = b"\nfsar-bench seal 1 "
_HEX = 64  # digits of a digest
TRAILER = len(_MAGIC) + _HEX + 1 + _HEX + 1  # bytes
_ZEROS = b"0" * _HEX
_MARK = f'"{DIGEST}":"'.encode()

UNSEALED = "it carries no digest"
CHANGED = "its content does not have the digest that it carries"
OTHER = "it was made from something else"


class DamagedError(Exception):
    """A stored file is not what was written there, or was made from something else; the text says which."""


class Writable(Protocol):
    """What numpy and torch write to."""

    def write(self, data: Any, /) -> int: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102


def fingerprint(made_from: str) -> str:
    """SHA-256 of the text that tells what a file was made from."""
    return hashlib.sha256(made_from.encode(errors="surrogatepass")).hexdigest()


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha = file, hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.sha.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Leave it to the file's owner."""


def write_sealed(file: BinaryIO, made_from: str, write: Callable[[Writable], object]) -> None:
    """Write content and its seal.

    Args:
        file: open for writing.
        made_from: everything that the content depends on.
        write: writes the content, from its beginning to its end.
    """
    hashing = _Hashing(file)
    write(hashing)
    hashing.write(_MAGIC + fingerprint(made_from).encode() + b" ")
    file.write(hashing.sha.hexdigest().encode() + b"\n")


def unseal(data: bytes, made_from: str) -> memoryview:
    """Content of what `write_sealed` wrote.

    Raises:
        DamagedError: another byte, or made from something else.
    """
    view = memoryview(data)
    trailer = bytes(view[-TRAILER:])
    if len(trailer) < TRAILER or not trailer.startswith(_MAGIC) or not trailer.endswith(b"\n"):
        raise DamagedError(UNSEALED)
    end = len(data) - 1 - _HEX
    if data[end:-1] != hashlib.sha256(view[:end]).hexdigest().encode():
        raise DamagedError(CHANGED)
    if trailer[len(_MAGIC) :][:_HEX] != fingerprint(made_from).encode():
        raise DamagedError(OTHER)
    return view[:-TRAILER]


def seal_tensors(data: bytes, made_from: str, metadata: dict[str, str]) -> tuple[bytes, memoryview]:
    """Safetensors with a seal; equal content has equal bytes, which the library does not promise for metadata.

    Args:
        data: safetensors.
        made_from: everything that they depend on.
        metadata: of the file; replaces that of `data`.

    Returns:
        The two parts of the file: the header with all before it, and the tensors.
    """
    body = memoryview(data)[_header_end(data) :]
    tensors = json.loads(data[8 : _header_end(data)])
    marked = {**metadata, DIGEST: _ZEROS.decode(), MADE_FROM: fingerprint(made_from)}
    header = json.dumps({**tensors, "__metadata__": marked}, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    head = len(header).to_bytes(8, "little") + header
    place = head.index(_MARK) + len(_MARK)
    sha = hashlib.sha256(head)
    sha.update(body)
    return head[:place] + sha.hexdigest().encode() + head[place + _HEX :], body


def has_seal(data: bytes) -> bool:
    """Whether safetensors carry a seal, be it right or damaged; those of other programs carry none."""
    head = data[: _header_end(data)]
    return DIGEST.encode() in head or MADE_FROM.encode() in head


def check_tensors(data: bytes, made_from: str | None = None) -> dict[str, str]:
    """Check safetensors that `seal_tensors` made.

    Args:
        data: the whole file.
        made_from: what they must have been made from; None leaves it open.

    Returns:
        Their metadata.

    Raises:
        DamagedError: another byte, or made from something else.
    """
    head = data[: _header_end(data)]
    place = head.find(_MARK) + len(_MARK)
    if place < len(_MARK):
        raise DamagedError(UNSEALED)
    sha = hashlib.sha256(head[:place])
    for part in (_ZEROS, head[place + _HEX :], memoryview(data)[len(head) :]):
        sha.update(part)
    if head[place : place + _HEX] != sha.hexdigest().encode():
        raise DamagedError(CHANGED)
    try:
        metadata: dict[str, str] = dict(json.loads(head[8:])["__metadata__"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError("it holds no tensors") from error
    if made_from is not None and metadata.get(MADE_FROM) != fingerprint(made_from):
        raise DamagedError(OTHER)
    return metadata


def _header_end(data: bytes) -> int:
    """Where the tensors of safetensors begin."""
    return 8 + int.from_bytes(data[:8], "little")


def seal_json(record: dict[str, Any], made_from: str) -> bytes:
    """JSON of a record, with its seal in the field `digest`."""
    sha = hashlib.sha256(f"{fingerprint(made_from)} ".encode() + to_json(record))
    return to_json({**record, FIELD: sha.hexdigest()})


def unseal_json(data: bytes, made_from: str) -> dict[str, Any]:
    """The record of what `seal_json` made.

    Raises:
        DamagedError: another byte, or made from something else.
    """
    try:
        record = json.loads(data)
        if not isinstance(record, dict) or FIELD not in record:
            raise DamagedError(UNSEALED)
        del record[FIELD]
        is_right = seal_json(record, made_from) == data
    except (ValueError, RecursionError) as error:
        raise DamagedError("it is no JSON") from error
    if not is_right:
        raise DamagedError("it was changed, or made from something else")
    return record
