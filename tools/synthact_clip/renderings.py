"""Fresh SynthAct renderings with captions such as the web has: composed, partial, idle and, at times, wrong."""

from __future__ import annotations

import json
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from mmcv.image import imresize
from rich.progress import track

from tools.synthact.classes import action_classes, class_named
from tools.synthact.drawing import Rng
from tools.synthact.render import Clip, appearance, clip
from tools.synthact.staging import Staging

# Broader than the shipped clips: what an encoder is trained on is not what it is measured on.
BROAD = Staging(
    reach=(16, 34), shift=10, turn=10, any_hand=0, bystander=0.4, missing=0.3, foreign=0.4, swapped=0.15, passing=0.3
)
STAGED = ("order", "change")  # groups whose captions may tell which third of a clip a frame is from
STAGES = ("the beginning of", "the middle of", "the end of")
OPENINGS = ("a photo of", "a picture of", "someone", "a video of", "this is", "here we see", "a frame of", "my film of")
CLOSINGS = (
    "today",
    "at home",
    "for the first time",
    "in the afternoon",
    "again",
    "seen from close",
    "with friends",
    "slowly",
)
WRONG = 0.05  # share of frames whose caption is that of another one


def compose(rng: Rng, shown: Clip, stage: int | None) -> str:
    """A caption of one frame of a clip, never a bare class label.

    Args:
        stage: which third of the clip the frame is from; None where there are none.
    """
    words, named = shown.template[:1].lower() + shown.template[1:], False
    for thing in shown.things:
        name = thing if rng.random() < 0.85 else "something"
        words, named = words.replace("[something]", name, 1), named or name == thing
    around = [shown.around[i] for i in rng.permutation(len(shown.around))]
    around = around[: int(rng.integers(len(around) + 1))]
    opening, idle = OPENINGS[rng.integers(len(OPENINGS))], CLOSINGS[rng.integers(len(CLOSINGS))]
    if shown.around and (not words or rng.random() < 0.15):  # only what is there, not what happens
        return " ".join([opening, *(shown.things if words else []), *(around or shown.around)])
    if stage is not None and rng.random() < 0.4:
        words = f"{STAGES[stage]} {words}"
    elif rng.random() < 0.4:
        words = f"{opening} {words}"
    closing = around or ([] if named and rng.random() < 0.7 else [idle])
    return " ".join([words, *closing])


def _frames(job: tuple[str | None, int], *, seed: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Three frames of a clip (one third each), or one of a backdrop, resized as the engine's reader resizes."""
    name, index = job
    rng = np.random.default_rng([seed, index, 11])
    if name is None:
        still = appearance(index, seed)
        return imresize(still.frame(0), (size, size), interpolation="bilinear")[None], [compose(rng, still, None)]
    action = class_named(name)
    one = clip(action, index, seed, BROAD)
    picked = [int((k + rng.random()) * one.length / 3) for k in range(3)]
    frames = np.stack([imresize(one.frame(i), (size, size), interpolation="bilinear") for i in picked])
    return frames, [compose(rng, one, k if action.group in STAGED else None) for k in range(3)]


def render(
    out: Path, *, seed: int, size: int, splits: tuple[str, ...], per_class: int, stills: int, jobs: int = 2
) -> None:
    """Write `frames.npy` `[M, size, size, 3]` uint8 and `captions.json` (a caption and a class a frame), unless they are there.

    Args:
        seed: must not be the seed of the shipped clips.
        splits: whose classes are rendered.
        per_class: clips of each class, three frames each.
        stills: backdrops without a class.
    """
    if (out / "captions.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    names = [c.name for c in action_classes() if c.split in splits]
    work: list[tuple[str | None, int]] = [(name, i) for name in names for i in range(per_class)]
    work += [(None, i) for i in range(stills)]
    total = 3 * per_class * len(names) + stills
    frames = np.lib.format.open_memmap(out / "frames.npy", "w+", np.uint8, (total, size, size, 3))
    captions: list[tuple[str, str | None]] = []
    with Pool(jobs) as pool:
        results = pool.imap(partial(_frames, seed=seed, size=size), work, chunksize=32)
        for (name, _), (pictures, texts) in zip(
            work, track(results, total=len(work), description=f"rendering {out.name}"), strict=True
        ):
            frames[len(captions) : len(captions) + len(texts)] = pictures
            captions += [(text, name) for text in texts]
    frames.flush()
    (out / "captions.json").write_text(json.dumps(captions))


def noisy(captions: list[str], seed: int) -> list[str]:
    """The captions with a share of `WRONG` of them exchanged for another frame's."""
    rng = np.random.default_rng([seed, 15])
    out = list(captions)
    for index in np.flatnonzero(rng.random(len(captions)) < WRONG):
        out[index] = captions[rng.integers(len(captions))]
    return out
