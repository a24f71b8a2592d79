"""The objects and hands that appear in SynthAct, as sprites."""

from __future__ import annotations

import math

import numpy as np

from tools.synthact.drawing import SKINS, Colour, Rng, Sprite, hsv, shade

OBJECTS = [
    "ball", "box", "mug", "bottle", "book", "pencil", "apple", "banana",
    "key", "star", "phone", "leaf", "can", "shoe", "spoon", "toy car",
]  # fmt: skip
POINTED = ["bottle", "pencil", "key", "leaf", "shoe", "spoon", "toy car"]  # a turn of these can be seen
UPRIGHT = ["bottle", "can", "mug", "phone", "book"]


def object_sprite(name: str, colour: Colour, rng: Rng) -> np.ndarray:
    """Sprite of an object in a colour.

    Raises:
        KeyError: if `name` is not one of `OBJECTS`.
    """
    sprite = Sprite()
    _PAINTERS[name](sprite, colour, shade(colour, 0.6), shade(colour, 1.25, 15), rng)
    return sprite.finish(rng)


def hand_sprite(rng: Rng) -> np.ndarray:
    """A hand in a sleeve reaching to the right, of random skin and sleeve colour."""
    skin = SKINS[rng.integers(len(SKINS))]
    sleeve = hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9))
    s = Sprite()
    s.box(0, 92, 96, 168, sleeve)
    s.box(86, 100, 130, 160, skin)
    s.oval((150, 130), (46, 44), skin)
    for y in (100, 118, 136, 152):
        s.stroke((160, y), (228 - abs(y - 124) // 2, y), skin, 15)
    s.stroke((140, 158), (196, 186), skin, 17)
    return s.finish(rng)


def _ball(s, c, dark, light, rng):
    s.disc(128, 128, 92, c)
    s.oval((128, 128), (92, 34), dark, angle=int(rng.integers(180)), width=10)
    s.disc(95, 90, 20, light)


def _box(s, c, dark, light, rng):
    s.box(40, 70, 216, 216, c)
    s.polygon([(40, 70), (80, 34), (240, 34), (216, 70)], light)
    s.box(112, 70, 140, 216, dark)


def _mug(s, c, dark, light, rng):
    s.box(60, 50, 180, 220, c)
    s.oval((190, 130), (38, 48), c, arc=(-90, 90), width=18)
    s.oval((120, 52), (60, 16), dark)
    s.box(60, 110, 180, 130, light)


def _bottle(s, c, dark, light, rng):
    s.box(86, 96, 170, 236, c)
    s.box(110, 30, 146, 100, dark)
    s.polygon([(86, 100), (110, 70), (146, 70), (170, 100)], c)
    s.box(86, 140, 170, 190, (240, 240, 230))


def _book(s, c, dark, light, rng):
    s.box(44, 60, 214, 200, c)
    s.box(44, 60, 62, 200, dark)
    s.box(84, 86, 190, 110, light)
    s.box(84, 124, 160, 136, light)


def _pencil(s, c, dark, light, rng):
    s.box(30, 112, 190, 146, c)
    s.polygon([(190, 112), (236, 129), (190, 146)], (235, 205, 160))
    s.box(22, 112, 44, 146, (230, 130, 150))


def _apple(s, c, dark, light, rng):
    s.disc(100, 140, 66, c)
    s.disc(156, 140, 66, c)
    s.stroke((128, 90), (140, 40), (90, 60, 30), 10)
    s.oval((170, 56), (30, 14), (60, 150, 60), angle=-30)


def _banana(s, c, dark, light, rng):
    s.oval((128, 70), (96, 110), c, arc=(20, 160), width=44)
    s.disc(34, 110, 14, dark)


def _key(s, c, dark, light, rng):
    s.disc(70, 128, 46, c, 24)
    s.box(110, 116, 232, 140, c)
    s.box(190, 140, 206, 172, c)
    s.box(216, 140, 232, 166, c)


def _star(s, c, dark, light, rng):
    radius = [108 if i % 2 == 0 else 46 for i in range(10)]
    angle = [i * math.pi / 5 for i in range(10)]
    s.polygon([(128 + r * math.sin(a), 132 - r * math.cos(a)) for r, a in zip(radius, angle, strict=True)], c)
    s.disc(128, 132, 22, light)


def _phone(s, c, dark, light, rng):
    s.box(80, 26, 178, 232, dark)
    s.box(90, 48, 168, 206, light)
    s.disc(129, 219, 7, light)


def _leaf(s, c, dark, light, rng):
    s.oval((128, 128), (108, 50), c, angle=30)
    s.stroke((36, 76), (222, 182), dark, 8)


def _can(s, c, dark, light, rng):
    s.box(72, 50, 184, 216, c)
    s.oval((128, 50), (56, 16), (200, 200, 205))
    s.oval((128, 216), (56, 16), dark)
    s.box(72, 110, 184, 150, light)


def _shoe(s, c, dark, light, rng):
    s.polygon([(40, 90), (100, 90), (130, 140), (226, 160), (232, 204), (40, 204)], c)
    s.box(36, 196, 236, 220, (240, 240, 240))
    s.stroke((104, 110), (128, 150), light, 8)


def _spoon(s, c, dark, light, rng):
    s.oval((64, 128), (48, 32), c)
    s.box(104, 120, 238, 138, c)


def _toy_car(s, c, dark, light, rng):
    s.box(28, 120, 230, 180, c)
    s.polygon([(70, 120), (96, 72), (170, 72), (200, 120)], light)
    s.disc(78, 184, 28, (30, 30, 30))
    s.disc(182, 184, 28, (30, 30, 30))


_PAINTERS = {name: globals()["_" + name.replace(" ", "_")] for name in OBJECTS}
