"""Readers: files to frames, over mmaction2's transforms. They run inside decode processes (see `decode`)."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from mmaction.datasets.transforms import CenterCrop, DecordDecode, DecordInit, PyAVDecode, PyAVInit, Resize

from fsar_bench.io import IMAGE_SUFFIXES
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


@READERS.register_module(name="images")
class ImageReader(TransformReader):
    """Folders of images, one a frame, in the order of the numbers in their names; taken for clips that are folders."""

    version = f"images (opencv {cv2.__version__})"

    def __init__(self) -> None:
        super().__init__(None, None)

    def open(self, path: Path) -> dict:
        files = [file for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        files.sort(key=lambda file: ([int(number) for number in re.findall(r"\d+", file.stem)], file.name))
        return {"files": files, "total_frames": len(files)}

    def read(self, clip: dict, indices: np.ndarray, *, resize: int, crop: int) -> np.ndarray:
        images = {int(i): _image(clip["files"][i]) for i in np.unique(indices)}
        frames = [images[int(i)] for i in indices]
        shape = frames[0].shape[:2]
        if any(frame.shape[:2] != shape for frame in frames):
            raise ValueError("its images differ in size")
        results = {"imgs": frames, "img_shape": shape, "original_shape": shape, "modality": "RGB"}
        return np.stack(CenterCrop(crop)(Resize(scale=(-1, resize))(results))["imgs"]).astype(np.uint8)


def _image(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path.name} is not an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
