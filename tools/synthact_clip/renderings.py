"""Fresh SynthAct renderings for training: frames of train-split classes and of random backdrops, with captions."""

from __future__ import annotations

import json
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from mmcv.image import imresize
from rich.progress import track

from tools.synthact.classes import ActionClass, action_classes
from tools.synthact.render import appearance, clip

STAGES = ("the beginning of", "the middle of", "the end of")


def _frames(job: tuple[ActionClass | None, int], *, seed: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Three frames of a clip (one third each), or one of a backdrop, resized as the engine's reader resizes."""
    action, index = job
    rng = np.random.default_rng([seed, index, 11])
    if action is None:
        still = appearance(index, seed)
        return imresize(still.frame(0), (size, size), interpolation="bilinear")[None], [still.caption]
    one = clip(action, index, seed)
    picked = [int((k + rng.random()) * one.length / 3) for k in range(3)]
    captions = []
    for k in range(3):
        staged = action.group == "order" and rng.random() < 0.5
        caption = one.caption[0].lower() + one.caption[1:]
        captions.append(f"{STAGES[k]} {caption}" if staged else caption)
    frames = np.stack([imresize(one.frame(i), (size, size), interpolation="bilinear") for i in picked])
    return frames, captions


def render(out: Path, *, seed: int, size: int, split: str, per_class: int, stills: int, jobs: int = 2) -> None:
    """Write `frames.npy` `[M, size, size, 3]` uint8 and `captions.json` (one a frame) into `out`, unless they are there.

    Args:
        seed: must not be the seed of the shipped clips.
        split: whose classes are rendered.
        per_class: clips of each class, three frames each.
        stills: backdrops without a class.
    """
    if (out / "captions.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    classes = [c for c in action_classes() if c.split == split]
    work = [(c, i) for c in classes for i in range(per_class)] + [(None, i) for i in range(stills)]
    total = 3 * per_class * len(classes) + stills
    frames = np.lib.format.open_memmap(out / "frames.npy", "w+", np.uint8, (total, size, size, 3))
    captions: list[str] = []
    with Pool(jobs) as pool:
        results = pool.imap(partial(_frames, seed=seed, size=size), work, chunksize=32)
        for pictures, texts in track(results, total=len(work), description=f"rendering {out.name}"):
            frames[len(captions) : len(captions) + len(texts)] = pictures
            captions += texts
    frames.flush()
    (out / "captions.json").write_text(json.dumps(captions))
