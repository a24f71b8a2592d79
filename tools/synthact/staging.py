"""How hard SynthAct's clips are: the numbers that set what differs between clips of one class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Staging:
    """Ranges and chances; pixels are of a frame of 112.

    Attributes:
        reach: half the length of a straight path.
        shift: how far the middle of a path is from the middle of the frame, at most, along each axis.
        turn: how far a whole motion is turned, in degrees, at most.
        any_hand: chance that a hand holds a thing from any side, whatever the motion's own sides are.
        bystander: chance that a thing which does not take part lies about.
        missing: chance that a view of a place lacks what it mostly shows.
        foreign: chance that a view of a place shows an element of some other place.
        swapped: chance that the ground, and that what is above it, are of some other place.
        passing: chance that the person in a place does something that people do elsewhere.
        balance: gain of each colour channel of a clip: the white balance of its camera.
    """

    reach: tuple[float, float] = (22, 29)
    shift: float = 14
    turn: float = 12
    any_hand: float = 1.0
    bystander: float = 1.0
    missing: float = 0.18
    foreign: float = 0.3
    swapped: float = 0.1
    passing: float = 0.3
    balance: tuple[float, float] = (0.92, 1.08)


SHIPPED = Staging()
# Places are whole, and cameras are such as the small CLIP has not met: what they do to colours can be learned.
OTHER_CAMERAS = Staging(missing=0, foreign=0, swapped=0, balance=(0.64, 1.36))
