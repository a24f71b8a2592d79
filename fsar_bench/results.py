"""Results: one record, one file of predictions and one cost file per cell. Imports no torch.

A result lies in `results/<dataset>/<way>way_<shot>shot/<method>-<hash8>/`: `result.json` (the same bytes for the same inputs),
`predictions.npz` (what was predicted for every query) and `cost.json` (times, memory, environment: what cannot repeat).
`result.json` is written last: a folder without it is not a result.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fsar_bench.errors import ResultError
from fsar_bench.statistics import episode_accuracy, episode_interval, pair_accuracy

SCHEMA = 1
_SHA = Field(pattern=r"^[0-9a-f]{64}$")
_NAME = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length=100)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MethodRecord(_Record):
    """The method and its resolved config; `fitted` is what it chose on val, where it chose."""

    name: str = _NAME
    title: str
    paper: str
    config: dict[str, Any]
    train: dict[str, Any] | None
    fitted: dict[str, float | str] | None = None


class ProtocolRecord(_Record):
    """What was held identical."""

    name: str = _NAME
    split: str
    way: int = Field(ge=2, le=255)
    shot: int = Field(ge=1)
    query: int = Field(ge=1)
    episodes: int = Field(ge=1)
    seed: int
    plan: str = _SHA
    realised: str = _SHA
    frames: int
    sampling: str
    resize: int
    crop: int
    template: str
    group_disjoint: bool = False
    class_names: str = _SHA
    selection_split: str | None
    reader: str


class DatasetRecord(_Record):
    """The data."""

    name: str = _NAME
    title: str
    synthetic: bool
    list_hash: str = _SHA
    fingerprint: str = _SHA
    classes: int
    clips: int
    coverage: float = Field(ge=0, le=1)
    controls: list[str]


class BackboneRecord(_Record):
    """The encoder and its weights."""

    name: str = _NAME
    model: str
    weights: str = _SHA
    pretraining: str
    activation: str
    precision: str


class TraitsRecord(_Record):
    """What the method declares."""

    uses_class_names: bool
    trainable: bool
    transductive: bool
    order_sensitive: bool


class MetricsRecord(_Record):
    """Percent. `interval95` is the half-width over episodes."""

    accuracy: float = Field(ge=0, le=100)
    interval95: float | None = Field(ge=0)
    pair_accuracy: float | None = Field(ge=0, le=100)
    pair_queries: int | None


class ParametersRecord(_Record):
    """Numbers of parameters."""

    trainable: int
    total: int


class Result(_Record):
    """One cell: everything about it that repeats."""

    schema_version: Literal[1] = SCHEMA
    config_hash: str = _SHA
    training_key: str | None
    method: MethodRecord
    dataset: DatasetRecord
    protocol: ProtocolRecord
    backbone: BackboneRecord
    traits: TraitsRecord
    metrics: MetricsRecord
    parameters: ParametersRecord
    predictions: str = _SHA

    @property
    def folder(self) -> Path:
        """Where it lies below `results/`."""
        return cell_folder(self.dataset.name, self.protocol.way, self.protocol.shot, self.method.name, self.config_hash)


def cell_folder(dataset: str, way: int, shot: int, method: str, config_hash: str) -> Path:
    return Path(dataset, f"{way}way_{shot}shot", f"{method}-{config_hash[:8]}")


def measure(prediction: np.ndarray, labels: np.ndarray, pair: np.ndarray | None) -> MetricsRecord:
    """Metrics of predictions `[E, Q]` with labels `[Q]` and pair outcomes `[E, Q]`."""
    accuracy = episode_accuracy(prediction, labels)
    interval = episode_interval(accuracy)
    pairs = pair_accuracy(pair) if pair is not None else (None, None)
    return MetricsRecord(
        accuracy=float(accuracy.mean()),
        interval95=None if np.isnan(interval) else interval,
        pair_accuracy=pairs[0],
        pair_queries=pairs[1],
    )


def pack_predictions(prediction: np.ndarray, pair: np.ndarray | None) -> bytes:
    """Predictions uint8 `[E, Q]` and pair outcomes as compressed npz, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, prediction=prediction, **({} if pair is None else {"pair": pair}))
    return buffer.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        ResultError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResultError(
            f"Cannot write {path} ({error.strerror}). Choose another folder with out= or work_dir=."
        ) from error


def to_json(record: dict) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write(root: Path, result: Result, predictions: bytes, cost: dict) -> Path:
    """Store a result below `root` (the folder `results/`); returns its folder."""
    folder = root / result.folder
    (folder / "result.json").unlink(missing_ok=True)  # never an old record beside new predictions
    write_atomically(folder / "predictions.npz", predictions)
    write_atomically(folder / "cost.json", to_json(cost))
    write_atomically(folder / "result.json", to_json(result.model_dump()))
    return folder


def read(folder: Path) -> tuple[Result, dict]:
    """Read and check one result.

    Returns:
        The record and its cost file.

    Raises:
        ResultError: names the file that is missing, damaged, of another schema, or at odds with the others.
    """
    path = folder / "result.json"
    data = _json(path)
    if isinstance(data, dict) and data.get("schema_version") != SCHEMA:
        version = data.get("schema_version")
        raise ResultError(f"{path} has schema version {version!r}; this fsar-bench reads {SCHEMA}. Run the cell again.")
    try:
        result = Result.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultError(f"{path} is damaged: {where}: {first['msg']}. Delete it and run the cell again.") from error
    if folder.parts[-3:] != result.folder.parts:
        raise ResultError(f"{path} describes {result.folder}, not the folder it lies in. Move it there, or delete it.")
    prediction, pair = _predictions(folder / "predictions.npz", result)
    labels = np.repeat(np.arange(result.protocol.way), result.protocol.query)
    if (
        prediction.shape != (result.protocol.episodes, len(labels))
        or measure(prediction, labels, pair) != result.metrics
    ):
        raise ResultError(
            f"{path} claims metrics that its predictions do not give. Delete the folder and run the cell again."
        )
    cost = _json(folder / "cost.json")
    if not isinstance(cost, dict):
        raise ResultError(f"{folder / 'cost.json'} is damaged. Delete the folder and run the cell again.")
    return result, cost


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    except ValueError as error:
        raise ResultError(f"{path} is damaged ({error}). Delete it and run the cell again.") from error


def _predictions(path: Path, result: Result) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    if hashlib.sha256(data).hexdigest() != result.predictions:
        raise ResultError(
            f"{path} is not the file that result.json names by its SHA-256. Delete the folder and run again."
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as store:
            return store["prediction"], store["pair"] if "pair" in store.files else None
    except Exception as error:
        raise ResultError(f"{path} is damaged ({error}). Delete the folder and run the cell again.") from error


def read_all(root: Path) -> list[tuple[Result, dict]]:
    """All results below `root`, sorted by folder.

    Raises:
        ResultError: for the first one that is damaged; nothing is skipped.
    """
    return [read(path.parent) for path in sorted(root.glob("*/*/*/result.json"))]
