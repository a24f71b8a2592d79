"""Which images of a folder are its frames, and in which order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fsar_bench.data.images import frame_files, frame_series
from fsar_bench.data.readers import ImageReader
from fsar_bench.errors import DataError


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def numbered(pattern: str, numbers) -> list[str]:
    return [pattern.format(number) for number in numbers]


@pytest.mark.parametrize(
    ("frames", "beside"),
    [
        (numbered("img_{:05d}.jpg", range(1, 13)),
         numbered("flow_x_{:05d}.jpg", range(12)) + numbered("flow_y_{:05d}.jpg", range(12))),
        (numbered("{:05d}.jpg", range(1, 13)), numbered("{:05d}_mask.png", range(1, 13))),
        (numbered("{:05d}.jpg", range(1, 13)), numbered("x_{:05d}.jpg", range(30)) + numbered("y_{:05d}.jpg", range(30))),
        (numbered("frame{}.png", range(12)), numbered("plot{}.png", range(2))),
        (numbered("color_{}.png", range(12)), numbered("depth_{}.png", range(12))),
        (numbered("{}.png", range(12)), ["sheet.jpg", "thumb.jpg", "folder.jpg"]),
        (numbered("clip3_{:03d}.JPG", range(12)), ["poster.png"]),
        (["00001.jpg"], ["00001_mask.png"]),
        (["only.png"], []),
    ],
)  # fmt: skip
def test_frames_are_told_from_what_lies_beside_them(tmp_path, frames, beside):
    folder(tmp_path, *frames, *beside, "notes.txt", ".DS_Store", "._img_00001.jpg", "._00001.png", "Thumbs.db")
    series = frame_series(tmp_path)
    assert list(series.names) == frames
    assert list(series.passed_over) == sorted(beside)
    assert [file.name for file in frame_files(tmp_path)] == frames
    assert (f"{len(beside)} image" in series.note) == bool(beside)


def test_flow_alone_is_read_and_told(tmp_path):
    series = frame_series(folder(tmp_path, *numbered("flow_{}.jpg", range(3))))
    assert (len(series.names), series.passed_over) == (3, ())
    assert series.note == "its images are called flow_0.jpg, as images beside frames are (optical flow, masks, depth)"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (numbered("{:05d}.jpg", range(12)), numbered("{:05d}.png", range(12))),
        (numbered("left_{}.jpg", range(12)), numbered("right_{}.jpg", range(12))),
        (numbered("clip3_{:03d}.jpg", range(12)), numbered("clip4_{:03d}.jpg", range(12))),
        (numbered("flow_x_{}.jpg", range(12)), numbered("flow_y_{}.jpg", range(12))),
    ],
)
def test_two_series_are_refused_with_both(tmp_path, first, second):
    folder(tmp_path, *first, *second)
    with pytest.raises(DataError, match="several series") as error:
        frame_files(tmp_path)
    for part in (first, second):
        assert part[0] in str(error.value)
    assert str(error.value).count("(12 images)") == 2
    assert str(tmp_path) in str(error.value)


def test_frames_are_sorted_by_the_number_that_varies(tmp_path):
    names = numbered("take2_{}_of_30.jpg", range(1, 31))
    assert [file.name for file in frame_files(folder(tmp_path, *reversed(names)))] == names


def test_two_numbers_that_count_together_are_one_series(tmp_path):
    names = [f"f{i}_t{33 * i}ms.jpg" for i in range(12)]
    assert [file.name for file in frame_files(folder(tmp_path, *names))] == names


def test_frames_in_two_formats_that_complete_each_other_are_one_series(tmp_path):
    names = [f"{i:03d}.{'jpg' if i % 3 else 'png'}" for i in range(12)]
    assert [file.name for file in frame_files(folder(tmp_path, *names))] == names


def test_gaps_are_told_and_steps_are_none(tmp_path):
    (tmp_path / "gap").mkdir()
    (tmp_path / "step").mkdir()
    gap = frame_series(folder(tmp_path / "gap", *numbered("{:05d}.jpg", [i for i in range(1, 49) if i != 17])))
    assert gap.missing == (17,)
    assert "1 frame is missing" in gap.note
    assert not frame_series(folder(tmp_path / "step", *numbered("{:05d}.jpg", range(0, 480, 10)))).missing


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.jpg", "b.jpg", "c.jpg"), "no numbers that tell their order"),
        (("1.jpg", "2.jpg", "01.jpg"), "Two images .* have the number 1: 01.jpg and 1.jpg"),
        (("1.jpg", "2.jpg", "1.JPG"), "Two images .* have the number 1: 1.JPG and 1.jpg"),
    ],
)
def test_images_without_an_order_are_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        frame_files(folder(tmp_path, *names))


def test_a_folder_without_images_has_no_frames(tmp_path):
    assert frame_files(folder(tmp_path, "a.txt")) == []


def image(path: Path, side: int) -> None:
    cv2.imwrite(str(path), np.full((side, 2 * side, 3), 90, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), r"img_4\.png is empty"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), r"img_4\.png is not an image"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), r"img_4\.png"),
        (lambda path: image(path, 20), r"img_4\.png has 40 x 20 pixels, others have 96 x 48"),
    ],
)
def test_an_image_that_does_not_belong_is_named(tmp_path, spoil, message):
    for number in range(8):
        image(tmp_path / f"img_{number}.png", 48)
    spoil(tmp_path / "img_4.png")
    reader = ImageReader()
    with pytest.raises(ValueError, match=message):
        reader.read(reader.open(str(tmp_path)), np.arange(8), resize=32, crop=32)
