"""The shipped data: counts, sizes, split, that clips show what they are called, and that the generator gives them again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from fsar_bench.data.dataset import BUILTIN
from tools.synthact.build import WORLDS
from tools.synthact.classes import action_classes, class_named
from tools.synthact.motions import MOTIONS, arc, bounce, circle, corner, fall, onto, striking, struck, toss
from tools.synthact.render import FPS, clip
from tools.synthact.stage import Stage
from tools.synthact.staging import SHIPPED, Staging
from tools.synthact.things import POINTED
from tools.synthact.video import decode, encode
from tools.synthact_clip.renderings import BROAD, WRONG, compose, noisy
from tools.synthact_clip.train import TRAIN_SEED, UNSEEN_SEED, five_way


def annotation_of(world: str) -> dict:
    return json.loads((BUILTIN / world / "annotation.json").read_text())


@pytest.fixture(scope="module")
def annotation() -> dict:
    return annotation_of("synthact")


@pytest.mark.parametrize(("world", "megabytes", "clips"), [("synthact", 16, 12), ("synthact_scene", 5, 20)])
def test_sizes(world, megabytes, clips):
    size = sum(path.stat().st_size for path in (BUILTIN / world).rglob("*") if path.is_file())
    assert size <= megabytes * 1e6
    assert set(Counter(c["class"] for c in annotation_of(world)["clips"]).values()) == {clips}


def test_counts_of_classes(annotation):
    groups = Counter((c["group"], c["split"]) for c in annotation["classes"])
    assert groups["order", "test"] >= 24  # as many as Something-Something's usual lists
    assert groups["order", "train"] >= groups["order", "test"]
    assert groups["scene", "test"] >= 12
    assert {split for _, split in groups} == {"train", "val", "test"}
    assert annotation["synthetic"] is True
    assert "MIT" in annotation["licence"]


@pytest.mark.parametrize(
    ("world", "groups"), [("synthact", {"order", "change", "person", "scene"}), ("synthact_scene", {"scene"})]
)
def test_annotation_is_the_class_table(world, groups):
    table = {c.name: (c.text, c.group, c.split, c.reverse_of) for c in action_classes() if c.group in groups}
    classes = annotation_of(world)["classes"]
    shipped = {c["name"]: (c["text"], c["group"], c["split"], c.get("reverse_of")) for c in classes}
    assert shipped == table
    for name, (_, _, split, reverse) in table.items():
        if reverse:
            assert table[reverse][2:] == (split, name)


@pytest.mark.parametrize("world", WORLDS)
def test_files_have_their_recorded_hash(world):
    for row in annotation_of(world)["clips"]:
        assert hashlib.sha256((BUILTIN / world / row["path"]).read_bytes()).hexdigest() == row["sha256"], row["id"]


@pytest.mark.parametrize(
    ("world", "name"),
    [
        ("synthact", "lifting_something_up"),
        ("synthact", "crawling_backwards"),
        ("synthact", "camping_by_a_lake"),
        ("synthact", "painting_something"),
        ("synthact_scene", "camping_by_a_lake"),
    ],
)
def test_generator_gives_the_shipped_frames_again(tmp_path, world, name):
    here = {"av": av.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
    made = annotation_of(world)["made_with"]
    if any(made[k] != v for k, v in here.items()):
        pytest.skip(f"the clips were made with {made}, this machine has {here}")
    for index in (0, 7):
        again = tmp_path / "again.mp4"
        one = clip(class_named(name), index, made["seed"], WORLDS[world].staging)
        encode(one.frames(), again, fps=FPS)
        assert (decode(again) == decode(BUILTIN / world / "clips" / name / f"{name}_{index:02d}.mp4")).all()


@pytest.mark.parametrize(
    ("path", "offsets"),  # at the beginning, a quarter, the middle, three quarters and the end
    [
        (corner((1, 0), (0, 1)), [(-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]),
        (corner((-1, 0), (0, -1)), [(1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)]),
        (circle(2), [(0, -2), (2, 0), (0, 2), (-2, 0), (0, -2)]),
        (arc(1), [(-1.3, 0), (-0.919, -0.707), (0, -1), (0.919, -0.707), (1.3, 0)]),
        (fall, [(0, -2.4), (0, -2.125), (0, -1.3), (0, 0.075), (0, 2)]),
        (toss, [(0, 1.2), (0, -0.9), (0, -1.6), (0, -0.9), (0, 1.2)]),
        (bounce, [(-1.2, 1), (-0.6, -0.273), (0, -0.8), (0.6, -0.273), (1.2, 1)]),
        (striking, [(-2.25, 0), (-1.5, 0), (-0.75, 0), (-0.75, 0), (-0.75, 0)]),
        (struck, [(0.75, 0), (0.75, 0), (0.75, 0), (1.5, 0), (2.25, 0)]),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_paths_lead_where_they_should(path, offsets):
    assert np.allclose([path(u) for u in (0, 0.25, 0.5, 0.75, 1)], offsets, atol=1e-3)


def test_what_is_put_onto_something_comes_from_aside_and_ends_above_it():
    start, end = onto(0), onto(1)
    assert start[0] < -1.5
    assert end == pytest.approx((0, -0.9))


def middles(name: str, index: int) -> np.ndarray:
    """Where a clip differs from its median frame: centre (x, y) in pixels, weighted by how much, where it does at all."""
    plain = Staging(shift=6, turn=0, bystander=0)
    frames = clip(class_named(name), index, 5, plain).frames().astype(np.float64)
    apart = np.abs(frames - np.median(frames, 0)).sum(-1)
    apart[apart < 60] = 0
    total = apart.sum((1, 2))
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    seen = total > total.max() / 4
    return np.stack([(apart * x).sum((1, 2)), (apart * y).sum((1, 2))], 1)[seen] / total[seen, None]


@pytest.mark.parametrize(
    ("name", "right", "down"),
    [
        ("pushing_something_from_left_to_right", 1, 0),
        ("pulling_something_from_right_to_left", -1, 0),
        ("pushing_something_from_right_to_left", -1, 0),
        ("pulling_something_from_left_to_right", 1, 0),
        ("lifting_something_up", 0, -1),
        ("lowering_something", 0, 1),
        ("moving_something_down_to_the_right", 1, 1),
        ("moving_something_up_to_the_left", -1, -1),
        ("moving_something_to_the_right_and_then_up", 1, -1),
        ("moving_something_down_and_then_to_the_left", -1, 1),
        ("letting_something_roll_to_the_left", -1, 0),
        ("letting_something_bounce_to_the_right", 1, 0),
        ("dropping_something", 0, 1),
        ("throwing_something_up_in_the_air", 0, -1),
        ("pushing_something_and_something_to_the_right", 1, 0),
        ("letting_something_bounce_to_the_left", -1, 0),
    ],
)
def test_clips_move_as_their_names_say(name, right, down):
    for index in range(3):
        path = middles(name, index)
        x, y = path[-3:].mean(0) - path[:3].mean(0)
        assert x * right > 4 if right else abs(x) < 30, (index, x, y)
        assert y * down > 4 if down else abs(y) < 30, (index, x, y)


def test_order_motions_share_one_pool_of_things():
    """Any thing in any motion: who knows what is shown knows nothing of the class."""
    assert len(MOTIONS) > 30
    for motion, template, *_ in MOTIONS:
        seen = set()
        for index in range(60):
            stage = Stage(np.random.default_rng([7, index]), SHIPPED)
            motion(stage)
            seen |= {words.split(" ", 2)[2] for words in stage.words}
            if seen == set(POINTED):
                break
        assert seen == set(POINTED), template


def test_captions_are_never_class_labels():
    labels = {c.text.lower() for c in action_classes()}
    rng, captions = np.random.default_rng(0), []
    for action in action_classes():
        shown = clip(action, 3, UNSEEN_SEED)
        captions += [compose(rng, shown, stage) for stage in (0, 1, 2) * 12]
    assert not labels & {caption.lower() for caption in captions}
    assert not {f"a photo of {label}" for label in labels} & {caption.lower() for caption in captions}
    mixed = noisy(captions, 3)
    wrong = sum(a != b for a, b in zip(captions, mixed, strict=True)) / len(captions)
    assert wrong == pytest.approx(WRONG, abs=0.02)
    assert set(mixed) <= set(captions)


def test_the_encoder_is_trained_and_reported_on_other_clips_than_those_of_each_world():
    seeds = [annotation_of(world)["made_with"]["seed"] for world in WORLDS]
    assert len({TRAIN_SEED, UNSEEN_SEED, *seeds}) == 2 + len(WORLDS)


def first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


def colour_casts(world: str) -> np.ndarray:
    """Of each clip of scenes, how far its mean red and blue are from its mean green, as logarithms `[M, 2]`."""
    names = [c.name for c in action_classes() if c.group == "scene"]
    paths = [BUILTIN / world / "clips" / name / f"{name}_{index:02d}.mp4" for name in names for index in range(4)]
    means = np.stack([first_frame(path).mean((0, 1)) for path in paths])
    return np.log(means[:, [0, 2]] / means[:, [1]])


def test_cameras_of_the_scene_board_differ_in_their_white_balance():
    """Uniform gains of 0.64 to 1.36 have a standard deviation of 0.215 in logarithms, those of 0.92 to 1.08 0.046."""
    added = colour_casts("synthact_scene").var(0) - colour_casts("synthact").var(0)
    assert BROAD.balance == SHIPPED.balance == (0.92, 1.08)  # what the small CLIP is trained on
    assert np.allclose(added, 2 * (0.215**2 - 0.046**2), rtol=0.5)


def test_five_way_accuracy_counts_every_choice_of_others():
    from itertools import combinations

    scores = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
    right = [
        all(row[t] > row[k] for k in others)
        for row, t in zip(scores.tolist(), truth.tolist(), strict=True)
        for others in combinations([k for k in range(7) if k != t], 4)
    ]
    assert five_way(scores, truth) == pytest.approx(sum(right) / len(right))
