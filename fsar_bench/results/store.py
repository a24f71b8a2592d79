"""Results: one record, one file of predictions and one cost file per cell. Imports no torch.

A result lies in `results/<dataset>/<way>way_<shot>shot/<method>-<hash8>/`: `result.json` (the same bytes for the same inputs),
`predictions.npz` (what was predicted for every query) and `cost.json` (times, memory, environment: what cannot repeat).
`result.json` is written last: a folder without it is not a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fsar_bench.errors import ResultError
from fsar_bench.io import to_json, write_atomically
from fsar_bench.results.metrics import episode_accuracy, episode_interval, pair_accuracy

SCHEMA = 1
_SHA = Field(pattern=r"^[0-9a-f]{64}$")
_NAME = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length=100)
TEXT_PATTERN = r"^[^<>\x00-\x1f\x7f]*$"  # one line without markup
_TEXT = Field(pattern=TEXT_PATTERN, max_length=300)
_COUNT = Field(ge=0, le=10**15)
_LARGEST_RECORD = 4 * 2**20  # bytes of a record; a real one has some 5 kB


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MethodRecord(_Record):
    """The method and its resolved config; `fitted` is what it chose on val, where it chose."""

    name: str = _NAME
    title: str = _TEXT
    paper: str = _TEXT
    config: dict[str, Any]
    train: dict[str, Any] | None
    fitted: dict[str, float | str] | None = None

    @field_validator("train")
    @classmethod
    def _seed_is_a_number(cls, train: dict[str, Any] | None) -> dict[str, Any] | None:
        seed = (train or {}).get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError("train.seed must be a whole number from 0")
        return train


class ProtocolRecord(_Record):
    """What was held identical."""

    name: str = _NAME
    split: str = _NAME
    way: int = Field(ge=2, le=255)
    shot: int = Field(ge=1, le=10**6)
    query: int = Field(ge=1, le=10**6)
    episodes: int = Field(ge=1, le=10**9)
    seed: int = _COUNT
    plan: str = _SHA
    realised: str = _SHA
    frames: int = _COUNT
    sampling: str = _NAME
    resize: int = _COUNT
    crop: int = _COUNT
    template: str = _TEXT
    group_disjoint: bool = False
    class_names: str = _SHA
    selection_split: str | None
    reader: str = _TEXT


class DatasetRecord(_Record):
    """The data."""

    name: str = _NAME
    title: str = _TEXT
    synthetic: bool
    list_hash: str = _SHA
    fingerprint: str = _SHA
    classes: int = Field(ge=2, le=10**5)
    clips: int = Field(ge=2, le=10**8)
    coverage: float = Field(ge=0, le=1)
    controls: list[str]


class BackboneRecord(_Record):
    """The encoder, its weights, and the mean and standard deviation that RGB values in 0..1 are normalised with."""

    name: str = _NAME
    model: str = _TEXT
    weights: str = _SHA
    pretraining: str = _TEXT
    activation: str = _TEXT
    precision: str = _TEXT
    mean: tuple[float, ...]
    std: tuple[float, ...]


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
    pair_queries: int | None = Field(ge=0, le=10**15)


class ParametersRecord(_Record):
    """Numbers of parameters."""

    trainable: int = _COUNT
    total: int = _COUNT


_COST = Field(ge=0, le=10**15)


class CostRecord(BaseModel):
    """What cannot repeat: seconds of each stage, videos encoded, memory in MB, and the environment."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    seconds: dict[str, Annotated[float, _COST]] = {}
    videos: Annotated[int, _COST] | None = None
    peak_memory_mb: dict[str, Annotated[float, _COST]] = {}


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


@dataclass(frozen=True)
class Stored:
    """A result, what it cost, and the folder that holds both and the predictions."""

    result: Result
    cost: CostRecord
    folder: Path

    @property
    def plan_file(self) -> Path:
        """Where the episodes as they were on that machine lie, beside `results/`."""
        return self.folder.parents[3] / "plans" / plan_name(self.result.protocol.realised)

    def right(self) -> np.ndarray:
        """Whether each query was predicted right, bool `[E, Q]`.

        Raises:
            ResultError: the predictions are missing or damaged.
        """
        return self.predictions() == labels(self.result)

    def predictions(self) -> np.ndarray:
        """Predicted label of each query, uint8 `[E, Q]`."""
        return _unpack(self.folder / "predictions.npz", _hashed(self.folder, self.result), self.result)[0]


def plan_name(realised: str) -> str:
    """File name of a plan by its realised hash."""
    return f"{realised[:16]}.npz"


def labels(result: Result) -> np.ndarray:
    """True label of each query of an episode, `[Q]`."""
    return np.repeat(np.arange(result.protocol.way), result.protocol.query)


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


def write(root: Path, result: Result, predictions: bytes, cost: dict) -> Path:
    """Store a result below `root` (the folder `results/`); returns its folder."""
    folder = root / result.folder
    (folder / "result.json").unlink(missing_ok=True)  # never an old record beside new predictions
    write_atomically(folder / "predictions.npz", predictions)
    write_atomically(folder / "cost.json", to_json(cost))
    write_atomically(folder / "result.json", to_json(result.model_dump()))
    return folder


def read(folder: Path, verified: set[str] | None = None) -> Stored:
    """Read and check one result: schema, place, the hash of its predictions, and the metrics that they give.

    Args:
        verified: results whose metrics were recomputed before, by `content_key`; this one is added to it.

    Raises:
        ResultError: names the file that is missing, damaged, of another schema, or at odds with the others.
    """
    path = folder / "result.json"
    text, data = _json(path)
    if isinstance(data, dict) and data.get("schema_version") != SCHEMA:
        version = data.get("schema_version")
        raise ResultError(f"{path} has schema version {version!r}; this fsar-bench reads {SCHEMA}. Run the cell again.")
    try:
        result = Result.model_validate(data)
    except ValidationError as error:
        raise ResultError(f"{path} is damaged: {_first(error)}. Delete it and run the cell again.") from error
    if folder.parts[-3:] != result.folder.parts:
        raise ResultError(f"{path} describes {result.folder}, not the folder it lies in. Move it there, or delete it.")
    packed = _hashed(folder, result)
    key = hashlib.sha256(text).hexdigest()
    if verified is None or key not in verified:
        prediction, pair = _unpack(folder / "predictions.npz", packed, result)
        if measure(prediction, labels(result), pair) != result.metrics:
            raise ResultError(
                f"{path} claims metrics that its predictions do not give. Delete the folder and run the cell again."
            )
        if verified is not None:
            verified.add(key)
    try:
        cost = CostRecord.model_validate(_json(folder / "cost.json")[1])
    except ValidationError as error:
        raise ResultError(
            f"{folder / 'cost.json'} is damaged: {_first(error)}. Delete the folder and run the cell again."
        ) from error
    return Stored(result, cost, folder)


def _first(error: ValidationError) -> str:
    """The first fault of a record: where, and what."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the record'}: {first['msg']}"


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _json(path: Path) -> tuple[bytes, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        if path.stat().st_size > _LARGEST_RECORD:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        data = path.read_bytes()
        return data, json.loads(data, parse_constant=_no_constant)
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is damaged ({error}). Delete it and run the cell again.") from error


def _hashed(folder: Path, result: Result) -> bytes:
    """The bytes of the predictions that a result names."""
    path = folder / "predictions.npz"
    try:
        fits = path.stat().st_size <= _largest_predictions(result) and path.is_file()
        data = path.read_bytes() if fits else b""
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    if hashlib.sha256(data).hexdigest() != result.predictions:
        raise ResultError(
            f"{path} is not the file that result.json names by its SHA-256. Delete the folder and run again."
        )
    return data


def _largest_predictions(result: Result) -> int:
    """Bytes that predictions and pair outcomes can have, packed."""
    return 2 * result.protocol.episodes * result.protocol.way * result.protocol.query + 2**16


def _unpack(path: Path, data: bytes, result: Result) -> tuple[np.ndarray, np.ndarray | None]:
    shape = (result.protocol.episodes, result.protocol.way * result.protocol.query)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.file_size > shape[0] * shape[1] + 4096 for entry in archive.infolist()):
                raise ValueError(f"it unpacks to more than the {shape[0]} x {shape[1]} predictions of this protocol")
        with np.load(io.BytesIO(data), allow_pickle=False) as store:
            prediction, pair = store["prediction"], store["pair"] if "pair" in store.files else None
        for array in (prediction, *([] if pair is None else [pair])):
            if array.shape != shape or array.dtype != np.uint8:
                raise ValueError(f"it holds {array.dtype} {array.shape}, not uint8 {shape}")
        if prediction.max() >= result.protocol.way:
            raise ValueError(f"it predicts the label {prediction.max()} of {result.protocol.way} classes")
        if pair is not None and (not np.isin(pair, (0, 1, 2, 255)).all() or (pair == 255).all()):
            raise ValueError("it holds pair outcomes that do not exist")
    except Exception as error:
        raise ResultError(f"{path} is damaged ({error}). Delete the folder and run the cell again.") from error
    return prediction, pair


def read_all(root: Path, cache: Path | None = None) -> list[Stored]:
    """All results below `root`, sorted by folder.

    Args:
        cache: folder that remembers, by content, which results gave the metrics they claim.

    Raises:
        ResultError: for the first one that is damaged; nothing is skipped.
    """
    path = cache and cache / "verified.json"
    verified = _remembered(path)
    before = len(verified)
    out = [read(found.parent, verified) for found in sorted(root.glob("*/*/*/result.json"))]
    if path and len(verified) > before:
        remember(path, sorted(verified))
    return out


def remember(path: Path, data: dict | list) -> None:
    """Write a file of a cache; where that cannot be, it is computed again next time."""
    with contextlib.suppress(ResultError):
        write_atomically(path, to_json(data))


def _remembered(path: Path | None) -> set[str]:
    if path is None or not path.is_file():
        return set()
    try:
        return set(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return set()  # damaged: every result is checked again
