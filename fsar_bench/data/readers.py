"""Readers: files to frames, over mmaction2's transforms. They run inside decode processes (see `decode`)."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
from mmaction.datasets.transforms import CenterCrop, DecordDecode, DecordInit, PyAVDecode, PyAVInit, Resize

from fsar_bench.registry import READERS


class TransformReader:
    """A reader made of an opening and a decoding transform of mmaction2.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version: str

    def __init__(self, opener: object, decoder: object) -> None:
        self._open, self._decode = opener, decoder

    def open(self, path: Path) -> dict:
        """Open a clip; the result knows `total_frames`."""
        return self._open({"filename": str(path), "start_index": 0})

    def read(self, clip: dict, indices: np.ndarray, *, resize: int, crop: int) -> np.ndarray:
        """Frames uint8 RGB `[len(indices), crop, crop, 3]`: short side to `resize` (bilinear), then the centre crop."""
        clip = self._decode(
            {**clip, "frame_inds": indices, "modality": "RGB", "num_clips": 1, "clip_len": len(indices)}
        )
        clip = CenterCrop(crop)(Resize(scale=(-1, resize))(clip))
        return np.stack(clip["imgs"]).astype(np.uint8)


@READERS.register_module(name="decord")
class DecordReader(TransformReader):
    """decord: the default reader."""

    version = f"decord {version('decord')}"

    def __init__(self) -> None:
        super().__init__(DecordInit(num_threads=1), DecordDecode())


@READERS.register_module(name="pyav")
class PyAVReader(TransformReader):
    """PyAV (FFmpeg): reads what decord cannot, such as AV1."""

    version = f"av {version('av')}"

    def __init__(self) -> None:
        super().__init__(PyAVInit(), PyAVDecode())
