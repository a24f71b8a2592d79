"""Augmentation of training clips: boxes and flips are read back from painted frames, distributions are torchvision's."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms import MultiScaleCrop
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tv

from fsar_bench.data.augment import Augmentation
from fsar_bench.data.dataset import Clip
from fsar_bench.data.decode import ReadPlan, Request
from fsar_bench.data.frames import FrameSource
from fsar_bench.data.sampling import random_frames
from fsar_bench.errors import DataError
from fsar_bench.randomness import generator

WIDTH, HEIGHT, FRAMES = 120, 90, 24
DRAWS = 3000
AUGMENTATIONS = {
    "center": Augmentation(flip=0.5),
    "random": Augmentation("random", flip=0.5),
    "resized": Augmentation("resized", flip=0.5),
    "multiscale": Augmentation("multiscale", flip=0.5),
}


def painted(width: int = WIDTH, height: int = HEIGHT, frames: int = FRAMES) -> np.ndarray:
    """Frames `[T, H, W, 3]` whose pixels hold twice their column, twice their row and ten times the number of the frame."""
    out = np.empty((frames, height, width, 3), np.uint8)
    out[..., 0] = 2 * np.arange(width)
    out[..., 1] = 2 * np.arange(height)[:, None]
    out[..., 2] = 10 * np.arange(frames)[:, None, None]
    return out


def read_back(clip: np.ndarray) -> tuple[float, float, float, float, bool]:
    """Left, top, width and height of the box that painted frames show, and whether they are mirrored.

    Column x of a resized crop shows left + (x + 1/2) width / side - 1/2: a straight line through the middle columns.
    """
    side = clip.shape[1]
    inner = np.arange(2, side - 2)
    boxes = []
    for channel, axis in ((0, 1), (1, 0)):
        line = clip[0, ..., channel].astype(float).mean(1 - axis) / 2
        slope, start = np.polyfit(inner + 0.5, line[inner] + 0.5, 1)
        boxes.append((abs(slope) * side, start + min(slope, 0) * side, slope < 0))
    (width, left, mirrored), (height, top, upside_down) = boxes
    assert not upside_down
    return left, top, width, height, bool(mirrored)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_clip_shows_the_box_and_the_flip_that_were_drawn(name):
    augmentation, seen = AUGMENTATIONS[name], set()
    for place in range(40):
        seed = (7, 3, place)
        clip = augmentation.apply(painted(), 60, seed)
        assert clip.shape == (FRAMES, 60, 60, 3)
        assert clip.dtype == np.uint8
        assert (clip[..., :2] == clip[:1, ..., :2]).all()  # one box for all frames
        assert (clip[..., 2] == 10 * np.arange(FRAMES)[:, None, None]).all()
        *box, mirrored = read_back(clip)
        assert np.allclose(box, augmentation.box(WIDTH, HEIGHT, 60, seed), atol=1.0)
        assert mirrored == augmentation.is_flipped(seed)
        seen.add((*np.round(box).astype(int).tolist(), mirrored))
    assert len(seen) > (1 if name == "center" else 20)


def test_center_is_the_crop_of_the_evaluation_and_flips_mirror_it():
    plain = Augmentation().apply(painted(), 60, (0,))
    assert (plain == painted()[:, 15:75, 30:90]).all()
    assert (Augmentation(flip=1.0).apply(painted(), 60, (0,)) == plain[:, :, ::-1]).all()


def test_squashed_frames_lose_their_ratio_before_the_crop():
    lefts = set()
    for place in range(20):
        squash = Augmentation("random", squash=True)
        left, top, width, height, _ = read_back(squash.apply(painted(), 60, (3, place)))
        assert np.allclose((width, height), (60 * WIDTH / HEIGHT, 60), atol=1.0)  # a square of 90 shows all 120 columns
        box = squash.box(HEIGHT, HEIGHT, 60, (3, place))
        assert np.allclose((left, top), (box.left * WIDTH / HEIGHT, box.top), atol=1.5)
        lefts.add(round(left))
    assert len(lefts) > 8
    assert squash.crop_alone == squash
    square = painted(HEIGHT)
    assert (squash.apply(square, 60, (0,)) == Augmentation("random").apply(square, 60, (0,))).all()


def test_random_crops_are_uniform_and_flips_are_half():
    boxes = [Augmentation("random").box(20, 14, 10, (0, 1, i)) for i in range(DRAWS)]
    for values, places in (([b.left for b in boxes], 11), ([b.top for b in boxes], 5)):
        assert chisquare(np.bincount(values, minlength=places)).pvalue > 0.01
    flips = [Augmentation(flip=0.5).is_flipped((0, 1, i)) for i in range(DRAWS)]
    assert abs(np.mean(flips) - 0.5) < 0.03
    assert not any(Augmentation(flip=0.0).is_flipped((0, 1, i)) for i in range(DRAWS))
    assert abs(np.corrcoef(flips, [b.left for b in boxes])[0, 1]) < 0.05


def test_a_frame_as_high_as_the_crop_moves_along_its_long_side_alone():
    boxes = [Augmentation("random").box(80, 60, 60, (0, i)) for i in range(200)]
    assert {box.top for box in boxes} == {0}
    assert {box.left for box in boxes} == set(range(21))


def test_resized_crops_have_torchvisions_areas_ratios_and_places():
    torch.manual_seed(0)
    picture = torch.zeros(3, 256, 340)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)])
    ours = np.array([Augmentation("resized").box(340, 256, 224, (1, i)) for i in range(DRAWS)])
    top, left, height, width = theirs.T
    for mine, reference in (
        (ours[:, 2] * ours[:, 3], width * height),
        (ours[:, 2] / ours[:, 3], width / height),
        (ours[:, 0], left),
        (ours[:, 1], top),
    ):
        assert ks_2samp(mine, reference).pvalue > 0.01
    squares = np.array([Augmentation("resized", area=0.3, ratio=1.0).box(512, 512, 224, (2, i)) for i in range(DRAWS)])
    assert (squares[:, 2] == squares[:, 3]).all()
    assert kstest(squares[:, 2] ** 2 / 512**2, "uniform", args=(0.3, 0.7)).pvalue > 0.01


def test_a_frame_too_narrow_for_any_ratio_gives_its_largest_allowed_centre():
    box = Augmentation("resized", area=1.0, ratio=4 / 3).box(600, 60, 60, (0,))
    assert box == (260, 0, 80, 60)


def test_multiscale_crops_are_those_of_mmaction():
    random.seed(0)
    theirs = set()
    crop = MultiScaleCrop(224, scales=(1, 0.875, 0.75, 0.66), max_wh_scale_gap=1, num_fixed_crops=13)
    for _ in range(DRAWS):
        left, top, right, bottom = crop({"img_shape": (256, 340), "modality": "RGB"})["crop_bbox"].tolist()
        theirs.add((left, top, right - left, bottom - top))
    ours = [Augmentation("multiscale").box(340, 256, 224, (0, i)) for i in range(DRAWS)]
    assert {tuple(box) for box in ours} == theirs
    sizes = {(box.width, box.height) for box in ours}
    assert len(sizes) == 10  # 4 scales for each side, at most one step apart


def natural(frames: int = 3) -> np.ndarray:
    rough = generator(0, "picture").integers(0, 256, (6, 6, 3)).astype(np.uint8)
    picture = cv2.resize(rough, (40, 40), interpolation=cv2.INTER_CUBIC)
    return np.repeat(picture[None], frames, 0)


def test_colours_are_those_of_torchvision_and_the_same_for_all_frames():
    changed = 0
    for place in range(30):
        clip = Augmentation(jitter=0.5, grayscale=0.3).apply(natural(), 40, (5, place))
        assert (clip == clip[:1]).all()
        draw = generator(5, "colours", place)
        is_grey, factors, turn = draw.random() < 0.3, draw.uniform(0.5, 1.5, 3), draw.uniform(-0.25, 0.25)
        picture = torch.from_numpy(natural(1)[0]).permute(2, 0, 1).float() / 255
        if is_grey:
            picture = tv.rgb_to_grayscale(picture, 3)
            assert int(np.ptp(clip, axis=-1).max()) <= 1
        steps = [
            lambda x, f=factors: tv.adjust_brightness(x, f[0]),
            lambda x, f=factors: tv.adjust_contrast(x, f[1]),
            lambda x, f=factors: tv.adjust_saturation(x, f[2]),
            lambda x, t=turn: tv.adjust_hue(x, t),
        ]
        for number in draw.permutation(4):
            picture = steps[number](picture)
        expected = (picture.permute(1, 2, 0) * 255).numpy()
        assert np.abs(clip[0] - expected).max() < 2
        changed += bool((clip != natural()).any())
    assert changed == 30


def test_grey_clips_have_the_asked_probability_and_colours_of_the_others_stay():
    clips = [Augmentation(grayscale=0.3).apply(natural(1), 40, (0, i)) for i in range(1000)]
    grey = [not np.ptp(clip, axis=-1).any() for clip in clips]
    assert abs(np.mean(grey) - 0.3) < 0.05
    assert all((clip == natural(1)).all() for clip, is_grey in zip(clips, grey, strict=True) if not is_grey)


def test_switching_one_part_on_leaves_the_others_as_they_were():
    seed = (3, 1, 4)
    for other in (Augmentation("random", flip=0.5), Augmentation("random", jitter=0.5, grayscale=1.0)):
        assert other.box(WIDTH, HEIGHT, 60, seed) == Augmentation("random").box(WIDTH, HEIGHT, 60, seed)
    assert Augmentation("random", flip=0.5, jitter=0.4, grayscale=0.1).crop_alone == Augmentation("random")


@pytest.fixture(scope="module")
def folder_clip(tmp_path_factory) -> Clip:
    """Painted frames as a folder of images."""
    folder = tmp_path_factory.mktemp("painted")
    for number, frame in enumerate(painted()):
        cv2.imwrite(str(folder / f"{number:03}.png"), frame[..., ::-1])
    return Clip("painted", "paint", folder)


def source(whole: bool, workers: int = 1, **plan) -> FrameSource:
    settings = {"reader": "images", "resize": HEIGHT, "crop": 60, "frames": 8, "whole_up_to": 64 * whole, **plan}
    return FrameSource(ReadPlan(**settings), workers=workers, seconds=60)


@pytest.mark.parametrize("whole", [True, False])
def test_frames_from_files_show_the_random_frames_and_the_drawn_box(folder_clip, whole, monkeypatch, tmp_path):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path))
    augmentation = Augmentation("random", flip=0.5)
    seeds = [(0, 9, place) for place in range(12)]
    with source(whole) as reading:
        requests = [Request(folder_clip, seed, augmentation) for seed in seeds]
        clips = reading.read(requests)
        assert (clips == reading.read(requests)).all()  # decoded, then from the cache
    for clip, seed in zip(clips, seeds, strict=True):
        assert (clip[:, 0, 0, 2] // 10).tolist() == random_frames(FRAMES, 8, seed).tolist()
        *box, mirrored = read_back(clip)
        assert np.allclose(box, augmentation.box(WIDTH, HEIGHT, 60, seed), atol=0.01)
        assert mirrored == augmentation.is_flipped(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_frames_do_not_depend_on_workers_or_cache(folder_clip, name, monkeypatch, tmp_path):
    requests = [Request(folder_clip, (0, 5, i), AUGMENTATIONS[name]) for i in range(6)]
    seen = []
    for case, (whole, workers) in enumerate([(True, 1), (False, 1), (True, 2)]):
        monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / str(case)))
        with source(whole, workers) as reading:
            seen += [reading.read(requests), reading.read(requests[::-1])[::-1]]
    assert all((seen[0] == other).all() for other in seen[1:])


def test_cached_frames_of_evaluation_and_of_augmented_training_are_kept_apart(folder_clip, monkeypatch, tmp_path):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path))
    kinds = [Request(folder_clip), Request(folder_clip, (0, 1)), Request(folder_clip, (0, 1), Augmentation("random"))]
    with source(whole=True) as reading:
        alone = [reading.read([kind]) for kind in kinds]
        again = [reading.read([kind]) for kind in kinds]
    assert all((a == b).all() for a, b in zip(alone, again, strict=True))
    shapes = sorted(np.load(path).shape for path in tmp_path.rglob("*.npy"))
    assert shapes == [(8, 60, 60, 3), (FRAMES, 60, 60, 3), (FRAMES, HEIGHT, WIDTH, 3)]
    with pytest.raises(ValueError, match="drawn at random"):
        Request(folder_clip, None, Augmentation("random"))


@pytest.mark.parametrize("whole", [True, False])
def test_frames_smaller_than_the_crop_are_named(folder_clip, whole, monkeypatch, tmp_path):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path))
    requests = [Request(folder_clip, (0, 1), Augmentation("random"))]
    with source(whole, resize=45) as reading:
        for _ in ("decoded", "from the cache"):
            with pytest.raises(DataError, match=r"'painted'.*60 x 45 pixels are smaller"):
                reading.read(requests)


READER = """
import numpy as np
from fsar_bench.registry import READERS

@READERS.register_module(name="{name}")
class Reader:
    version = "{name} 1"
    def open(self, path):
        return {{"total_frames": 24}}
    def read(self, clip, indices, *, resize, crop):
        return np.zeros((len(indices), {side}, {side}, 3), np.uint8)
"""


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("always_crops", "60", "asked for whole frames .*returned 60 x 60 pixels: the short side should have 90"),
        ("adds_to_crop", "crop + 0", r"asked for whole frames .* failed: unsupported operand"),
    ],
)
def test_a_custom_reader_that_cannot_leave_the_crop_out_is_named(folder_clip, tmp_path, name, side, message):
    (tmp_path / f"{name}_module.py").write_text(READER.format(name=name, side=side))
    how = {"reader": name, "modules": (f"{name}_module",), "folders": (str(tmp_path),)}
    from fsar_bench.registry import import_components

    import_components([f"{name}_module"], [str(tmp_path)])
    with source(whole=False, **how) as reading:
        assert reading.read([Request(folder_clip, (0, 1))]).shape == (
            1,
            8,
            60,
            60,
            3,
        )  # without augmentation it is fine
        with pytest.raises(DataError, match=f"'painted' cannot be decoded by the reader '{name}'.*{message}"):
            reading.read([Request(folder_clip, (0, 1), Augmentation("random"))])
