"""Augmentation of training clips: one crop, one flip and one colour jitter per clip, the same for all of its frames.

What is drawn depends on (seed, episode, place in the episode) and on the size of the frames alone: not on the number of decode
processes, on the cache, or on where a training was interrupted. Crop, flip and jitter have a generator each, so that switching
one of them on changes none of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from fsar_bench.errors import DataError
from fsar_bench.randomness import generator

Crop = Literal["center", "random", "resized", "multiscale"]
SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side, for width and height: the TSN family's
QUARTERS = (  # places of a crop, in quarters of the free width and height: corners, centre, sides, inner corners; TSN's 13
    (0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3),
)  # fmt: skip
TRIES = 10  # of a random area and ratio, before the largest crop at the centre is taken


class Box(NamedTuple):
    """A part of a frame, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Augmentation:
    """How a training clip is changed. Colours: brightness, contrast and saturation times 1 ± jitter, hue turned by ± jitter / 2.

    Attributes:
        crop: "center" and "random" take the crop's size at the centre or anywhere; "resized" takes a random area and ratio
            anywhere, "multiscale" one of the TSN family's scales and places, and both resize it to the crop's size.
        area: smallest share of a frame that "resized" takes; the largest is all of it.
        ratio: largest ratio of width and height, or its inverse, that "resized" takes.
        flip: probability of a mirrored clip.
        jitter: strength of the change of colours.
        grayscale: probability of a grey clip.
        squash: frames are squeezed to a square of their short side before the crop, so that their ratio is lost.
    """

    crop: Crop = "center"
    area: float = 0.08
    ratio: float = 4 / 3
    flip: float = 0.0
    jitter: float = 0.0
    grayscale: float = 0.0
    squash: bool = False

    @property
    def crop_alone(self) -> Augmentation:
        """The same crop, without a flip or a change of colours."""
        return replace(self, flip=0.0, jitter=0.0, grayscale=0.0)

    def apply(self, frames: np.ndarray, side: int, seed: tuple[int, ...]) -> np.ndarray:
        """Augment the frames of one clip.

        Args:
            frames: uint8 RGB `[T, H, W, 3]`, whole frames.
            side: of the crop in pixels.
            seed: (seed, indices...) of what is drawn.

        Returns:
            uint8 RGB `[T, side, side, 3]`.

        Raises:
            DataError: the frames are smaller than the crop.
        """
        if self.squash:
            frames = _resized(frames, min(frames.shape[1:3]))
        height, width = frames.shape[1:3]
        box = self.box(width, height, side, seed)
        out = _resized(frames[:, box.top : box.top + box.height, box.left : box.left + box.width], side)
        if self.is_flipped(seed):
            out = out[:, :, ::-1]
        return np.ascontiguousarray(self._recolour(out, seed))

    def box(self, width: int, height: int, side: int, seed: tuple[int, ...]) -> Box:
        """The part of a frame of `width` x `height` pixels that is taken; arguments as in `apply`.

        Raises:
            DataError: the frame is smaller than the crop.
        """
        if min(width, height) < side:
            raise DataError(f"its frames of {width} x {height} pixels are smaller than the crop of {side}")
        draw = generator(seed[0], "crop", *seed[1:])
        if self.crop == "center":
            return _centered(width, height, side, side)
        if self.crop == "random":
            left, top = draw.integers(0, [width - side + 1, height - side + 1])
            return Box(int(left), int(top), side, side)
        if self.crop == "multiscale":
            return _fixed(width, height, side, draw)
        return self._random_area(width, height, draw)

    def is_flipped(self, seed: tuple[int, ...]) -> bool:
        """Whether the clip is mirrored."""
        return bool(generator(seed[0], "flip", *seed[1:]).random() < self.flip)

    def _random_area(self, width: int, height: int, draw: np.random.Generator) -> Box:
        for _ in range(TRIES):
            area = width * height * draw.uniform(self.area, 1.0)
            ratio = math.exp(draw.uniform(-math.log(self.ratio), math.log(self.ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = draw.integers(0, [width - w + 1, height - h + 1])
                return Box(int(left), int(top), w, h)
        return _centered(width, height, min(width, round(height * self.ratio)), min(height, round(width * self.ratio)))

    def _recolour(self, frames: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Grey with a probability, then brightness, contrast, saturation and hue in random order."""
        draw = generator(seed[0], "colours", *seed[1:])
        is_grey = draw.random() < self.grayscale
        factors = draw.uniform(1 - self.jitter, 1 + self.jitter, 3)
        turn = draw.uniform(-self.jitter / 2, self.jitter / 2)
        order = draw.permutation(4)
        if not is_grey and not self.jitter:
            return frames
        height, width = frames.shape[1:3]
        colours = (
            np.ascontiguousarray(frames).reshape(-1, width, 3).astype(np.float32)
        )  # one picture: the frames in a column
        colours *= np.float32(1 / 255)
        if is_grey:
            colours = _grey(colours)
        if self.jitter:
            steps: list[Callable[[np.ndarray], np.ndarray]] = [
                lambda x: _bounded(x * np.float32(factors[0])),
                lambda x: _contrasted(x, factors[1], height),
                lambda x: _saturated(x, factors[2]),
                lambda x: _turned(x, turn),
            ]
            for number in order:
                colours = steps[number](colours)
        colours *= np.float32(255)
        recoloured: np.ndarray = np.rint(colours, out=colours).astype(np.uint8).reshape(frames.shape)
        return recoloured


def _centered(width: int, height: int, w: int, h: int) -> Box:
    return Box((width - w) // 2, (height - h) // 2, w, h)


def _fixed(width: int, height: int, side: int, draw: np.random.Generator) -> Box:
    """A crop whose sides are at most one scale apart, at one of the fixed places."""
    sides = [int(min(width, height) * scale) for scale in SCALES]
    sides = [side if abs(one - side) < 3 else one for one in sides]  # no resizing by a pixel or two
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    w, h = pairs[draw.integers(len(pairs))]
    right, down = QUARTERS[draw.integers(len(QUARTERS))]
    return Box(right * ((width - w) // 4), down * ((height - h) // 4), w, h)


def _resized(frames: np.ndarray, side: int) -> np.ndarray:
    if frames.shape[1:3] == (side, side):
        return frames
    import cv2

    sized = [cv2.resize(np.ascontiguousarray(frame), (side, side), interpolation=cv2.INTER_LINEAR) for frame in frames]
    return np.stack(sized)


def _bounded(colours: np.ndarray) -> np.ndarray:
    return np.clip(colours, 0, 1, out=colours)


def _grey(colours: np.ndarray) -> np.ndarray:
    """Luma of ITU-R 601 in all three channels; pictures here are float32 RGB `[H, W, 3]` in [0, 1]."""
    import cv2

    return cv2.cvtColor(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _contrasted(colours: np.ndarray, factor: float, height: int) -> np.ndarray:
    """Differences from the mean luma of each frame times `factor`; frames have `height` rows of the picture."""
    means = _grey(colours)[..., 0].reshape(-1, height * colours.shape[1]).mean(1, keepdims=True)
    changed = (colours * np.float32(factor)).reshape(len(means), -1)
    changed += np.float32(1 - factor) * means
    return _bounded(changed).reshape(colours.shape)


def _saturated(colours: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    return _bounded(cv2.addWeighted(colours, factor, _grey(colours), 1 - factor, 0))


def _turned(colours: np.ndarray, turn: float) -> np.ndarray:
    """Colours with their hue turned by a share of the whole circle."""
    import cv2

    hsv: np.ndarray = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    hue: np.ndarray = hsv[..., 0]  # in degrees
    hue += np.float32(360 * (turn % 1))
    hue[hue >= 360] -= 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
