"""Frames and words of one SynthAct clip, a pure function of (class, index, seed)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from tools.synthact.classes import ActionClass
from tools.synthact.drawing import SIDE, Rng, random_backdrop
from tools.synthact.figure import make_figure
from tools.synthact.scenes import ELEMENTS, GROUNDS, UPPERS, Place, backdrop
from tools.synthact.stage import Camera, Stage
from tools.synthact.staging import SHIPPED, Staging

FPS = 12
MARGIN = 24  # pixels of backdrop around the frame, for camera moves
ANYWHERE = ("walk", "run", "jump", "punch", "kick", "spin", "dance_a", "dance_b")
SIDE_VIEWS = {"walk", "run", "crawl", "roll", "getup_facedown", "getup_faceup"}


@dataclass
class Clip:
    """A clip that can render any of its frames.

    Attributes:
        template: the class's words; `[something]` stands for each of `things`.
        things: words of the things that take part, in the order of the template.
        around: words of what else is seen.
    """

    template: str
    things: list[str]
    around: list[str]
    length: int
    paint: object  # (image, index, camera) -> None
    background: np.ndarray
    grade: tuple[float, float, np.ndarray, float]  # gain, offset, tint, noise sigma
    shake: np.ndarray
    zoom: float
    tilt: float
    noise_seed: list[int]

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` as uint8 RGB `[SIDE, SIDE, 3]`."""
        camera, image = Camera(), self.background.copy()
        core = np.ascontiguousarray(image[MARGIN:-MARGIN, MARGIN:-MARGIN])
        self.paint(core, index, camera)
        image[MARGIN:-MARGIN, MARGIN:-MARGIN] = core
        scale, angle = self.zoom * camera.zoom, math.radians(self.tilt)
        cos, sin, middle = math.cos(angle) * scale, math.sin(angle) * scale, MARGIN + SIDE / 2
        dx, dy = camera.x + self.shake[index, 0], camera.y + self.shake[index, 1]
        matrix = np.float32(
            [
                [cos, -sin, SIDE / 2 + dx - (cos * middle - sin * middle)],
                [sin, cos, SIDE / 2 + dy - (sin * middle + cos * middle)],
            ]
        )
        flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
        view = cv2.warpAffine(image, matrix, (SIDE, SIDE), **flags)
        gain, offset, tint, sigma = self.grade
        grain = np.random.default_rng([*self.noise_seed, index]).standard_normal((SIDE, SIDE, 1), dtype=np.float32)
        return np.clip(view * (gain * tint) + offset + grain * sigma, 0, 255).astype(np.uint8)

    def frames(self) -> np.ndarray:
        """All frames `[length, SIDE, SIDE, 3]`, uint8."""
        return np.stack([self.frame(i) for i in range(self.length)])


def clip(action: ActionClass, index: int, seed: int, staging: Staging = SHIPPED) -> Clip:
    """The clip number `index` of a class under a seed."""
    rng = np.random.default_rng([seed, zlib.crc32(action.name.encode()), index])
    length, noise_seed = int(rng.uniform(1.9, 2.4) * FPS), [seed, index]
    if isinstance(action.source, Place):
        return _scene_clip(action.source, action.template, rng, length, noise_seed, staging)
    if isinstance(action.source, str):
        return _person_clip(action, rng, length, noise_seed, staging)
    return _object_clip(action, rng, length, noise_seed, staging)


def appearance(index: int, seed: int) -> Clip:
    """A still view of a random backdrop of random parts: no class of any split."""
    rng = np.random.default_rng([seed, zlib.crc32(b"appearance"), index])
    names, uppers, grounds = list(ELEMENTS), list(UPPERS), list(GROUNDS)
    picked = tuple(names[i] for i in rng.choice(len(names), int(rng.integers(1, 3)), replace=False))
    upper, ground = uppers[rng.integers(len(uppers))], grounds[rng.integers(len(grounds))]
    place = Place((upper,), ground, rng.uniform(0.35, 0.7), picked, ("walk", "jump", "punch", "spin"))
    return _scene_clip(place, "", rng, 1, [seed, index], Staging(missing=0, foreign=0, swapped=0, passing=0))


def _finish(
    words: tuple[str, list[str], list[str]],
    rng: Rng,
    length: int,
    paint: object,
    background: np.ndarray,
    noise_seed: list[int],
    staging: Staging,
) -> Clip:
    shake = np.cumsum(rng.normal(0, 1, (length, 2)), 0)
    shake = (shake - shake.mean(0)) * rng.uniform(0, 0.4)
    tint = rng.uniform(*staging.balance, 3).astype(np.float32)
    grade = (rng.uniform(0.75, 1.2), rng.uniform(-15, 15), tint, rng.uniform(0, 1.5))
    zoom, tilt = rng.uniform(0.98, 1.1), rng.uniform(-3, 3)
    return Clip(*words, length, paint, background, grade, shake, zoom, tilt, noise_seed)


def _object_clip(action: ActionClass, rng: Rng, length: int, noise_seed: list[int], staging: Staging) -> Clip:
    stage = Stage(rng, staging)
    draw = action.source(stage)
    background = random_backdrop(rng, SIDE + 2 * MARGIN)
    before, after, bend = rng.uniform(0, 0.15), rng.uniform(0, 0.15), rng.uniform(-0.3, 0.3)

    def paint(image: np.ndarray, index: int, camera: Camera) -> None:
        u = float(np.clip((index / (length - 1) - before) / (1 - before - after), 0, 1))
        u = u * u * (3 - 2 * u)
        u += bend * u * (1 - u)
        draw(image, 1 - u if action.backwards else u, camera)

    return _finish((action.template, stage.words, stage.around), rng, length, paint, background, noise_seed, staging)


def _act(image: np.ndarray, index: int, camera: Camera, *, figure, x: float, y: float, scale: float) -> None:
    figure.draw(image, index, x, y, scale)


def _person_clip(action: ActionClass, rng: Rng, length: int, noise_seed: list[int], staging: Staging) -> Clip:
    view = "side" if action.source in SIDE_VIEWS else "any"
    figure = make_figure(rng, action.source, length, FPS, reverse=action.backwards, view=view)
    background = random_backdrop(rng, SIDE + 2 * MARGIN)
    place = {"x": SIDE / 2 + rng.uniform(-8, 8), "y": SIDE * 0.58 + rng.uniform(-5, 5), "scale": rng.uniform(38, 48)}
    paint = partial(_act, figure=figure, **place)
    return _finish((action.template, [], []), rng, length, paint, background, noise_seed, staging)


def _scene_clip(place: Place, template: str, rng: Rng, length: int, noise_seed: list[int], staging: Staging) -> Clip:
    motions = ANYWHERE if rng.random() < staging.passing else place.motions
    figure = make_figure(rng, motions[rng.integers(len(motions))], length, FPS, reverse=False)
    view = place.seen(rng, staging)
    background = backdrop(rng, view, SIDE + 2 * MARGIN)
    spot = {"x": SIDE / 2 + rng.uniform(-22, 22), "y": SIDE * 0.62 + rng.uniform(-8, 8), "scale": rng.uniform(30, 54)}
    around = [*view.elements, f"in front of {view.uppers[0]}", f"above {view.ground}"]
    paint = partial(_act, figure=figure, **spot)
    return _finish((template, [], around), rng, length, paint, background, noise_seed, staging)
