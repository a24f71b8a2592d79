"""Colours, textures and sprites: what the programs of SynthAct draw with. Images are float32 RGB `[H, W, 3]` in 0..255."""

from __future__ import annotations

import math

import cv2
import numpy as np

cv2.setNumThreads(1)  # thread count must not change a pixel

SIDE = 112  # frames are SIDE x SIDE pixels
SPRITE = 128  # sprites are drawn at twice this size and reduced

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 40, 40),
    "green": (50, 150, 60),
    "blue": (45, 80, 190),
    "yellow": (225, 195, 50),
    "orange": (230, 125, 40),
    "purple": (125, 60, 160),
    "white": (235, 235, 235),
    "black": (35, 35, 40),
    "pink": (230, 130, 165),
    "brown": (125, 80, 45),
    "grey": (135, 135, 140),
    "teal": (40, 150, 150),
}
SKINS = [(238, 200, 170), (222, 170, 135), (190, 130, 95), (140, 90, 62), (95, 62, 45)]

Colour = tuple[int, int, int]
Rng = np.random.Generator


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a colour given as hue, saturation and value in 0..1."""
    pixel = np.uint8([[[int(hue * 180) % 180, int(255 * np.clip(saturation, 0, 1)), int(255 * np.clip(value, 0, 1))]]])
    return tuple(int(x) for x in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])


def jitter(colour: Colour, rng: Rng, amount: int = 18) -> Colour:
    return tuple(int(np.clip(x + rng.integers(-amount, amount + 1), 0, 255)) for x in colour)


def shade(colour: Colour, factor: float, offset: float = 0.0) -> Colour:
    return tuple(int(np.clip(x * factor + offset, 0, 255)) for x in colour)


def noise(rng: Rng, height: int, width: int, octaves: tuple[int, ...] = (4, 8, 16, 32)) -> np.ndarray:
    """Smooth value noise `[height, width]` in 0..1."""
    total, amplitude = np.zeros((height, width), np.float32), 1.0
    for cells in octaves:
        grid = rng.random((max(2, cells * height // max(height, width) + 1), cells + 1)).astype(np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= 0.55
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def gradient(top: Colour, bottom: Colour, height: int, width: int) -> np.ndarray:
    t = np.linspace(0, 1, max(height, 1), dtype=np.float32)[:, None, None]
    return np.repeat((1 - t) * np.float32(top) + t * np.float32(bottom), width, 1)[:height]


def random_backdrop(rng: Rng, side: int) -> np.ndarray:
    """A backdrop `[side, side, 3]` that says nothing of the class: wall and, mostly, a table."""
    first = hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.25, 0.95))
    second = hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.9))
    grain = noise(rng, side, side)[..., None]
    yy, xx = np.mgrid[:side, :side]
    kind = int(rng.integers(5))
    if kind == 0:
        image = grain * np.float32(first) + (1 - grain) * np.float32(second)
    elif kind == 1:
        period, angle = rng.integers(8, 26), rng.uniform(0, np.pi)
        mask = np.sin((xx * np.cos(angle) + yy * np.sin(angle)) * 2 * np.pi / period) > rng.uniform(-0.5, 0.5)
        mixed = 0.75 * np.float32(first) + 0.25 * np.float32(second)
        image = np.where(mask[..., None], np.float32(first), mixed) * (0.8 + 0.2 * grain)
    elif kind == 2:
        cell = int(rng.integers(10, 26))
        mask = (((xx // cell) + (yy // cell)) % 2)[..., None]
        mixed = 0.7 * np.float32(first) + 0.3 * np.float32(second)
        image = (mask * np.float32(first) + (1 - mask) * mixed) * (0.8 + 0.2 * grain)
    elif kind == 3:
        wave = np.sin((yy + 6 * grain[..., 0]) * rng.uniform(0.25, 0.7))[..., None] * 0.5 + 0.5
        image = np.float32(first) * (0.75 + 0.25 * wave)
    else:
        image = gradient(first, second, side, side) * (0.9 + 0.1 * grain)
    horizon = int(side * rng.uniform(0.45, 0.8))
    if rng.random() < 0.7:
        table = hsv(rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.9))
        light = np.linspace(0.8, 1.05, side - horizon, dtype=np.float32)[:, None, None]
        image[horizon:] = np.float32(table) * (0.75 + 0.25 * noise(rng, side - horizon, side)[..., None]) * light
    return np.clip(image, 0, 255).astype(np.float32)


class Sprite:
    """A picture with transparency, drawn in a 256 x 256 square and pasted at any place, size and angle."""

    def __init__(self) -> None:
        self.pixels = np.zeros((2 * SPRITE, 2 * SPRITE, 4), np.uint8)

    def box(self, x0: int, y0: int, x1: int, y1: int, colour: Colour) -> None:
        cv2.rectangle(self.pixels, (x0, y0), (x1, y1), (*colour, 255), -1, cv2.LINE_AA)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [np.int32(points)], (*colour, 255), cv2.LINE_AA)

    def disc(self, x: int, y: int, radius: int, colour: Colour, width: int = -1) -> None:
        cv2.circle(self.pixels, (x, y), radius, (*colour, 255), width, cv2.LINE_AA)

    def oval(
        self,
        centre: tuple[int, int],
        axes: tuple[int, int],
        colour: Colour,
        *,
        angle: float = 0,
        arc: tuple[int, int] = (0, 360),
        width: int = -1,
    ) -> None:
        cv2.ellipse(self.pixels, centre, axes, angle, arc[0], arc[1], (*colour, 255), width, cv2.LINE_AA)

    def stroke(self, start: tuple[int, int], end: tuple[int, int], colour: Colour, width: int) -> None:
        cv2.line(self.pixels, start, end, (*colour, 255), width, cv2.LINE_AA)

    def finish(self, rng: Rng) -> np.ndarray:
        """Shade the sprite along one axis and reduce it to `[SPRITE, SPRITE, 4]` float32."""
        light = np.linspace(1.12, 0.82, 2 * SPRITE, dtype=np.float32)
        light = light[None, :, None] if rng.random() < 0.5 else light[:, None, None]
        shaded = np.clip(self.pixels[..., :3].astype(np.float32) * light, 0, 255)
        self.pixels[..., :3] = shaded
        return cv2.resize(self.pixels, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA).astype(np.float32)


def paste(
    image: np.ndarray,
    sprite: np.ndarray,
    x: float,
    y: float,
    size: float,
    *,
    angle: float = 0.0,
    flip: bool = False,
    pivot: tuple[float, float] = (0.5, 0.5),
) -> None:
    """Blend `sprite` into `image` with its pivot at (x, y), `size` pixels across, turned by `angle` degrees clockwise."""
    scale, turn, sign = size / SPRITE, math.radians(angle), -1.0 if flip else 1.0
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    px, py = SPRITE * pivot[0], SPRITE * pivot[1]
    matrix = np.float32(
        [[cos * sign, -sin, x - (cos * sign * px - sin * py)], [sin * sign, cos, y - (sin * sign * px + cos * py)]]
    )
    height, width = image.shape[:2]
    warped = cv2.warpAffine(sprite, matrix, (width, height), flags=cv2.INTER_LINEAR)
    mask = warped[..., 3:4] * (1 / 255.0)
    image *= 1 - mask
    image += warped[..., :3] * mask


def fill(image: np.ndarray, points: list[tuple[float, float]], colour: Colour) -> None:
    """A filled polygon with sub-pixel corners."""
    cv2.fillPoly(image, [np.int32(np.round(np.float32(points) * 8))], colour, cv2.LINE_AA, 3)


def rectangle(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    fill(image, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)


def disc(image: np.ndarray, x: float, y: float, radius: float, colour: Colour) -> None:
    cv2.circle(image, (int(x * 8), int(y * 8)), max(1, int(radius * 8)), colour, -1, cv2.LINE_AA, 3)


def line(image: np.ndarray, start: tuple[float, float], end: tuple[float, float], colour: Colour, width: int) -> None:
    p, q = (int(start[0] * 8), int(start[1] * 8)), (int(end[0] * 8), int(end[1] * 8))
    cv2.line(image, p, q, colour, width, cv2.LINE_AA, 3)
