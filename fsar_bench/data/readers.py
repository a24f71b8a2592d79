"""Readers: from files to frames. They run inside decode processes (see `decode`).

The reader `pyav` takes the frames that FFmpeg presents, of any file (see `video`). The others go through mmaction2's
transforms; they take the same frames of many files, and refuse those of which they take others.
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
from fsar_bench.io import read_whole
from fsar_bench.registry import READERS

AROUND = 2  # frames before and behind one with which it could be confused
TOLERANCE = 6.0  # mean difference of a frame, of 255, by rounding and interpolation
CLOSER = 0.25  # mean difference, of 255, by which another frame must be more like it

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

    These take other frames of many files than FFmpeg presents, without a word. So a clip is refused if its packets do not prove
    what its frames are, and if a frame is not the one that `VideoReader` takes.

    Args:
        opener: opens a file.
        decoder: decodes frames of an open file.

    Attributes:
        version: name and version of the decoder; part of results and cache keys.
    """

    version: str

    def __init__(self, opener: Transform, decoder: Transform) -> None:
        self._open = opener
        self._decode = decoder

    def open(self, path: str) -> dict[str, Any]:
        """Open a clip; the result has the number of its frames as `total_frames`.

        Raises:
            ValueError: its packets do not prove its frames, or it has another number of them than FFmpeg presents.
        """
        opened = VideoReader().open(path)["video"]
        if opened.doubt:  # it might also hang or crash
            raise ValueError(f"it might take other frames than FFmpeg presents: {opened.doubt}")
        clip = self._open({"filename": str(path), "start_index": 0})
        if clip["total_frames"] != opened.count:
            raise ValueError(f"it counts {clip['total_frames']} frames, FFmpeg presents {opened.count}")
        return {**clip, "video": opened}

    def read(self, clip: dict[str, Any], indices: np.ndarray, *, resize: int, crop: int | None) -> np.ndarray:
        """Decode frames of an opened clip; see `VideoReader.read`.

        Raises:
            RecountedError: FFmpeg presents another number of frames than `open` said.
            ValueError: these are not the frames that FFmpeg presents.
        """
        results = {**clip, "frame_inds": indices, "modality": "RGB", "num_clips": 1, "clip_len": len(indices)}
        frames = resize_and_crop(self._decode(results)["imgs"], resize, crop)
        try:
            number = misplaced(frames, indices, clip["video"], resize, crop)
        except RecountedError as error:
            raise ValueError(f"it counts {clip['total_frames']} frames, FFmpeg {clip['video'].count}") from error
        if number is not None:
            raise ValueError(f"it takes another frame for frame {number} that FFmpeg presents")
        return frames


def misplaced(frames: np.ndarray, indices: np.ndarray, clip: video.Video, resize: int, crop: int | None) -> int | None:
    """Which of some frames is not the one that FFmpeg presents in its place.

    Readers round and interpolate colours in other ways. So a frame is another one if it is more like one of those around its
    place, or like none of them.

    Args:
        frames: uint8 `[T, H, W, 3]`, as a reader resized and cropped them.
        indices: their places in the video, `[T]`.
        clip: the video.
        resize: pixels of the short side.
        crop: side of the centre crop in pixels; None for whole frames.

    Returns:
        Index of the first such frame; None where all are right.

    Raises:
        RecountedError: the video has another number of frames than its packets promised.
    """
    around = indices[:, None] + np.arange(-AROUND, AROUND + 1)
    wanted = np.unique(around.clip(0, clip.count - 1))
    presented = {
        number: resize_and_crop([frame], resize, crop)[0].astype(np.int16)
        for number, frame in zip(wanted.tolist(), clip.frames(wanted.tolist()), strict=False)
    }
    for frame, index in zip(frames, indices.tolist(), strict=True):
        near = [number for number in range(index - AROUND, index + AROUND + 1) if number in presented]
        if index not in near or presented[index].shape != frame.shape:
            return int(index)
        distance = {number: float(np.abs(presented[number] - frame).mean()) for number in near}
        if distance[index] > TOLERANCE or distance[index] > min(distance.values()) + CLOSER:
            return int(index)
    return None


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
        super().__init__(DecordInit(num_threads=1), DecordDecode())


@READERS.register_module(name="mmaction2_pyav")
class MMActionPyAVReader(TransformReader):
    """PyAV, through mmaction2: it keeps all frames of a clip in memory."""

    version = f"mmaction2 {version('mmaction2')}, {_name_and_version('av')}"

    def __init__(self) -> None:
        super().__init__(PyAVInit(), PyAVDecode())


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
        """Decode images of a folder; see `VideoReader.read`.

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
    data = read_whole(path)
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
