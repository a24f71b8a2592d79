"""Readers: from files to frames. They run inside decode processes (see `decode`).

The reader `pyav` takes the frames that FFmpeg presents, of any file (see `video`). The others go through mmaction2's
transforms; they take the same frames of most files, and refuse those of which they might take others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from mmaction.datasets.transforms import CenterCrop, DecordDecode, DecordInit, PyAVDecode, PyAVInit, Resize

from fsar_bench.data import video
from fsar_bench.data.decode import RecountedError
from fsar_bench.data.images import frame_files
from fsar_bench.registry import READERS

Transform = Callable[[dict[str, Any]], dict[str, Any]]  # from mmaction2's results to more of them


def _name_and_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # decord has no wheels for some platforms; the other readers work there
        return f"{package} (not installed)"


@READERS.register_module(name="pyav")
class VideoReader:
    """The default reader: the frames that FFmpeg presents, decoded with PyAV.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version = video.VERSION

    def open(self, path: str) -> dict[str, Any]:
        """Open a clip; the result has the number of its frames as `total_frames`.

        Raises:
            ValueError: it is no video that FFmpeg can decode, or it is cut off.
        """
        try:
            clip = video.Video(path)
        except av.FFmpegError as error:
            raise ValueError(f"FFmpeg: {error.strerror}") from error
        return {"video": clip, "total_frames": clip.count}

    def read(self, clip: dict[str, Any], indices: np.ndarray, *, resize: int, crop: int | None) -> np.ndarray:
        """Decode frames of an opened clip.

        Args:
            clip: result of `open`.
            indices: frames, counted from 0.
            resize: pixels of the short side (bilinear).
            crop: side of the centre crop in pixels; None keeps whole frames.

        Returns:
            uint8 RGB `[len(indices), crop, crop, 3]`, or with the size of whole frames.

        Raises:
            RecountedError: the clip has another number of frames than `open` said.
            ValueError: frames that cannot be decoded, or turned upright.
        """
        chosen, places = np.unique(indices, return_inverse=True)
        try:
            frames = [resize_and_crop([frame], resize, crop) for frame in clip["video"].frames(chosen.tolist())]
        except RecountedError:
            clip["total_frames"] = clip["video"].count
            raise
        if len(frames) < len(chosen):
            raise ValueError(f"only {len(frames)} of {len(chosen)} frames decode")
        return np.concatenate(frames)[places]


class TransformReader:
    """A reader that consists of two transforms of mmaction2.

    They take frames by time stamps or by the order in the file, so a clip whose packets do not prove that this is the order in
    which FFmpeg presents them is refused.

    Args:
        opener: opens a file.
        decoder: decodes frames of an open file.
        turns: whether it turns frames upright.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version: str

    def __init__(self, opener: Transform, decoder: Transform, *, turns: bool) -> None:
        self._open = opener
        self._decode = decoder
        self._turns = turns

    def open(self, path: str) -> dict[str, Any]:
        """Open a clip; the result has the number of its frames as `total_frames`.

        Raises:
            ValueError: it might take other frames than FFmpeg presents.
        """
        count = self._presented(path)
        clip = self._open({"filename": str(path), "start_index": 0})
        if clip["total_frames"] != count:
            raise ValueError(f"it would take {clip['total_frames']} frames for the {count} that FFmpeg presents")
        return clip

    def _presented(self, path: str) -> int:
        """Number of frames that FFmpeg presents; `ValueError` where the packets do not prove that these are taken."""
        with video.Video(path) as clip:
            if doubt := self._doubt(clip):
                raise ValueError(f"it might take other frames than FFmpeg presents: {doubt}")
            return clip.count

    def _doubt(self, clip: video.Video) -> str:
        """Why other frames might be taken of a clip; empty where they are not."""
        if clip.streams > 1:
            return f"it has {clip.streams} video streams"
        if clip.doubt:
            return clip.doubt
        if not clip.is_closed:
            return "decoding cannot begin at each of its key frames"
        if clip.codec == "mpeg4" and clip.has_b_frames:
            return "it has B-frames of MPEG-4"
        turn = "" if self._turns else clip.turn()
        return f"it is to be turned {turn}" if turn else ""

    def read(self, clip: dict[str, Any], indices: np.ndarray, *, resize: int, crop: int | None) -> np.ndarray:
        """Decode frames of an opened clip; see `VideoReader.read`."""
        results = {**clip, "frame_inds": indices, "modality": "RGB", "num_clips": 1, "clip_len": len(indices)}
        return resize_and_crop(self._decode(results)["imgs"], resize, crop)


def resize_and_crop(images: list[np.ndarray], resize: int, crop: int | None) -> np.ndarray:
    """Resize images and crop their centre.

    Args:
        images: uint8 RGB `[H, W, 3]`, of one size.
        resize: pixels of the short side (bilinear).
        crop: side of the crop in pixels; None keeps whole images.

    Returns:
        uint8 `[len(images), crop, crop, 3]`, or with the size of whole images.
    """
    shape = images[0].shape[:2]
    results = {"imgs": images, "img_shape": shape, "original_shape": shape, "modality": "RGB"}
    results = Resize(scale=(-1, resize))(results)
    if crop is not None:
        results = CenterCrop(crop)(results)
    return np.stack(results["imgs"]).astype(np.uint8)


@READERS.register_module(name="decord")
class DecordReader(TransformReader):
    """decord, through mmaction2."""

    version = _name_and_version("decord")

    def __init__(self) -> None:
        super().__init__(DecordInit(num_threads=1), DecordDecode(), turns=True)


@READERS.register_module(name="mmaction2_pyav")
class MMActionPyAVReader(TransformReader):
    """PyAV, through mmaction2: it keeps all frames of a clip in memory."""

    version = f"mmaction2 {version('mmaction2')}, {_name_and_version('av')}"

    def __init__(self) -> None:
        super().__init__(PyAVInit(), PyAVDecode(), turns=False)


@READERS.register_module(name="images")
class ImageReader:
    """Folders of images, one per frame, in the order of the numbers in their names; used for clips that are folders.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version = f"images (opencv {cv2.__version__})"

    def open(self, path: str) -> dict[str, Any]:
        """List the images of a folder; the result has their number as `total_frames`."""
        files = frame_files(Path(path))
        return {"files": files, "total_frames": len(files)}

    def read(self, clip: dict[str, Any], indices: np.ndarray, *, resize: int, crop: int | None) -> np.ndarray:
        """Decode images of a folder.

        Args:
            clip: result of `open`.
            indices: images, counted from 0.
            resize: pixels of the short side (bilinear).
            crop: side of the centre crop in pixels; None keeps whole frames.

        Returns:
            uint8 RGB `[len(indices), crop, crop, 3]`, or with the size of whole frames.

        Raises:
            ValueError: a file is no image, or not of the size of the others; names it.
        """
        images = {int(i): _image(clip["files"][i]) for i in np.unique(indices)}
        frames = [images[int(i)] for i in indices]
        shape = frames[0].shape[:2]
        if any(frame.shape[:2] != shape for frame in frames):
            raise ValueError(_odd_size({clip["files"][i].name: image.shape[:2] for i, image in images.items()}))
        return resize_and_crop(frames, resize, crop)


def _image(path: Path) -> np.ndarray:
    data = path.read_bytes()
    if not data:
        raise ValueError(f"its image {path.name} is empty (0 bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # such as a size beyond OpenCV's limit
        raise ValueError(f"its image {path.name} cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError(f"its file {path.name} is not an image, or is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _odd_size(shapes: dict[str, tuple[int, ...]]) -> str:
    """Which image of a folder differs in size from the most."""
    usual = Counter(shapes.values()).most_common(1)[0][0]
    name, odd = next((name, shape) for name, shape in shapes.items() if shape != usual)
    return (
        f"its images differ in size: {name} has {odd[1]} x {odd[0]} pixels, others have {usual[1]} x {usual[0]}. Remove it if "
        "it is no frame"
    )
