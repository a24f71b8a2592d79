"""What the object programs share: the random choices of one clip and the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.synthact.drawing import COLOURS, SIDE, Rng, jitter, paste
from tools.synthact.staging import Staging
from tools.synthact.things import OBJECTS, hand_sprite, object_sprite


@dataclass
class Camera:
    """Camera of one frame: shift in pixels and zoom."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0


Draw = Callable[[np.ndarray, float, Camera], None]  # paints state u in 0..1 of a program into a frame


def a(colour: str, thing: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {thing}"


class Stage:
    """The random choices that one clip of an object program makes."""

    def __init__(self, rng: Rng, staging: Staging) -> None:
        self.rng, self.staging = rng, staging
        first, second = rng.choice(len(COLOURS), 2, replace=False)
        self.name1, self.name2 = list(COLOURS)[first], list(COLOURS)[second]
        self.colour1, self.colour2 = jitter(COLOURS[self.name1], rng), jitter(COLOURS[self.name2], rng)
        self.hand = hand_sprite(rng)
        self.size = rng.uniform(26, 38)
        self.hand_size = rng.uniform(40, 54)
        self.dx, self.dy = rng.uniform(-6, 6), rng.uniform(-6, 6)
        self.cx, self.cy = SIDE / 2 + self.dx, SIDE / 2 + self.dy
        self.side = 1 if rng.random() < 0.5 else -1
        self.words: list[str] = []  # of the things that take part
        self.around: list[str] = []  # of what else is seen

    def thing(self, pool: list[str] = OBJECTS, *, second: bool = False) -> np.ndarray:
        """Choose an object, say its name in the caption, return its sprite."""
        name = pool[self.rng.integers(len(pool))]
        self.words.append(a(self.name2 if second else self.name1, name))
        return object_sprite(name, self.colour2 if second else self.colour1, self.rng)

    def say(self, thing: str, *, second: bool = False) -> None:
        self.words.append(a(self.name2 if second else self.name1, thing))

    def hold(self, image: np.ndarray, x: float, y: float, *, reach: float, side: int) -> None:
        """Draw the hand so that it touches a thing of radius `reach` at (x, y) from the left (side 1) or right (-1)."""
        distance = reach + self.hand_size * 0.38
        paste(image, self.hand, x - side * distance, y + 2, self.hand_size, flip=side < 0)

    def grasp(self, image: np.ndarray, x: float, y: float, *, reach: float, side: str) -> None:
        """Draw the hand so that it touches a thing of radius `reach` at (x, y) from "left", "right", "above" or "below"."""
        if side in ("left", "right"):
            self.hold(image, x, y, reach=reach, side=1 if side == "left" else -1)
        elif side == "above":
            self.grip(image, x, y, reach=reach)
        else:
            paste(image, self.hand, x, y + reach + self.hand_size * 0.36, self.hand_size, angle=-90)

    def bystander(self) -> Callable[[np.ndarray], None]:
        """Something that lies near the edge and takes no part."""
        colour, name = list(COLOURS)[self.rng.integers(len(COLOURS))], OBJECTS[self.rng.integers(len(OBJECTS))]
        sprite = object_sprite(name, jitter(COLOURS[colour], self.rng), self.rng)
        self.around.append(f"next to {a(colour, name)}")
        x = SIDE / 2 + self.rng.uniform(34, 46) * (1 if self.rng.random() < 0.5 else -1)
        y, angle = self.rng.uniform(20, SIDE - 14), self.rng.uniform(0, 360)
        return lambda image: paste(image, sprite, x, y, self.size * 0.8, angle=angle)

    def grip(self, image: np.ndarray, x: float, y: float, *, reach: float) -> None:
        """Draw the hand from above so that it touches a thing of radius `reach` at (x, y)."""
        paste(image, self.hand, x, y - reach - self.hand_size * 0.36, self.hand_size, angle=90)
