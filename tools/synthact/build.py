"""Write the clips and the annotation of a built-in world: `python -m tools.synthact.build [WORLD] [--out DIR] [--jobs 2]`.

The shipped data is the output of this program with its defaults, for each of `WORLDS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import track

from tools.synthact.classes import action_classes, class_named
from tools.synthact.render import FPS, clip
from tools.synthact.staging import OTHER_CAMERAS, SHIPPED, Staging
from tools.synthact.video import encode

BUILTIN = Path(__file__).parents[2] / "fsar_bench" / "data" / "builtin"
LICENCE = "Apache-2.0; the human motions derive from DeepMimic (MIT) as distributed in pybullet_data (zlib)"


@dataclass(frozen=True)
class World:
    """What is rendered.

    Attributes:
        seed: of its clips; none is that of another world, nor of what the small CLIP was trained on.
        clips: of each class.
        staging: how hard its clips are.
        groups: of its classes.
    """

    seed: int
    clips: int
    staging: Staging
    groups: tuple[str, ...]


WORLDS = {
    "synthact": World(0, 12, SHIPPED, ("order", "change", "person", "scene")),
    "synthact_scene": World(3, 20, OTHER_CAMERAS, ("scene",)),
}


def write_clip(job: tuple[str, int], world: World, out: Path) -> dict:
    """Render, encode and describe one clip."""
    class_name, index = job
    name = f"{class_name}_{index:02d}"
    path = out / "clips" / class_name / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = clip(class_named(class_name), index, world.seed, world.staging).frames()
    encode(frames, path, fps=FPS)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    relative = path.relative_to(out).as_posix()
    return {"id": name, "class": class_name, "path": relative, "frames": len(frames), "sha256": digest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=list(WORLDS), nargs="?", default="synthact")
    parser.add_argument("--out", type=Path, help="folder to write (default: that of the shipped data)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--classes", nargs="*", help="only these classes (default: all)")
    args = parser.parse_args()
    world, out = WORLDS[args.world], args.out or BUILTIN / args.world
    classes = [c for c in action_classes() if c.group in world.groups and (not args.classes or c.name in args.classes)]
    jobs = [(action.name, index) for action in classes for index in range(world.clips)]
    with Pool(args.jobs) as pool:
        results = pool.imap(partial(write_clip, world=world, out=out), jobs, chunksize=4)
        clips = list(track(results, total=len(jobs), description="clips"))
    annotation = {
        "name": args.world,
        "synthetic": True,
        "licence": LICENCE,
        "made_with": {"av": av.__version__, "numpy": np.__version__, "opencv": cv2.__version__, "seed": world.seed},
        "classes": [
            {
                "name": c.name,
                "text": c.text,
                "group": c.group,
                "split": c.split,
                **({"reverse_of": c.reverse_of} if c.reverse_of else {}),
            }
            for c in classes
        ],
        "clips": clips,
    }
    (out / "annotation.json").write_text(json.dumps(annotation, indent=1) + "\n")
    size = sum((out / c["path"]).stat().st_size for c in clips)
    print(f"{len(classes)} classes, {len(clips)} clips, {size / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
