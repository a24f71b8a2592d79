"""The shipped data: counts, sizes, split, and that the generator gives the same frames again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import av
import cv2
import numpy as np
import pytest

from fsar_bench.data.dataset import BUILTIN
from tools.synthact.classes import action_classes
from tools.synthact.render import FPS, clip
from tools.synthact.video import decode, encode

FOLDER = BUILTIN / "synthact"


@pytest.fixture(scope="module")
def annotation() -> dict:
    return json.loads((FOLDER / "annotation.json").read_text())


def test_size_and_counts(annotation):
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 16e6
    assert len(annotation["classes"]) >= 90
    assert min(Counter(c["class"] for c in annotation["clips"]).values()) >= 12
    test = [c for c in annotation["classes"] if c["split"] == "test"]
    for group in ("order", "scene"):
        assert sum(c["group"] == group for c in test) >= 10
    assert annotation["synthetic"] is True
    assert "MIT" in annotation["licence"]


def test_annotation_is_the_class_table(annotation):
    table = {c.name: (c.text, c.group, c.split, c.reverse_of) for c in action_classes()}
    shipped = {c["name"]: (c["text"], c["group"], c["split"], c.get("reverse_of")) for c in annotation["classes"]}
    assert shipped == table
    for name, (_, _, split, reverse) in table.items():
        if reverse:
            assert table[reverse][2:] == (split, name)


def test_files_have_their_recorded_hash(annotation):
    for row in annotation["clips"]:
        assert hashlib.sha256((FOLDER / row["path"]).read_bytes()).hexdigest() == row["sha256"], row["id"]


@pytest.mark.parametrize("name", ["moving_something_up", "crawling_backwards", "camping_by_a_lake", "doing_a_backflip"])
def test_generator_gives_the_shipped_frames_again(annotation, tmp_path, name):
    here = {"av": av.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
    made = annotation["made_with"]
    if any(made[k] != v for k, v in here.items()):
        pytest.skip(f"the clips were made with {made}, this machine has {here}")
    action = next(c for c in action_classes() if c.name == name)
    for index in (0, 7):
        again = tmp_path / "again.mp4"
        encode(clip(action, index, made["seed"]).frames(), again, fps=FPS)
        assert (decode(again) == decode(FOLDER / "clips" / name / f"{name}_{index:02d}.mp4")).all()
