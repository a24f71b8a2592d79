"""Predictions as a file: packed, and unpacked with every check that their protocol allows. Imports no torch."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from fsar_bench.errors import ResultError
from fsar_bench.results.metrics import episode_accuracy, episode_interval, pair_accuracy
from fsar_bench.results.record import MetricsRecord, Result
from fsar_bench.storage.archives import Kind, open_arrays

FILE = "predictions.npz"
_ROWS = 10_000  # episodes that are counted at a time


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
    arrays = {"prediction": prediction} if pair is None else {"prediction": prediction, "pair": pair}
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes keywords for its option
    return buffer.getvalue()


def packed_predictions(folder: Path, result: Result) -> bytes:
    """The bytes of the predictions that a result names.

    Raises:
        ResultError: the file is missing, or not the one that the result names.
    """
    path = folder / FILE
    try:
        fits = path.stat().st_size <= _largest(result) and path.is_file()
        data = path.read_bytes() if fits else b""
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}). Run the cell again.") from error
    if hashlib.sha256(data).hexdigest() != result.predictions:
        raise ResultError(
            f"{path} is not the file that result.json names by its SHA-256. Delete the folder and run again."
        )
    return data


def unpack_predictions(path: Path, data: bytes, result: Result) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions uint8 `[E, Q]` and pair outcomes `[E, Q]` (None where there are no pairs).

    Raises:
        ResultError: the arrays are not predictions of the result's protocol.
    """
    p = result.protocol
    shape = (p.episodes, p.way * p.query)
    try:
        with open_arrays(data, _kinds(result)) as file:
            for name, found in file.shapes.items():
                if found != shape:
                    raise ValueError(f"{name} holds uint8 {found}, not uint8 {shape}")
            prediction = file.read("prediction", "|u1")
            pair = file.read("pair", "|u1") if "pair" in file.shapes else None
        if prediction.max() >= p.way:
            raise ValueError(f"it predicts the label {prediction.max()} of {p.way} classes")
        if pair is not None and not _are_outcomes(pair):
            raise ValueError("it holds pair outcomes that do not exist")
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} is damaged ({error}). Delete the folder and run the cell again.") from error
    return prediction, pair


def _kinds(result: Result) -> dict[str, Kind]:
    """What predictions of a protocol may hold."""
    p = result.protocol
    most = p.episodes * p.way * p.query
    return {"prediction": Kind("|u1", 2, most), "pair": Kind("|u1", 2, most, is_needed=False)}


def _are_outcomes(pair: np.ndarray) -> bool:
    """Whether pair outcomes are some of 0, 1, 2 and 255, and not all 255."""
    count = np.bincount(pair.ravel()[:0], minlength=256)
    for start in range(0, len(pair), _ROWS):
        count += np.bincount(pair[start : start + _ROWS].ravel(), minlength=256)
    return bool(count[[0, 1, 2]].sum() and count[[0, 1, 2, 255]].sum() == pair.size)


def _largest(result: Result) -> int:
    """Bytes that predictions and pair outcomes can have, packed."""
    return 2 * result.protocol.episodes * result.protocol.way * result.protocol.query + 2**16
