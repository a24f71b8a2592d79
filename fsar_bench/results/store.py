"""The store: one folder per cell, with its record, its predictions and its cost. Imports no torch.

A result is stored in `results/<dataset>/<way>way_<shot>shot/<method>-<hash8>/`: `result.json` (the same bytes for the same
inputs), `predictions.npz` (the prediction of every query) and `cost.json` (times, memory, environment: what cannot repeat).
`result.json` is written last: a folder without it is not a result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fsar_bench.config.cell import Cell
from fsar_bench.errors import ResultError
from fsar_bench.io import read_json, read_whole, replacing_all, to_json, write_atomically, write_cached
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import report
from fsar_bench.results.predictions import FILE as PREDICTIONS
from fsar_bench.results.predictions import measure, packed_predictions, unpack_predictions
from fsar_bench.results.record import SCHEMA, Cost, Result
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import seal_json, unseal_json

RECORD, COST = "result.json", "cost.json"
READING = "reading results"  # the stage that is reported
_VERIFIED = "results whose predictions gave the metrics that they claim"  # tells their list from other sealed files
_LARGEST_RECORD = 2**20  # bytes of a record; a real one has some 5 kB


@dataclass(frozen=True)
class Stored:
    """A result, what it cost, and the folder that holds both and the predictions."""

    result: Result
    cost: Cost
    folder: Path

    @property
    def plan_file(self) -> Path:
        """Path of the realised episode plan, next to `results/`."""
        return self.folder.parents[3] / "plans" / self.result.plan_name

    def predictions(self) -> np.ndarray:
        """Predicted label of each query, uint8 `[E, Q]`.

        Raises:
            ResultError: the predictions are missing or damaged.
        """
        data = packed_predictions(self.folder, self.result)
        return unpack_predictions(self.folder / PREDICTIONS, data, self.result)[0]

    def pairs(self) -> np.ndarray:
        """Outcome of each query against its time-reversed class, uint8 `[E, Q]`, see `metrics.pair_outcomes`.

        Raises:
            ResultError: the predictions are missing, damaged, or have no such outcomes.
        """
        data = packed_predictions(self.folder, self.result)
        pair = unpack_predictions(self.folder / PREDICTIONS, data, self.result)[1]
        if pair is None:
            raise ResultError(
                f"{self.folder / PREDICTIONS} has no outcomes of pairs, though its record has their accuracy."
            )
        return pair

    def right(self) -> np.ndarray:
        """Whether each query was predicted right, bool `[E, Q]`; raises as `predictions` does."""
        return self.predictions() == self.result.labels


def write(root: Path, result: Result, predictions: bytes, cost: Cost, plan: EpisodePlan | None = None) -> Stored:
    """Store a result below `root` (the folder `results/`), all of it or nothing: an old one stays until then.

    Args:
        root: the folder `results/`.
        result: the record.
        predictions: as the record names them.
        cost: what it cost.
        plan: its realised plan, which is stored next to `root`; None if it is there already.

    Raises:
        ResultError: the folder cannot be written.
    """
    folder = root / result.folder
    with replacing_all(hint="out=") as batch:
        if plan is not None:
            with batch.open(root.parent / "plans" / result.plan_name) as file:
                plan.write(file)
        batch.delete(folder / RECORD)  # never an old record beside new predictions
        batch.write(folder / PREDICTIONS, predictions)
        batch.write(folder / COST, to_json(cost.model_dump(mode="json", exclude_none=True)))
        batch.write(folder / RECORD, to_json(result.model_dump(mode="json")))
    return Stored(result, cost, folder)


def relabel(stored: Stored, cell: Cell) -> Stored:
    """A finished result with what people now call it, such as another title; everything else stays.

    Args:
        stored: the result.
        cell: the same cell, by its hash.

    Raises:
        ResultError: the folder cannot be written.
    """
    result = stored.result.model_copy(update={"cell": cell})
    write_atomically(stored.folder / RECORD, to_json(result.model_dump(mode="json")), hint="out=")
    return Stored(result, stored.cost, stored.folder)


def read_record(folder: Path) -> tuple[Result, bytes]:
    """Read and check the record of a result alone: size, schema, place. Nothing that it names is opened.

    Args:
        folder: the folder of the result.

    Returns:
        The record, and its bytes.

    Raises:
        ResultError: it is missing, damaged, of another schema, or in another folder than its own.
    """
    path = folder / RECORD
    text, data = _json(path)
    if isinstance(data, dict) and data.get("schema_version") != SCHEMA:
        version = data.get("schema_version")
        raise ResultError(f"{path} has schema version {version!r}; this fsar-bench reads {SCHEMA}. Run the cell again.")
    try:
        result = Result.model_validate_json(text)
    except ValidationError as error:
        raise ResultError(f"{path} is damaged: {_first(error)}. Delete it and run the cell again.") from error
    if folder.parts[-3:] != result.folder.parts:
        raise ResultError(f"{path} describes {result.folder}, not its own folder. Move it there, or delete it.")
    return result, text


def read(folder: Path, verified: set[str] | None = None) -> Stored:
    """Read and check one result: schema, place, the hash of its predictions, and the metrics that they give.

    Args:
        folder: the folder of the result.
        verified: SHA-256 of records whose metrics were recomputed before; this one is added to it.

    Raises:
        ResultError: names the file that is missing, damaged, of another schema, or at odds with the others.
    """
    result, text = read_record(folder)
    _verify(folder, result, hashlib.sha256(text).hexdigest(), verified)
    try:
        cost = Cost.model_validate_json(_json(folder / COST)[0])
    except ValidationError as error:
        raise ResultError(
            f"{folder / COST} is damaged: {_first(error)}. Delete the folder and run the cell again."
        ) from error
    return Stored(result, cost, folder)


def _verify(folder: Path, result: Result, key: str, verified: set[str] | None) -> None:
    """The predictions are those that the record names, and give the metrics that it claims."""
    packed = packed_predictions(folder, result)
    if verified is not None and key in verified:
        return
    prediction, pair = unpack_predictions(folder / PREDICTIONS, packed, result)
    if measure(prediction, result.labels, pair) != result.metrics:
        raise ResultError(
            f"{folder / RECORD} claims metrics that its predictions do not give. Delete the folder and run the cell again."
        )
    if verified is not None:
        verified.add(key)


def _first(error: ValidationError) -> str:
    """The first fault of a record: where, and what; of what a forger writes there, the beginning."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:200]
    return f"{place or 'the record'}: {first['msg'].removeprefix('Value error, ')[:400].rstrip('.')}"


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _json(path: Path) -> tuple[bytes, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        if path.stat().st_size > _LARGEST_RECORD:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        data = read_json(path)
        return data, json.loads(data, parse_constant=_no_constant)
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is damaged ({error}). Delete it and run the cell again.") from error


def read_all(root: Path, cache: Path | None = None) -> list[Stored]:
    """All results below `root`, sorted by folder.

    Args:
        root: the folder `results/`.
        cache: folder that remembers, by content, which results gave the metrics they claim.

    Raises:
        ResultError: for the first one that is damaged; nothing is skipped.
    """
    path = cache and cache / "verified.json"
    verified = _remembered(path)
    before = len(verified)
    records, stored = sorted(root.glob("*/*/*/result.json")), []
    for record in records:
        stored.append(read(record.parent, verified))
        report(READING, len(stored), len(records))
    if path and len(verified) > before:
        remember(path, {"verified": sorted(verified)}, _VERIFIED)
    return stored


def remember(path: Path, data: dict[str, Any], made_from: str) -> None:
    """Write a sealed file of a cache; on failure, which is told once, the value is computed again next time."""
    write_cached(path, lambda file: file.write(seal_json(data, made_from)))


def _remembered(path: Path | None) -> set[str]:
    if path is None:
        return set()

    def read_verified(path: Path) -> set[str]:
        return set(unseal_json(read_whole(path), _VERIFIED)["verified"])

    return recall(path, read_verified, "the list of checked results", again="All are checked again") or set()
