"""Contact sheets of the built-in worlds: one clip of each class, five frames across. `python -m tools.synthact.sheet OUT.png`."""

from __future__ import annotations

import sys

import cv2
import numpy as np

from tools.synthact.build import WORLDS, World
from tools.synthact.classes import action_classes
from tools.synthact.drawing import SIDE
from tools.synthact.render import clip


def sheet(world: World, group: str, *, columns: int = 3, frames: int = 5) -> np.ndarray:
    """Picture uint8 RGB of the first clip of every class of a group."""
    cells = []
    for action in (c for c in action_classes() if c.group == group):
        one = clip(action, 0, world.seed, world.staging)
        strip = np.concatenate([one.frame(int(i)) for i in np.linspace(0, one.length - 1, frames)], 1)
        label = np.full((14, strip.shape[1], 3), 255, np.uint8)
        cv2.putText(
            label, f"{action.split}: {action.text}", (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA
        )
        cells.append(np.concatenate([label, strip]))
    blank = np.full((SIDE + 14, SIDE * frames, 3), 255, np.uint8)
    cells += [blank] * (-len(cells) % columns)
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)])


if __name__ == "__main__":
    for name, world in WORLDS.items():
        for group in world.groups:
            cv2.imwrite(sys.argv[1].replace(".png", f"_{name}_{group}.png"), sheet(world, group)[..., ::-1])
