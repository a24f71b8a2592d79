"""Which images of a folder are its frames, and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from fsar_bench.data.images import frame_files, frame_series, series_of
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


def stamps(rate: float, count: int, digits: int | None, pattern: str = "frame_{}.jpg", first: int = 0) -> list[str]:
    """Names by the time of each frame, in the order of the frames; without digits, as short as they go."""
    times = [number / rate for number in range(first, first + count)]
    return [pattern.format(time if digits is None else f"{time:.{digits}f}") for time in times]


def clocks(form: str, count: int, step: float, start: str = "2024-01-28 23:59:50") -> list[str]:
    """Names by the time of day of each frame; `%f` is that in milliseconds."""
    times = [datetime.fromisoformat(start) + timedelta(milliseconds=round(1000 * step * i)) for i in range(count)]
    return [time.strftime(form.replace("%f", f"{time.microsecond // 1000:03d}")) for time in times]


CONFIDENCES = [0.97, 0.93, 0.95, 0.91, 1.0, 0.94, 0.96, 0.92]
IN_ORDER = {
    "29.97 fps": stamps(29.97, 90, 3),
    "29.97 fps, more than 10 s": stamps(29.97, 600, 3),
    "30 fps, two digits": stamps(30, 90, 2, "{}.jpg"),
    "3 fps": stamps(3, 12, 2, "{}.jpg"),
    "3 fps, with a unit": stamps(3, 12, 2, "t{}s.jpg"),
    "10 fps": stamps(10, 25, 1),
    "10 fps, from the middle of a second": stamps(10, 10, 1, "{}.jpg", 5),
    "1 fps": stamps(1, 12, 3),
    "0.7 fps": stamps(0.7, 12, 2, "{}.jpg"),
    "4 fps, as short as it goes": stamps(4, 12, None, "{}.jpg"),
    "4 fps, within a second": stamps(4, 4, None, "{}.jpg"),
    "29.97 fps, as long as it gets": stamps(29.97, 70, None),
    "a counter and a time": [f"frame_{i:03d}_{i / 29.97:.3f}.jpg" for i in range(90)],
    "hours, minutes, seconds": clocks("img_%H-%M-%S.%f.jpg", 90, 1 / 30, "2024-01-01 00:00:00"),
    "over a full minute": clocks("img_%H-%M-%S.%f.jpg", 90, 1 / 30, "2024-01-01 00:00:58"),
    "milliseconds behind a dash": clocks("img_%H-%M-%S-%f.jpg", 60, 0.04, "2024-01-01 00:59:59"),
    "seconds over a full hour": clocks("%H.%M.%S.jpg", 200, 1, "2024-01-01 00:58:59"),
    "minutes and seconds": clocks("%M-%S.%f.jpg", 90, 1 / 30, "2024-01-01 00:01:58"),
    "a few times": ["img_00-00-01.001.jpg", "img_00-00-01.501.jpg", "img_00-00-02.001.jpg", "img_00-00-02.501.jpg"],
    "over the end of a month": clocks("%Y-%m-%d %H.%M.%S.jpg", 30, 10_000),
    "seconds over midnight": clocks("%Y-%m-%d %H.%M.%S.jpg", 11, 1),
    "two images around midnight": ["2024-01-28 23.59.50.jpg", "2024-02-01 00.00.00.jpg"],
    "phone, over midnight": clocks("IMG_%Y%m%d_%H%M%S.jpg", 20, 1),
    "phone, milliseconds": clocks("PXL_%Y%m%d_%H%M%S.%f.jpg", 20, 0.7),
    "a confidence in front": [f"{confidence}_frame_{i:03d}.jpg" for i, confidence in enumerate(CONFIDENCES)],
    "a confidence of two digits in front": [f"{c:.2f}_frame_{i:03d}.jpg" for i, c in enumerate(CONFIDENCES)],
    "a confidence without a word": [f"{confidence:.2f}_{i:03d}.jpg" for i, confidence in enumerate(CONFIDENCES)],
    "a confidence with a dot behind": [f"{confidence:.2f}.{i:03d}.jpg" for i, confidence in enumerate(CONFIDENCES)],
    "a countdown in front": [f"x{20 - i}_{i}.jpg" for i in range(21)],
    "a version in front": [f"v1.{i}.jpg" for i in range(8, 31)],
    "a counter behind its number of digits": [f"frame{i}.jpg" for i in range(8, 120)],
}  # fmt: skip


@pytest.mark.parametrize("names", IN_ORDER.values(), ids=IN_ORDER)
def test_frames_are_read_in_the_order_of_their_times_or_counter(names):
    shuffled = random.Random(0).sample(names, len(names))
    assert list(series_of(shuffled, Path("/x")).names) == names


@pytest.mark.parametrize(
    ("names", "first", "second"),
    [
        (["v_0_7.jpg", "v_0_9.jpg", "v_1_3.jpg", "v_1_5.jpg"],
         "v_1_3.jpg, v_1_5.jpg, v_0_7.jpg, v_0_9.jpg, …", "v_0_7.jpg, v_0_9.jpg, v_1_3.jpg, v_1_5.jpg, …"),
        (["1_58.jpg", "1_59.jpg", *numbered("2_{:02d}.jpg", range(58))],
         "2_00.jpg, 2_01.jpg, 2_02.jpg, 2_03.jpg, …", "1_58.jpg, 1_59.jpg, 2_00.jpg, 2_01.jpg, …"),
        (["take2.0003.jpg", "take2.0007.jpg", "take1.0011.jpg", "take1.0015.jpg"],
         "take2.0003.jpg, take2.0007.jpg, take1.0011.jpg, take1.0015.jpg", "take1.0011.jpg, take1.0015.jpg, take2.0003.jpg"),
        ([f"frame{20 - i}_{i}.jpg" for i in range(21)], "frame0_20.jpg, frame1_19.jpg", "frame20_0.jpg, frame19_1.jpg"),
        (["0.5.jpg", "0.25.jpg"], "0.5.jpg, 0.25.jpg, …", "0.25.jpg, 0.5.jpg, …"),
        (["a1_b1_c1.jpg", "a1_b2_c9.jpg", "a2_b3_c5.jpg"],
         "a1_b1_c1.jpg, a1_b2_c9.jpg, a2_b3_c5.jpg", "…, a1_b1_c1.jpg, a2_b3_c5.jpg"),
    ],
)  # fmt: skip
def test_an_uncertain_order_is_refused_with_both(names, first, second):
    with pytest.raises(DataError, match="two orders") as error:
        series_of(random.Random(0).sample(names, len(names)), Path("/x"))
    for order in (first, second):
        assert order.removeprefix("…, ") in str(error.value)
    assert "Call them img_00001.jpg" in str(error.value)


def cut(names: list[str], rng: random.Random) -> list[str]:
    """Some of the frames: a run of them, or every nth, or all but a few."""
    start = rng.randrange(len(names) - 3)
    run = names[start : start + rng.randrange(3, len(names) - start + 1)]
    return rng.choice((run, run[:: rng.randrange(1, 9)], [name for name in run if rng.random() < 0.8]))


TIMES: dict[str, Callable[[float], str]] = {
    "seconds, three digits": lambda t: f"frame_{t:.3f}.jpg",
    "seconds, two digits": lambda t: f"{t:.2f}.jpg",
    "seconds, as long as it gets": lambda t: f"t{t}.jpg",
    "minutes and seconds": lambda t: f"{int(t // 60):02d}-{t % 60:06.3f}.jpg",
    "clock": lambda t: f"00-{int(t // 60):02d}-{int(t % 60):02d}.{int(t * 1000 % 1000):03d}.jpg",
    "clock with dashes": lambda t: f"00-{int(t // 60):02d}-{int(t % 60):02d}-{int(t * 1000 % 1000):03d}.jpg",
    "milliseconds apart": lambda t: f"{int(t)}_{int(t * 1000 % 1000):03d}.jpg",
    "tenths apart": lambda t: f"v_{int(t)}_{int(t * 10 % 10)}.jpg",
}  # fmt: skip


@pytest.mark.parametrize("kind", TIMES)
def test_no_order_of_times_is_wrong_in_silence(kind):
    """Whatever the rate and the frames that are there: the order of the times, or an error."""
    rng = random.Random(kind)
    read = 0
    for rate, _ in product((0.4, 1, 2, 3, 5, 10, 12.5, 24, 29.97, 60), range(40)):
        names = list(dict.fromkeys(TIMES[kind](50 + i / rate) for i in range(150)))
        frames = cut(names, rng)
        if len(frames) < 2:
            continue
        try:
            series = series_of(rng.sample(frames, len(frames)), Path("/x"))
        except DataError:
            continue
        read += 1
        assert list(series.names) == frames
    assert read > 50


def test_a_part_of_another_series_is_not_passed_over(tmp_path):
    names = [*numbered("clip3_{:03d}.jpg", range(12)), "clip4_000.jpg"]
    with pytest.raises(
        DataError, match=r"several series: clip3_000.jpg to clip3_011.jpg \(12 images\) and clip4_000.jpg\."
    ):
        frame_files(folder(tmp_path, *names))


def test_numbers_with_a_dot_may_be_several_series():
    names = [f"clip{clip}.{frame:05d}.jpg" for clip in (3, 4) for frame in range(1, 301)]
    with pytest.raises(DataError, match="several series"):
        series_of(names, Path("/x"))


def test_an_uncertain_order_of_what_is_passed_over_does_not_matter():
    names = numbered("img_{:05d}.jpg", range(4))
    flow = ["flow_0_7.jpg", "flow_0_9.jpg", "flow_1_3.jpg", "flow_1_5.jpg"]
    assert series_of(flow + names, Path("/x")) == series_of(names + flow, Path("/x"))
    assert list(series_of(flow + names, Path("/x")).names) == names


@pytest.mark.parametrize("numeric", [1, 2, 3])
def test_a_few_numbers_among_hashed_names_are_no_series(numeric):
    hashes = [f"{number:08d}.jpg" for number in random.Random(1).sample(range(10**8), numeric)]
    hashes += [f"{'abcdef'[i % 6]}{i * 7919:x}{'fedcba'[i // 6 % 6]}b{i}.jpg" for i in range(50 - numeric)]
    with pytest.raises(DataError, match=rf"/x.*{sorted(hashes[:numeric])[0]}|no numbers|several series"):
        series_of(hashes, Path("/x"))


def test_strangers_that_outnumber_the_frames_are_named():
    names = ["03529821.jpg", "77120953.jpg", "035e2982.jpg", "a1b2.jpg", "zz.jpg"]
    with pytest.raises(
        DataError, match=r"only 2 images have numbers .*03529821.*; 3 have not \(035e2982.jpg, a1b2.jpg, zz.jpg\)"
    ):
        series_of(names, Path("/x"))
    beside = ["flow_1.jpg", "mask.png", "thumb.jpg", "sheet.jpg"]
    assert list(series_of(names[:2] + beside + names[2:4], Path("/x")).names) == names[:2]


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
