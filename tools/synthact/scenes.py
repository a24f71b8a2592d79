"""Backdrops: places made of a sky or wall, a ground and elements, all of them shared between several places."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from tools.synthact.drawing import Colour, Rng, disc, fill, gradient, hsv, jitter, line, noise, rectangle, shade
from tools.synthact.staging import Staging

Element = Callable[[np.ndarray, Rng, int, int], None]  # (image, rng, horizon, side)

# Uppers and grounds by the words that captions use; (top, bottom) colours.
UPPERS: dict[str, tuple[Colour, Colour]] = {
    "a blue sky": ((120, 180, 235), (205, 228, 242)),
    "a grey sky": ((110, 116, 124), (165, 170, 176)),
    "a night sky": ((8, 10, 38), (28, 32, 70)),
    "an evening sky": ((120, 70, 110), (245, 170, 100)),
    "a white wall": ((232, 228, 218), (214, 208, 196)),
    "a dark wall": ((46, 36, 58), (74, 58, 84)),
    "a brown wall": ((138, 104, 74), (112, 82, 58)),
    "a blue wall": ((44, 110, 150), (26, 84, 124)),
}
GROUNDS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((78, 150, 66), (52, 122, 46)),
    "sand": ((236, 208, 150), (216, 180, 118)),
    "snow": ((246, 249, 252), (216, 226, 240)),
    "water": ((50, 140, 185), (24, 96, 150)),
    "asphalt": ((112, 112, 118), (80, 80, 86)),
    "a wooden floor": ((202, 154, 98), (172, 124, 72)),
    "a red floor": ((196, 92, 60), (168, 72, 46)),
    "a grey floor": ((150, 150, 156), (112, 112, 120)),
    "earth": ((112, 92, 62), (84, 66, 44)),
    "ice": ((226, 240, 248), (196, 218, 236)),
}


def trees(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(int(rng.integers(4, 9))):
        x, tall = rng.uniform(0, side), rng.uniform(26, 60)
        rectangle(image, x - 2, horizon - tall / 2, x + 2, horizon + 4, jitter((90, 60, 40), rng))
        crown = [(x, horizon - tall), (x - tall / 4, horizon - 8), (x + tall / 4, horizon - 8)]
        fill(image, crown, jitter((35, 95, 45), rng))


def buildings(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    x = -int(rng.integers(0, 10))
    while x < side:
        wide, tall = int(rng.integers(14, 28)), int(rng.integers(22, max(24, horizon)))
        rectangle(image, x, horizon - tall, x + wide, horizon, hsv(rng.random(), 0.12, rng.uniform(0.35, 0.7)))
        for y in range(horizon - tall + 4, horizon - 4, 8):
            for window in range(x + 3, x + wide - 3, 6):
                lit = (250, 240, 170) if rng.random() < 0.5 else (60, 70, 90)
                rectangle(image, window, y, window + 2, y + 3, lit)
        x += wide


def mountains(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(4):
        x, tall = rng.uniform(0, side), rng.uniform(18, 44)
        fill(image, [(x, horizon - tall), (x - tall, horizon), (x + tall, horizon)], jitter((120, 125, 140), rng))
        cap = [(x, horizon - tall), (x - tall / 3, horizon - tall * 2 / 3), (x + tall / 3, horizon - tall * 2 / 3)]
        fill(image, cap, (245, 248, 252))


def shelves(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for y in range(4, horizon - 12, 18):
        rectangle(image, 0, y + 14, side, y + 17, (95, 60, 35))
        x = 0
        while x < side:
            wide = int(rng.integers(3, 8))
            rectangle(
                image,
                x,
                y + int(rng.integers(0, 5)),
                x + wide - 1,
                y + 14,
                hsv(rng.random(), 0.6, rng.uniform(0.3, 0.8)),
            )
            x += wide


def bricks(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    colour = jitter((160, 88, 66), rng)
    for row, y in enumerate(range(0, horizon, 8)):
        for x in range(-12, side, 16):
            rectangle(image, x + 8 * (row % 2), y, x + 8 * (row % 2) + 14, y + 6, jitter(colour, rng, 10))


def fence(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    colour, step = jitter((200, 190, 170), rng), int(rng.integers(9, 14))
    for x in range(0, side, step):
        rectangle(image, x, horizon - 16, x + 4, horizon + 8, colour)
    for y in (horizon - 12, horizon - 2):
        rectangle(image, 0, y, side, y + 3, shade(colour, 0.85))


def net(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    low, high = horizon - 14, horizon + 10
    for x in range(0, side, 6):
        line(image, (x, low), (x, high), (235, 235, 235), 1)
    for y in range(low, high + 1, 5):
        line(image, (0, y), (side, y), (235, 235, 235), 1)


def lanes(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    colour = jitter((238, 238, 238), rng)
    for i in range(int(rng.integers(3, 6))):
        x = (i + rng.random()) * side / 5
        line(image, (x, horizon), (side / 2 + (x - side / 2) * 2.4, side), colour, 2)


def waves(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for y in np.linspace(horizon + 4, side - 4, int(rng.integers(4, 7))):
        x, phase = np.arange(0, side + 4, 4), rng.uniform(0, 6)
        points = np.int32(np.round(np.stack([x, y + 2 * np.sin(x * 0.25 + phase)], 1) * 8))
        cv2.polylines(image, [points], False, (228, 240, 246), 2, cv2.LINE_AA, 3)


def tiles(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    colour = jitter((120, 130, 140), rng)
    for i in range(1, 6):
        y = horizon + (side - horizon) * (i / 6) ** 1.5
        line(image, (0, y), (side, y), colour, 1)
    for x in range(-side, 2 * side, 14):
        line(image, (side / 2 + (x - side / 2) * 0.5, horizon), (x, side), colour, 1)


def lamps(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(int(rng.integers(12, 26))):
        colour = hsv(rng.random(), 0.75, 1.0)
        disc(image, rng.uniform(0, side), rng.uniform(0, 0.6) * side, rng.uniform(1.5, 4.5), colour)


def stars(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(int(rng.integers(18, 36))):
        disc(image, rng.uniform(0, side), rng.uniform(0, horizon), 0.8, (250, 250, 240))


def flowers(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(int(rng.integers(16, 34))):
        disc(image, rng.uniform(0, side), rng.uniform(horizon, side), rng.uniform(1, 3), hsv(rng.random(), 0.7, 0.95))


def stalks(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(70):
        x, y = rng.uniform(0, side), rng.uniform(horizon, side)
        line(image, (x, y), (x + rng.uniform(-2, 2), y - 9), jitter((226, 188, 80), rng), 2)


def sun(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    disc(image, rng.uniform(12, side - 12), rng.uniform(8, max(10, horizon * 0.5)), rng.uniform(7, 11), (252, 236, 140))


def rain(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(60):
        x, y = rng.uniform(0, side), rng.uniform(0, side)
        line(image, (x, y), (x - 2, y + 6), (196, 206, 220), 1)


def stones(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(int(rng.integers(10, 20))):
        x, y, grey = rng.uniform(0, side), rng.uniform(horizon, side), rng.uniform(90, 170)
        cv2.ellipse(
            image, (int(x), int(y)), (int(rng.integers(3, 8)), 3), 0, 0, 360, (grey, grey, grey), -1, cv2.LINE_AA
        )


def drapes(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    wave = 0.65 + 0.35 * np.sin(np.arange(side) * rng.uniform(0.35, 0.6) + rng.random() * 6)
    image[:horizon] = np.float32(jitter((165, 24, 34), rng)) * wave[None, :, None]


def ropes(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for y, colour in ((horizon - 28, (210, 40, 40)), (horizon - 17, (240, 240, 240)), (horizon - 6, (40, 60, 190))):
        line(image, (0, y), (side, y), colour, 3)


def hoop(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    x = rng.uniform(20, side - 20)
    rectangle(image, x - 14, 6, x + 14, 26, (245, 245, 245))
    cv2.ellipse(image, (int(x), 29), (8, 3), 0, 0, 360, (230, 90, 30), 2, cv2.LINE_AA)


def pins(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    middle = rng.uniform(34, side - 34)
    for i in range(6):
        x = int(middle - 25 + i * 10)
        cv2.ellipse(image, (x, horizon - 4), (3, 9), 0, 0, 360, (245, 245, 245), -1, cv2.LINE_AA)


def screens(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(4):
        x, y = rng.uniform(-6, side), horizon - rng.uniform(22, 36)
        rectangle(image, x, y, x + 22, y + 15, (28, 30, 36))
        rectangle(image, x + 2, y + 2, x + 20, y + 12, jitter((90, 140, 190), rng))


def cupboards(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for x in range(-4, side, 26):
        rectangle(image, x, 4, x + 24, 26, jitter((160, 112, 70), rng))
        rectangle(image, x, horizon - 20, x + 24, horizon, jitter((190, 195, 200), rng))


def weights(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(5):
        x, y, size = rng.uniform(4, side - 20), horizon + rng.uniform(-24, -4), rng.uniform(4, 7)
        line(image, (x, y), (x + 18, y), (60, 60, 66), 2)
        disc(image, x, y, size, (34, 34, 40))
        disc(image, x + 18, y, size, (34, 34, 40))


def bubbles(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(20):
        x, y = int(rng.integers(0, side)), int(rng.integers(0, side))
        cv2.circle(image, (x, y), int(rng.integers(2, 5)), (200, 238, 246), 1, cv2.LINE_AA)


def tents(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    for _ in range(2):
        x, size, colour = rng.uniform(14, side - 14), rng.uniform(14, 22), hsv(rng.random(), 0.6, 0.75)
        fill(image, [(x, horizon - size), (x - size, horizon + 4), (x + size, horizon + 4)], colour)
        fill(image, [(x, horizon - size), (x - 4, horizon + 4), (x + 4, horizon + 4)], shade(colour, 0.5))


def columns(image: np.ndarray, rng: Rng, horizon: int, side: int) -> None:
    step = int(rng.integers(20, 30))
    for x in range(int(rng.integers(0, 12)), side, step):
        rectangle(image, x, 4, x + 9, horizon, jitter((216, 208, 190), rng))
        rectangle(image, x - 2, 2, x + 11, 7, (190, 182, 165))


ELEMENTS: dict[str, Element] = {
    element.__name__: element
    for element in (
        trees, buildings, mountains, shelves, bricks, fence, net, lanes, waves, tiles, lamps, stars, flowers, stalks, sun,
        rain, stones, drapes, ropes, hoop, pins, screens, cupboards, weights, bubbles, tents, columns,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A place: which uppers, ground and elements it may show, how high its horizon is, and what people do there."""

    uppers: tuple[str, ...]
    ground: str
    horizon: float
    elements: tuple[str, ...]
    motions: tuple[str, ...]

    def seen(self, rng: Rng, staging: Staging) -> Place:
        """The place as one view shows it: one upper, and what the view lacks or has from elsewhere."""
        upper, ground = self.uppers[rng.integers(len(self.uppers))], self.ground
        if rng.random() < staging.swapped:
            upper = list(UPPERS)[rng.integers(len(UPPERS))]
        if rng.random() < staging.swapped:
            ground = list(GROUNDS)[rng.integers(len(GROUNDS))]
        elements = [name for name in self.elements if rng.random() >= staging.missing]
        if rng.random() < staging.foreign:
            elements.append(list(ELEMENTS)[rng.integers(len(ELEMENTS))])
        return Place((upper,), ground, self.horizon, tuple(dict.fromkeys(elements)), self.motions)


def backdrop(rng: Rng, view: Place, side: int) -> np.ndarray:
    """One view `[side, side, 3]` of a place: another light, colour cast and framing every time."""
    upper, ground = UPPERS[view.uppers[0]], GROUNDS[view.ground]
    horizon = int(side * np.clip(view.horizon + rng.uniform(-0.1, 0.1), 0.15, 0.9))
    parts = [gradient(jitter(upper[0], rng, 30), jitter(upper[1], rng, 30), horizon, side)]
    parts.append(gradient(jitter(ground[0], rng, 30), jitter(ground[1], rng, 30), side - horizon, side))
    image = np.concatenate(parts) * (0.88 + 0.12 * noise(rng, side, side)[..., None])
    image = np.ascontiguousarray(image, np.float32)
    for name in view.elements:
        ELEMENTS[name](image, rng, horizon, side)
    zoom = rng.uniform(1.0, 1.6)
    reach = side * (zoom - 1) / 2
    matrix = np.float32(
        [[zoom, 0, -reach + rng.uniform(-reach, reach)], [0, zoom, -reach + rng.uniform(-reach, reach) * 0.6]]
    )
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    image = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.clip(_cast(image, rng), 0, 255)


def _cast(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Another light: turn the hues a little, fade or deepen colours, darken or brighten."""
    angle, saturation = rng.uniform(-0.5, 0.5), rng.uniform(0.35, 1.1)
    grey = image.mean(-1, keepdims=True)
    cos, third = math.cos(angle), (1 - math.cos(angle)) / 3
    root = math.sqrt(1 / 3) * math.sin(angle)
    turn = np.float32(
        [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ]
    )
    return (grey + saturation * ((image - grey) @ turn.T)) * rng.uniform(0.55, 1.15) + rng.uniform(-12, 25)
