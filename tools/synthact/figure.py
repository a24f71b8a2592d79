"""A human figure driven by motion capture.

`mocap.npz` holds the DeepMimic reference motions as distributed in pybullet_data (zlib licence; motions by the DeepMimic
authors, MIT licence), resampled to 30 frames a second as float16 `[frames, 43]`: root position (3), then rotations as
quaternions (w, x, y, z) or single angles for root, chest, neck, right hip, knee, ankle, shoulder, elbow, and the left side.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.synthact.drawing import SKINS, Colour, Rng, hsv

MOCAP_RATE = 30.0  # frames a second
CYCLIC = {"walk", "run", "crawl", "jump"}  # motions that repeat
_OFFSETS = {  # bone offsets of the DeepMimic humanoid, metres
    "chest": (0, 0.236151, 0),
    "neck": (0, 0.223894, 0),
    "hip": (0, 0, 0.084887),
    "knee": (0, -0.421546, 0),
    "ankle": (0, -0.40987, 0),
    "shoulder": (-0.02405, 0.2435, 0.18311),
    "elbow": (0, -0.274788, 0),
    "hand": (0, -0.33, 0),
    "toe": (0.16, -0.05, 0),
}
_QUATERNIONS = (3, 7, 11, 15, 20, 24, 29, 34, 38)  # first columns of the quaternions
_LIMBS = [  # from, to, half width in metres, colour
    ("lhip", "lknee", 0.075, "trousers"), ("lknee", "lankle", 0.06, "trousers"), ("lankle", "ltoe", 0.05, "shoes"),
    ("rhip", "rknee", 0.075, "trousers"), ("rknee", "rankle", 0.06, "trousers"), ("rankle", "rtoe", 0.05, "shoes"),
    ("lshoulder", "lelbow", 0.05, "shirt"), ("lelbow", "lhand", 0.04, "skin"),
    ("rshoulder", "relbow", 0.05, "shirt"), ("relbow", "rhand", 0.04, "skin"),
    ("root", "chest", 0.12, "shirt"), ("chest", "neck", 0.125, "shirt"),
    ("lhip", "rhip", 0.1, "trousers"), ("lshoulder", "rshoulder", 0.07, "shirt"),
]  # fmt: skip


@functools.cache
def _motion(name: str) -> np.ndarray:
    with np.load(Path(__file__).with_name("mocap.npz")) as store:
        return store[f"humanoid3d_{name}"].astype(np.float64)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _bend(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _pose(name: str, seconds: float) -> np.ndarray:
    """Pose `[43]` of a motion at a time; cyclic motions repeat and keep moving on."""
    frames = _motion(name)
    last, cycles = len(frames) - 1, 0.0
    position = seconds * MOCAP_RATE
    if name in CYCLIC:
        cycles, position = divmod(position, last)
    position = min(max(position, 0.0), last - 1e-6)
    index = int(position)
    u, following = position - index, frames[index + 1].copy()
    for column in _QUATERNIONS:
        if frames[index, column : column + 4] @ following[column : column + 4] < 0:
            following[column : column + 4] *= -1
    pose = (1 - u) * frames[index] + u * following
    pose[[0, 2]] += cycles * (frames[-1, [0, 2]] - frames[0, [0, 2]])
    return pose


def _joints(pose: np.ndarray, build: dict[str, float]) -> dict[str, np.ndarray]:
    """Joint positions `[3]` in metres by forward kinematics; `build` scales bones."""
    bone = {name: np.array(offset) * build.get(name, 1.0) for name, offset in _OFFSETS.items()}
    mirror = np.array([1, 1, -1])
    root, hips = pose[:3], _rotation(pose[3:7])
    chest_turn = hips @ _rotation(pose[7:11])
    joints = {"root": root, "chest": root + hips @ bone["chest"]}
    joints["neck"] = joints["chest"] + chest_turn @ bone["neck"]
    joints["head"] = joints["neck"] + chest_turn @ _rotation(pose[11:15]) @ np.array([0, 0.175, 0])
    for side, first, flip in (("r", 15, 1), ("l", 29, mirror)):
        thigh = hips @ _rotation(pose[first : first + 4])
        shin = thigh @ _bend(pose[first + 4])
        foot = shin @ _rotation(pose[first + 5 : first + 9])
        arm = chest_turn @ _rotation(pose[first + 9 : first + 13])
        joints[side + "hip"] = root + hips @ (bone["hip"] * flip)
        joints[side + "knee"] = joints[side + "hip"] + thigh @ bone["knee"]
        joints[side + "ankle"] = joints[side + "knee"] + shin @ bone["ankle"]
        joints[side + "toe"] = joints[side + "ankle"] + foot @ bone["toe"]
        joints[side + "shoulder"] = joints["chest"] + chest_turn @ (bone["shoulder"] * flip)
        joints[side + "elbow"] = joints[side + "shoulder"] + arm @ bone["elbow"]
        joints[side + "hand"] = joints[side + "elbow"] + arm @ _bend(pose[first + 13]) @ bone["hand"]
    return joints


@dataclass
class Figure:
    """One person acting: joint positions over time, clothes, and the view."""

    joints: list[dict[str, np.ndarray]]
    palette: dict[str, Colour]
    girth: float
    yaw: float
    elevation: float
    follow: float  # how far the camera follows the person: 1 holds it in the middle

    def draw(self, image: np.ndarray, index: int, x: float, y: float, scale: float) -> None:
        """Paint frame `index` into `image`, `scale` pixels a metre, around (x, y)."""
        joints, roots = self.joints[index], np.array([j["root"] for j in self.joints])
        centre = roots.mean(0) * (1 - self.follow) + self.follow * joints["root"]
        centre[1] = 0.75
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        lift, tilt = math.sin(self.elevation), math.cos(self.elevation)

        def project(point: np.ndarray) -> tuple[float, float, float, float]:
            q = point - centre
            right, deep = cos * q[0] + sin * q[2], -sin * q[0] + cos * q[2]
            up, near = tilt * q[1] - lift * deep, lift * q[1] + tilt * deep
            zoom = 4.2 / (4.2 - near)
            return x + scale * right * zoom, y - scale * up * zoom, near, zoom

        seen = {name: project(point) for name, point in joints.items()}
        floor = project(np.array([joints["root"][0], 0.0, joints["root"][2]]))
        shadow = np.zeros(image.shape[:2], np.uint8)
        axes = (int(0.32 * scale), int(0.1 * scale))
        cv2.ellipse(shadow, (int(floor[0]), int(floor[1])), axes, 0, 0, 360, 90, -1, cv2.LINE_AA)
        image *= 1 - shadow[..., None] / 255.0
        parts = [((seen[a][2] + seen[b][2]) / 2, a, b, width, colour) for a, b, width, colour in _LIMBS]
        parts.append((seen["head"][2] + 0.01, "head", "neck", 0.115, "skin"))
        for near, a, b, width, colour in sorted(parts, key=lambda part: part[:3]):
            lit = 0.8 + 0.35 * float(np.clip(near + 0.3, 0, 0.8))
            rgb = tuple(float(min(255, v * lit)) for v in self.palette[colour])
            p, q = (tuple(int(v * 8) for v in seen[name][:2]) for name in (a, b))
            if a == "head":
                radius = int(width * scale * seen[a][3] * 8)
                cv2.circle(image, p, radius, tuple(map(float, self.palette["hair"])), -1, cv2.LINE_AA, 3)
                face = tuple(int(v + 0.25 * (w - v)) for v, w in zip(p, q, strict=True))
                cv2.circle(image, face, int(radius * 0.8), rgb, -1, cv2.LINE_AA, 3)
            else:
                thick = max(1, round(1.7 * width * self.girth * scale * seen[a][3]))
                cv2.line(image, p, q, rgb, thick, cv2.LINE_AA, 3)


def make_figure(rng: Rng, motion: str, frames: int, fps: float, *, reverse: bool, view: str = "any") -> Figure:
    """A person of random build and clothes acting `motion` for `frames` frames.

    Args:
        view: "side" shows a person who faces right, so that the direction of travel is visible; "any" is from anywhere.
    """
    build = {name: rng.uniform(0.88, 1.12) for name in ("knee", "ankle", "elbow", "hand", "chest", "neck")}
    seconds = (len(_motion(motion)) - 1) / MOCAP_RATE
    if motion in CYCLIC:
        start, speed = rng.uniform(0, seconds), rng.uniform(0.8, 1.2)
    else:
        start, speed = 0.0, seconds * fps / frames * rng.uniform(0.9, 1.0)
    joints = [_joints(_pose(motion, start + speed * i / fps), build) for i in range(frames)]
    yaw = rng.uniform(-0.35, 0.35) if view == "side" else rng.uniform(0, 2 * math.pi)
    palette = {
        "skin": SKINS[rng.integers(len(SKINS))],
        "shirt": hsv(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.95)),
        "trousers": hsv(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.7)),
        "shoes": hsv(rng.random(), 0.3, rng.uniform(0.1, 0.9)),
        "hair": hsv(rng.uniform(0.02, 0.12), 0.6, rng.uniform(0.05, 0.6)),
    }
    travel = math.hypot(*(joints[-1]["root"] - joints[0]["root"])[[0, 2]])
    follow = 1 - min(1.0, 1.7 / max(travel, 1e-6)) if view == "side" else 0.9
    if reverse:
        joints = joints[::-1]
    return Figure(joints, palette, rng.uniform(0.85, 1.25), yaw, rng.uniform(0.05, 0.3), follow)
