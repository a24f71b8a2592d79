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
        bystander: chance that a thing which does not take part lies about.
        missing: chance that a view of a place lacks what it mostly shows.
        foreign: chance that a view of a place shows an element of some other place.
        swapped: chance that the ground, and that what is above it, are of some other place.
        passing: chance that the person in a place does something that people do elsewhere.
    """

    reach: tuple[float, float] = (24, 31)
    shift: float = 6
    turn: float = 0
    bystander: float = 0.5
    missing: float = 0.25
    foreign: float = 0.4
    swapped: float = 0.15
    passing: float = 0.3


SHIPPED = Staging()
