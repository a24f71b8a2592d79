"""Programs in which things, light or the camera change: a state u in 0..1, played forwards or, as the reverse, backwards."""

from __future__ import annotations

import math

import numpy as np

from tools.synthact.drawing import COLOURS, SIDE, disc, fill, jitter, line, paste, rectangle, shade
from tools.synthact.stage import Camera, Draw, Stage
from tools.synthact.things import OBJECTS, object_sprite


def inflate(stage: Stage) -> Draw:
    stage.say("balloon")

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, y, radius = stage.cx, stage.cy - 6, 6 + 30 * u
        line(image, (x, y + radius), (x + 4, SIDE), (90, 90, 90), 1)
        disc(image, x, y, radius, stage.colour1)
        disc(image, x - radius * 0.3, y - radius * 0.35, radius * 0.2, shade(stage.colour1, 1.2, 50))

    return draw


def light(stage: Stage) -> Draw:
    sprite = stage.thing()

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        paste(image, sprite, stage.cx, stage.cy, stage.size * 1.5)
        image *= 0.1 + 0.9 * u

    return draw


def paint(stage: Stage) -> Draw:
    stage.say("board")
    width, height = stage.rng.uniform(60, 84), stage.rng.uniform(48, 66)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x0, y0 = stage.cx - width / 2, stage.cy - height / 2
        rectangle(image, x0, y0, x0 + width, y0 + height, (238, 236, 228))
        edge = x0 + width * u
        rectangle(image, x0, y0, max(edge, x0 + 1), y0 + height, stage.colour1)
        stage.hold(image, edge, stage.cy, reach=-8, side=-1)

    return draw


def tower(stage: Stage) -> Draw:
    stage.words.append(f"{stage.name1} blocks")
    width, height, count = stage.rng.uniform(24, 36), stage.rng.uniform(11, 13), 7
    lean = stage.rng.uniform(-3, 3, count)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        laid = u * count
        for i in range(count):
            if laid < i:
                break
            fallen = min(1.0, laid - i)
            x, y = stage.cx + lean[i], 104 - i * height - (1 - fallen) * 16
            colour = stage.colour1 if i % 2 else shade(stage.colour1, 0.75)
            rectangle(image, x - width / 2, y - height, x + width / 2, y, colour)

    return draw


def stretch(stage: Stage) -> Draw:
    stage.say("elastic band")
    thickness = stage.rng.uniform(26, 34)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        half, thin = 8 + 30 * u, thickness * (1 - 0.6 * u)
        rectangle(image, stage.cx - half, stage.cy - thin / 2, stage.cx + half, stage.cy + thin / 2, stage.colour1)
        for side in (-1, 1):
            stage.hold(image, stage.cx + side * half, stage.cy, reach=-3, side=-side)

    return draw


def flag(stage: Stage) -> Draw:
    stage.say("flag")
    side, width, height = stage.side, stage.rng.uniform(34, 44), stage.rng.uniform(20, 28)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, y = stage.cx - side * 18, 80 - 66 * u
        line(image, (x, 6), (x, SIDE), (210, 210, 215), 3)
        wave = [(x + side * width * i / 6, y + 2.5 * math.sin(i + 9 * u)) for i in range(7)]
        fill(image, wave + [(px, py + height) for px, py in reversed(wave)], stage.colour1)
        band = [(px, py + height * 0.36) for px, py in wave], [(px, py + height * 0.64) for px, py in reversed(wave)]
        fill(image, band[0] + band[1], stage.colour2)

    return draw


def curtain(stage: Stage) -> Draw:
    stage.words.append(f"{stage.name1} curtains")
    folds = stage.rng.uniform(0.5, 0.9)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        rectangle(image, 10, 12, SIDE - 10, 96, (190, 215, 240))
        disc(image, 76, 34, 9, (250, 235, 150))
        reach = 48 * (1 - u) + 6
        for side, wall in ((1, 8.0), (-1, SIDE - 8.0)):
            rectangle(image, min(wall, wall + side * reach), 8, max(wall, wall + side * reach), 100, stage.colour1)
            for k in range(1, 6):
                x = wall + side * reach * k / 6
                line(image, (x, 8), (x, 100), shade(stage.colour1, folds), 1)
        line(image, (4, 8), (SIDE - 4, 8), (90, 60, 40), 4)

    return draw


def grow(stage: Stage) -> Draw:
    stage.say("flower")
    bend = stage.rng.uniform(-10, 10)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        rectangle(image, stage.cx - 14, 88, stage.cx + 14, 108, (150, 90, 55))
        height = 6 + 58 * u
        top = (stage.cx + bend * u, 88 - height)
        line(image, (stage.cx, 88), top, (50, 140, 60), 4)
        for k in (0.35, 0.6):
            if u > k:
                side = 1 if k < 0.5 else -1
                at = (stage.cx + bend * u * k, 88 - height * k)
                line(image, at, (at[0] + side * 16 * (u - k + 0.3), at[1] - 6), (50, 140, 60), 5)
        petal = 2 + 8 * u
        for k in range(6):
            x, y = top[0] + petal * math.cos(k * math.pi / 3), top[1] + petal * math.sin(k * math.pi / 3)
            disc(image, x, y, petal * 0.7, stage.colour1)
        disc(image, top[0], top[1], petal * 0.6, stage.colour2)

    return draw


def sunrise(stage: Stage) -> Draw:
    stage.words.append(f"{stage.name1} hills")
    hills = np.cumsum(stage.rng.normal(0, 3, 9))

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        night, day = np.float32((15, 18, 60)), np.float32((150, 205, 245))
        image[:] = image * 0.15 + 0.85 * (night + (day - night) * u)
        disc(image, stage.cx + 2 * stage.dx, 100 - 78 * u, 11, (250, 225, 90))
        ridge = [(SIDE * i / 8, 76 + float(hills[i])) for i in range(9)]
        fill(image, [*ridge, (SIDE, SIDE), (0, SIDE)], shade(stage.colour1, 0.35 + 0.65 * u))

    return draw


def carpet(stage: Stage) -> Draw:
    stage.say("carpet")
    height = stage.rng.uniform(30, 44)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        start, length = stage.cx - 46, 84 * u
        end = start + length
        rectangle(image, start, stage.cy - height / 2, end, stage.cy + height / 2, stage.colour1)
        for k in range(1, 6):
            x = start + 84 * k / 6
            if x - start < length:
                line(image, (x, stage.cy - height / 2), (x, stage.cy + height / 2), stage.colour2, 2)
        roll = 5 + 10 * (1 - u)
        low, high = end - roll, end + roll
        rectangle(image, low, stage.cy - height / 2 - 2, high, stage.cy + height / 2 + 2, shade(stage.colour1, 0.65))

    return draw


def umbrella(stage: Stage) -> Draw:
    stage.say("umbrella")

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, top, half = stage.cx, 28 + stage.dy, 5 + 37 * u
        line(image, (x, top), (x, 100), (60, 50, 45), 3)
        drop_ = 46 - 24 * u
        rim = [(x - half + 2 * half * i / 8, top + drop_ + 4 * math.sin(i * math.pi)) for i in range(9)]
        arch = [(x + half * math.cos(t), top + drop_ - drop_ * math.sin(t)) for t in np.linspace(0, math.pi, 13)]
        fill(image, arch + rim, stage.colour1)
        for t in np.linspace(-0.6, 0.6, 3):
            line(image, (x, top), (x + half * t, top + drop_), shade(stage.colour1, 0.65), 1)

    return draw


def _camera(stage: Stage, move: str) -> Draw:
    still = [
        (object_sprite(OBJECTS[stage.rng.integers(len(OBJECTS))], jitter(colour, stage.rng), stage.rng), x, y, size)
        for colour, x, y, size in (
            (
                COLOURS[list(COLOURS)[stage.rng.integers(len(COLOURS))]],
                *stage.rng.uniform(24, 88, 2),
                stage.rng.uniform(22, 36),
            )
            for _ in range(2)
        )
    ]
    sprite, x0, y0 = stage.thing(), SIDE / 2 + stage.rng.uniform(-14, 14), SIDE / 2 + stage.rng.uniform(-14, 14)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        for other, x, y, size in still:
            paste(image, other, x, y, size)
        paste(image, sprite, x0, y0, stage.size * 1.2)
        if move == "pan":
            camera.x = 44 * (0.5 - u)
        elif move == "tilt":
            camera.y = 44 * (u - 0.5)
        else:
            camera.zoom = math.exp(0.95 * (u - 0.3))

    return draw


def pan(stage: Stage) -> Draw:
    return _camera(stage, "pan")


def tilt(stage: Stage) -> Draw:
    return _camera(stage, "tilt")


def zoom(stage: Stage) -> Draw:
    return _camera(stage, "zoom")
