"""Programs in which a hand or gravity moves things: a state u in 0..1, played forwards or, as the reverse class, backwards."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tools.synthact.drawing import SIDE, disc, fill, line, paste, rectangle, shade
from tools.synthact.stage import Camera, Draw, Stage
from tools.synthact.things import UPRIGHT, object_sprite


def lid(stage: Stage) -> Draw:
    stage.say("box")
    width, height, widest = stage.rng.uniform(46, 60), stage.rng.uniform(26, 34), stage.rng.uniform(100, 135)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, y, side = stage.cx, 78 + stage.dy * 0.5, stage.side
        rectangle(image, x - width / 2, y - height / 2, x + width / 2, y + height / 2, stage.colour1)
        rectangle(image, x - width / 2, y - height / 2, x + width / 2, y - height / 2 + 5, shade(stage.colour1, 0.5))
        angle = math.radians(widest * u)
        hinge = (x - side * width / 2, y - height / 2)
        tip = (hinge[0] + side * width * math.cos(angle), hinge[1] - width * 0.9 * math.sin(angle))
        line(image, hinge, tip, stage.colour2, 7)
        paste(image, stage.hand, tip[0] + side * stage.hand_size * 0.4, tip[1], stage.hand_size, flip=side > 0)

    return draw


def into(stage: Stage) -> Draw:
    sprite, size = stage.thing(), stage.size * 0.9
    stage.say("box", second=True)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        y = 20 + stage.dy * 0.5 + 62 * u
        paste(image, sprite, stage.cx, y, size)
        stage.grip(image, stage.cx, y, reach=size * 0.35)
        half = size * 0.8
        rectangle(image, stage.cx - half, 66, stage.cx + half, 102, stage.colour2)
        rectangle(image, stage.cx - half - 2, 64, stage.cx + half + 2, 68, shade(stage.colour2, 0.7))

    return draw


def cover(stage: Stage) -> Draw:
    sprite, size = stage.thing(), stage.size * 1.1
    stage.say("cloth", second=True)
    hem = stage.rng.uniform(-3, 3, 12)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, y = stage.cx, 74 + stage.dy * 0.5
        paste(image, sprite, x, y, size)
        top = -34 + (y - size * 0.55 + 34) * u
        upper = [(x - size * 0.7 + 1.4 * size * i / 11, top + hem[i]) for i in range(12)]
        fill(image, [(x - size * 0.7, top + size * 1.2), *upper, (x + size * 0.7, top + size * 1.2)], stage.colour2)
        stage.grip(image, x, top, reach=0)

    return draw


def pour(stage: Stage) -> Draw:
    stage.say("liquid")
    width, height = stage.rng.uniform(28, 44), stage.rng.uniform(60, 76)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x0, x1 = stage.cx - width / 2, stage.cx + width / 2
        y0, y1 = stage.cy - height / 2, stage.cy + height / 2
        level = y1 - height * (0.06 + 0.86 * u)
        inside = image[int(y0) : int(y1), int(x0) : int(x1)]
        inside *= 0.7
        inside += 70
        rectangle(image, x0, level, x1, y1, stage.colour1)
        rectangle(image, x0, level - 1, x1, level + 2, shade(stage.colour1, 1.3, 20))
        corners = [(x0, y0), (x0, y1), (x1, y1), (x1, y0)]
        for start, stop in itertools.pairwise(corners):
            line(image, start, stop, (240, 240, 245), 2)

    return draw


def fold(stage: Stage) -> Draw:
    stage.say("paper")
    width, height = stage.rng.uniform(32, 42), stage.rng.uniform(50, 66)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        x, top, bottom = stage.cx, stage.cy - height / 2, stage.cy + height / 2
        fill(image, [(x, top), (x - width, top), (x - width, bottom), (x, bottom)], stage.colour1)
        angle = math.pi * u
        edge, raised = x + width * math.cos(angle), -10 * math.sin(angle)
        colour = stage.colour1 if angle < math.pi / 2 else stage.colour2
        fill(image, [(x, top), (edge, top + raised), (edge, bottom + raised), (x, bottom)], colour)
        line(image, (edge, top + raised), (edge, bottom + raised), shade(colour, 0.6), 1)
        reach = stage.hand_size * 0.36
        paste(image, stage.hand, edge + reach, stage.cy + raised, stage.hand_size * 0.9, flip=True)

    return draw


def tear(stage: Stage) -> Draw:
    stage.say("sheet")
    width, height = stage.rng.uniform(26, 34), stage.rng.uniform(44, 60)
    edge = stage.rng.uniform(-5, 5, 9)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        top, bottom, shift = stage.cy - height / 2, stage.cy + height / 2, 24 * u
        for side in (-1, 1):
            torn = [(stage.cx + side * shift + edge[i], top + height * i / 8) for i in range(9)]
            outer = stage.cx + side * (shift + width)
            fill(image, [*torn, (outer, bottom), (outer, top)], stage.colour1)
            stage.hold(image, outer, stage.cy, reach=-4, side=-side)

    return draw


def scatter(stage: Stage) -> Draw:
    count = int(stage.rng.integers(14, 26))
    stage.words.append(f"{stage.name1} beads")
    angle, spread = stage.rng.uniform(0, 2 * np.pi, count), stage.rng.uniform(0.35, 1, count)
    radius = stage.rng.uniform(2.5, 4.5)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        for i in range(count):
            r = spread[i] * (7 + 40 * u)
            x, y = stage.cx + r * math.cos(angle[i]), stage.cy + r * math.sin(angle[i])
            disc(image, x, y, radius, stage.colour1 if i % 3 else stage.colour2)

    return draw


def hide(stage: Stage) -> Draw:
    sprite, size = stage.thing(), stage.size * 1.05
    stage.say("board", second=True)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        centre = stage.cx - 20
        x = centre + 58 * (1 - u)
        paste(image, sprite, x, stage.cy, size)
        stage.hold(image, x, stage.cy, reach=size * 0.36, side=-1)
        half = size * 0.68
        rectangle(image, centre - half, stage.cy - size * 0.75, centre + half, stage.cy + size * 0.65, stage.colour2)

    return draw


def tip(stage: Stage) -> Draw:
    sprite = stage.thing(UPRIGHT)

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        pivot, size = (0.7, 0.9), stage.size * 1.7
        paste(image, sprite, stage.cx - 8, 90 + stage.dy * 0.3, size, angle=90 * u * u, pivot=pivot)

    return draw


def slope(stage: Stage) -> Draw:
    stage.say("ball")
    sprite, size = object_sprite("ball", stage.colour1, stage.rng), stage.size * 0.85

    def draw(image: np.ndarray, u: float, camera: Camera) -> None:
        top, foot = (stage.cx - 52, 36 + stage.dy * 0.5), (stage.cx + 52, 98)
        fill(image, [top, foot, (foot[0], SIDE), (top[0], SIDE)], stage.colour2)
        along = 0.12 + 0.76 * u * u
        x, y = top[0] + (foot[0] - top[0]) * along, top[1] + (foot[1] - top[1]) * along - size * 0.45
        paste(image, sprite, x, y, size, angle=420 * along)

    return draw
