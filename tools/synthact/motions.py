"""The motions of the order group: a small grammar of paths that one thing, or two, take in a hand or without one.

All motions share one pool of things, hands, colours and backdrops, so that a single frame of one could be of many others.
State u runs from 0 to 1; offsets are in reaches from the middle of the frame, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.synthact.drawing import SIDE, paste
from tools.synthact.stage import Camera, Draw, Stage
from tools.synthact.things import POINTED

Path = Callable[[float], tuple[float, float]]
Change = Callable[[float], float]  # of size (a factor) or angle (degrees)

SIDES = ("left", "right", "above", "below")
FROM = {"left": "from the left", "right": "from the right", "above": "from above", "below": "from below"}


@dataclass(frozen=True)
class Motion:
    """One motion.

    Attributes:
        first: path of the first thing.
        second: path of the second thing; None where there is none.
        hands: for each thing, the sides from which a hand may hold it; () lets it move, or lie, by itself.
            A thing that nothing holds has a hand beside it that has let go.
        size, angle: change of the first thing.
    """

    first: Path
    second: Path | None = None
    hands: tuple[tuple[str, ...], ...] = (SIDES,)
    size: Change = lambda u: 1.0
    angle: Change = lambda u: 0.0

    def positions(self, u: float) -> list[tuple[float, float]]:
        """Offsets of the things at state `u`, in reaches."""
        return [path(u) for path in (self.first, self.second) if path is not None]

    def __call__(self, stage: Stage) -> Draw:
        rng, staging = stage.rng, stage.staging
        sprites = [stage.thing(POINTED, second=bool(k)) for k in range(1 if self.second is None else 2)]
        hands = [SIDES if sides and rng.random() < staging.any_hand else sides for sides in self.hands]
        held = [sides[rng.integers(len(sides))] if sides else None for sides in hands]
        reach, size = rng.uniform(*staging.reach), stage.size * (1.0 if self.second is None else 0.85)
        cx, cy = SIDE / 2 + rng.uniform(-1, 1) * staging.shift, SIDE / 2 + rng.uniform(-1, 1) * staging.shift
        tilt, lean = math.radians(rng.uniform(-1, 1) * staging.turn), rng.uniform(-25, 25)
        cos, sin = math.cos(tilt), math.sin(tilt)
        lying = stage.bystander() if rng.random() < staging.bystander else None
        idle = SIDES[rng.integers(4)] if not any(held) else None
        stage.around += [f"with a hand {FROM[side]}" for side in dict.fromkeys([*held, idle]) if side is not None]

        def draw(image: np.ndarray, u: float, camera: Camera) -> None:
            if lying is not None:
                lying(image)
            for k, (x, y) in reversed(list(enumerate(self.positions(u)))):
                x, y = cx + reach * (cos * x - sin * y), cy + reach * (sin * x + cos * y)
                across = size * (self.size(u) if k == 0 else 1.0)
                paste(image, sprites[k], x, y, across, angle=lean + (self.angle(u) if k == 0 else 0.0))
                if held[k] is not None:
                    stage.grasp(image, x, y, reach=across * 0.36, side=held[k])
            if idle is not None:
                stage.grasp(image, cx, cy, reach=1.2 * reach, side=idle)

        return draw


def at(x: float, y: float) -> Path:
    return lambda u: (x, y)


def line(x: float, y: float) -> Path:
    """From -(x, y) straight to (x, y)."""
    return lambda u: (x * (2 * u - 1), y * (2 * u - 1))


def back_again(x: float, y: float) -> Path:
    """From -(x, y) straight to (x, y), and back."""
    return lambda u: (x * (1 - 4 * abs(u - 0.5)), y * (1 - 4 * abs(u - 0.5)))


def corner(first: tuple[int, int], then: tuple[int, int]) -> Path:
    """Two straight legs, each of two reaches, around a corner at `first - then`."""

    def path(u: float) -> tuple[float, float]:
        a, b = min(1.0, 2 * u) * 2 - 1, max(0.0, 2 * u - 1) * 2 - 1
        return first[0] * a + then[0] * b, first[1] * a + then[1] * b

    return path


def circle(radius: float) -> Path:
    """Once around the middle, clockwise, from the top."""
    return lambda u: (radius * math.sin(2 * math.pi * u), -radius * math.cos(2 * math.pi * u))


def shake(x: float, y: float, times: int) -> Path:
    return lambda u: (x * math.sin(2 * math.pi * times * u), y * math.sin(2 * math.pi * times * u))


def arc(height: float) -> Path:
    """From left to right over the middle (`height` > 0) or under it."""
    return lambda u: (-1.3 * math.cos(math.pi * u), -height * math.sin(math.pi * u))


def zigzag(u: float) -> tuple[float, float]:
    """From left to right, up and down three times."""
    return 1.2 * (2 * u - 1), 0.8 * (2 / math.pi) * math.asin(math.sin(6 * math.pi * u))


def bounce(u: float) -> tuple[float, float]:
    """From left to right in three hops."""
    return 1.2 * (2 * u - 1), 1 - 1.8 * abs(math.sin(3 * math.pi * u))


def fall(u: float) -> tuple[float, float]:
    """From above the frame downwards, faster and faster."""
    return 0.0, -2.4 + 4.4 * u * u


def toss(u: float) -> tuple[float, float]:
    """Up and down again, as a thing that is thrown and caught."""
    return 0.0, 1.2 - 2.8 * (1 - (2 * u - 1) ** 2)


def onto(u: float) -> tuple[float, float]:
    """Sideways until above the middle, then down to it."""
    across, down = min(1.0, 1.8 * u), max(0.0, (u - 0.556) / 0.444)
    return -2.0 * (1 - across), -2.2 + 1.3 * down


def striking(u: float) -> tuple[float, float]:
    """From the left to the middle, where it stops at half time."""
    return min(-0.75, -2.25 + 3 * u), 0.0


def struck(u: float) -> tuple[float, float]:
    """From the middle to the right, from half time on."""
    return max(0.75, -0.75 + 3 * u), 0.0


def shifted(path: Path, x: float, y: float) -> Path:
    def moved(u: float) -> tuple[float, float]:
        px, py = path(u)
        return px + x, py + y

    return moved


def grow(u: float) -> float:
    """From half to double size."""
    return 0.55 * 3.4**u


def swell(u: float) -> float:
    """From half to double size and back."""
    return grow(1 - abs(2 * u - 1))


def dwindle(u: float) -> float:
    return grow(abs(2 * u - 1))


def turned(degrees: float) -> Change:
    return lambda u: degrees * (u - 0.5)


def to_and_fro(u: float) -> float:
    return 70 * math.sin(2 * math.pi * 2 * u)


STILL = at(0, 0)
LEFT, RIGHT, ABOVE, BELOW = (("left",),), (("right",),), (("above",),), (("below",),)
SIDEWAYS, UPRIGHT = (("left", "right"),), (("above", "below"),)
NONE: tuple[tuple[str, ...], ...] = ((),)
R, L, U, D = (1, 0), (-1, 0), (0, -1), (0, 1)
CALM = SIDES, ()  # the first thing is held, the second lies or hangs there

# Motion, template, template of the reverse (None: it is its own reverse, or has none that people do), split.
MOTIONS: list[tuple[Motion, str, str | None, str]] = [
    (Motion(line(1, 0), hands=LEFT), "Pushing [something] from left to right", "Pulling [something] from right to left", "train"),
    (Motion(line(-1, 0), hands=RIGHT),
     "Pushing [something] from right to left", "Pulling [something] from left to right", "train"),
    (Motion(line(0, -1), hands=BELOW), "Pushing [something] up from below", "Letting [something] down from below", "train"),
    (Motion(STILL, size=grow, hands=(("below", "left", "right"),)),
     "Moving [something] towards the camera", "Moving [something] away from the camera", "train"),
    (Motion(shifted(line(0.7, 0), -1, 0), shifted(line(-0.7, 0), 1, 0), (("left",), ("right",))),
     "Moving [something] and [something] closer to each other", "Moving [something] and [something] apart", "train"),
    (Motion(circle(1)), "Moving [something] in a circle clockwise", "Moving [something] in a circle counterclockwise", "train"),
    (Motion(corner(R, D)),
     "Moving [something] to the right and then down", "Moving [something] up and then to the left", "train"),
    (Motion(corner(L, U)),
     "Moving [something] to the left and then up", "Moving [something] down and then to the right", "train"),
    (Motion(arc(1.4), at(0, 0.9), CALM),
     "Moving [something] to the right over [something]", "Moving [something] to the left over [something]", "train"),
    (Motion(shifted(line(0, -1), -0.9, 0), shifted(line(0, -1), 0.9, 0), (("left",), ("right",))),
     "Moving [something] and [something] up together", "Moving [something] and [something] down together", "train"),
    (Motion(zigzag),
     "Moving [something] in a zigzag to the right", "Moving [something] in a zigzag to the left", "train"),
    (Motion(line(1, 0), angle=turned(-360), hands=NONE),
     "Letting [something] roll to the right", "Letting [something] roll to the left", "train"),
    (Motion(back_again(1, 0), hands=SIDEWAYS), "Moving [something] to the right and back", None, "train"),
    (Motion(shake(0.5, 0, 3), hands=UPRIGHT), "Shaking [something] from side to side", None, "train"),
    (Motion(line(1, -1), hands=(("left", "below"),)),
     "Pushing [something] up to the right", "Letting [something] down to the left", "val"),
    (Motion(STILL, angle=turned(200)), "Turning [something] clockwise", "Turning [something] counterclockwise", "val"),
    (Motion(onto, at(0, 0.9), (("left", "above"), ())),
     "Putting [something] on top of [something]", "Taking [something] off [something]", "val"),
    (Motion(shifted(line(1, 0), 0, -0.6), shifted(line(-1, 0), 0, 0.6), (("above",), ("below",))),
     "Moving [something] right and [something] left", "Moving [something] left and [something] right", "val"),
    (Motion(back_again(0, 1), hands=UPRIGHT), "Moving [something] down and back up", None, "val"),
    (Motion(shake(0, 0.5, 3), hands=SIDEWAYS), "Shaking [something] up and down", None, "val"),
    (Motion(line(0, -1), hands=ABOVE), "Lifting [something] up", "Lowering [something]", "test"),
    (Motion(line(1, 1)),
     "Moving [something] down to the right", "Moving [something] up to the left", "test"),
    (Motion(corner(R, U)), "Moving [something] to the right and then up", "Moving [something] down and then to the left", "test"),
    (Motion(corner(L, D)), "Moving [something] to the left and then down", "Moving [something] up and then to the right", "test"),
    (Motion(arc(-1.4), at(0, -0.9), CALM),
     "Moving [something] to the right under [something]", "Moving [something] to the left under [something]", "test"),
    (Motion(shifted(line(1, 0), 0, -0.6), shifted(line(1, 0), 0, 0.6), (("left",), ("left",))),
     "Pushing [something] and [something] to the right", "Pulling [something] and [something] to the left", "test"),
    (Motion(circle(1.7), STILL, CALM),
     "Moving [something] around [something] clockwise", "Moving [something] around [something] counterclockwise", "test"),
    (Motion(bounce, hands=NONE), "Letting [something] bounce to the right", "Letting [something] bounce to the left", "test"),
    (Motion(striking, struck, ((), ())),
     "Knocking [something] into [something] from the left", "Knocking [something] into [something] from the right", "test"),
    (Motion(fall, hands=NONE), "Dropping [something]", "Throwing [something] up in the air", "test"),
    (Motion(STILL, size=swell),
     "Moving [something] towards the camera and back", None, "test"),
    (Motion(back_again(-1, 0)), "Moving [something] to the left and back", None, "test"),
    (Motion(STILL, angle=to_and_fro), "Turning [something] to and fro", None, "test"),
    (Motion(toss, hands=NONE), "Throwing [something] up and letting it fall", None, "test"),
]  # fmt: skip
