"""Annotations that would let clips leak or vanish, spellings of class names, source recordings, and clips in two splits."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers import annotation_rows

from fsar_bench.cli.data import stats_command
from fsar_bench.data.dataset import Clip, Dataset, Split, open_dataset
from fsar_bench.data.faults import spelling
from fsar_bench.data.importing.audit import recording_counts, recording_of, recordings, shared_recordings
from fsar_bench.data.importing.classes import known_datasets, table
from fsar_bench.data.leaks import Contents, described, repeats, shared_names
from fsar_bench.errors import DataError
from fsar_bench.plan import ClipList


def row(name: str, split: str, text: str = "", **more: object) -> dict:
    return {"name": name, "text": text or name, "split": split, **more}


def rows_of(*classes: dict, clips: int = 2, **more: object) -> dict:
    """An annotation with some clips of each class."""
    listed = [
        {"id": f"{each['name']}/{i}", "class": each["name"], "path": f"{number}_{i}.mp4", **more}
        for number, each in enumerate(classes)
        for i in range(clips)
    ]
    return {"classes": list(classes), "clips": listed}


def opened(folder: Path, rows: dict, groups: list[str] | None = None, name: str = "d") -> Dataset:
    path = folder / "a.json"
    path.write_text(json.dumps(rows))
    return Dataset(name, str(path), groups)


def clip(name: str, class_name: str, path: str | None, **more: object) -> dict:
    return {"id": name, "class": class_name, "path": path, **more}


CLASSES = [row("kick", "train"), row("wave", "test")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(row("kick", "tset")), "the class 'kick' has the split 'tset'. Did you mean 'test'?"),
        (rows_of(row("kick", "Test")), "the class 'kick' has the split 'Test'. Did you mean 'test'?"),
        (rows_of(row("kick", "")), "the class 'kick' has the split ''. Choose from: test, train, val."),
        ({"classes": [*CLASSES, CLASSES[0]], "clips": []}, "1 class is listed twice: 'kick' (train and train)."),
        ({"classes": [*CLASSES, row("wave", "train")], "clips": []}, "1 class is listed twice: 'wave' (test and train)."),
        ({"classes": CLASSES, "clips": [clip("a", "wave", "a\0b")]}, "the clip 'a' is no path: 'a\\x00b', it holds a null"),
        ({"classes": CLASSES, "clips": [clip("a", "wave", "")]}, "the path of the clip 'a' is no path: '', it is empty"),
        (rows_of(row("kick", "train"), row("Kick", "test")), "'kick' (train) and 'Kick' (test)"),
        (rows_of(row("ride_bike", "test"), row("Ride bike", "test")), "1 class is another spelling of a class: 'ride_bike'"),
        (rows_of(row("café", "val"), row(unicodedata.normalize("NFD", "café"), "test")), "is another spelling of a class"),
        (rows_of(row("push-up", "train"), row("push up!", "test")), "'push-up' (train) and 'push up!' (test)"),
        (rows_of(row(" ", "train")), "a class name is empty (' ')"),
        (rows_of(row("a\tb", "train")), r"the class name 'a\tb' holds a control character"),
        ({"classes": CLASSES, "clips": [clip("", "kick", "a")]}, "a clip id is empty ('')"),
        ({"classes": CLASSES, "clips": [clip("a\nb", "kick", "a")]}, r"the clip id 'a\nb' holds a control character"),
        (
            {"classes": CLASSES, "clips": [clip("a", "kick", "x.mp4"), clip("b", "kick", "./y/../x.mp4")]},
            "1 clip has the path of another clip of its class: ./y/../x.mp4 as 'a' and 'b' of 'kick'",
        ),
        (
            {"classes": CLASSES, "clips": [clip("a", "kick", "x", recording="r"), clip("b", "wave", "y")]},
            "1 of 2 clips lack the recording that they come from ('b'), and the others have one",
        ),
    ],
)  # fmt: skip
def test_what_would_leak_or_vanish_is_refused_by_name(tmp_path, rows, message):
    with pytest.raises(DataError) as raised:
        opened(tmp_path, rows)
    assert str(raised.value).startswith(f"In {tmp_path / 'a.json'}, ")
    assert message in str(raised.value)


def test_sound_annotations_are_silent(tmp_path):
    chinese = opened(tmp_path, rows_of(row("跑步", "train"), row("走路", "val"), row("跳舞", "test")))
    assert chinese.names == ["train", "val", "test"]
    one_path = {"classes": CLASSES, "clips": [clip("a", "kick", "x.mp4"), clip("b", "wave", "x.mp4")]}
    assert opened(tmp_path, one_path).names == ["train", "test"]  # a clip of two labels: runs look at that
    missing = {"classes": CLASSES, "clips": [clip("a", "kick", None), clip("b", "kick", None)]}
    assert opened(tmp_path, missing).split("train").missing == {"a", "b"}
    for name in known_datasets():
        classes = [row(each.name, each.split, each.text) for each in table(name).classes]
        opened(tmp_path, {"classes": classes, "clips": []})
    Dataset("synthact", "builtin:synthact")


def test_groups_that_are_not_kept_together_may_spell_the_same_names(tmp_path):
    rows = rows_of(row("Kick", "train", group="a"), row("kick", "test", group="b"))
    assert opened(tmp_path, rows, ["b"]).names == ["test"]
    with pytest.raises(DataError, match="another spelling"):
        opened(tmp_path, rows)


def test_a_missing_clip_takes_no_other_clip_of_its_id_with_it(tmp_path):
    rows = {
        "classes": [row("kick", "test"), row("wave", "test")],
        "clips": [clip("1", "kick", None), clip("1", "wave", "x")],
    }
    with pytest.raises(DataError, match=r"1 clip has the id of a missing clip of another class: '1' of 'wave'\. Give"):
        opened(tmp_path, rows).split("test")
    rows["clips"][1]["path"] = None
    rows["clips"].append(clip("2", "wave", "y"))
    assert opened(tmp_path, rows).split("test").coverage == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("one", "other", "are_twins"),
    [
        ("Test Class0", "test_class0", True),
        ("straße", "STRASSE", True),
        ("ride\u200bbike", "ride bike", True),
        ("Ｋｉｃｋ", "kick", True),
        ("跑步", "走路", False),
        ("हिन्दी", "हनद", False),
        ("café", "cafe", False),
        ("class1_1", "class11", False),
        ("1.5x", "15x", False),
        ("rotate -90", "rotate 90", False),
        ("C++", "C", False),
        ("!!", "!!!", False),
    ],
)
def test_spellings_of_one_name(one, other, are_twins):
    assert (spelling(one) == spelling(other)) is are_twins


# Recordings ---------------------------------------------------------------------------------------------------------------------


def split_of(*clips: Clip) -> Split:
    listed = ClipList.of([(each.class_name, each.id) for each in clips])
    return Split("test", listed, clips, tuple(listed.classes), (-1,) * len(listed.classes))


@pytest.mark.parametrize(
    ("dataset", "class_name", "name", "recording"),
    [
        ("ucf101", "PullUps", "v_PullUps_g08_c02", "PullUps 08"),
        ("hmdb51", "draw_sword", "Film_draw_sword_f_cm_np1_ri_med_0", "Film"),
        ("hmdb51", "sword", "Film_sword_u_cm_np2_le_goo_3", "Film"),
        ("hmdb51", "kick", "A_kick_in_it_Kick_f_cm_np1_ri_med_0", "A_kick_in_it"),
        ("kinetics100@cmn", "dancing", "-kYzxMKp514_000086_000096", "-kYzxMKp514"),
        ("kinetics100", "dancing", "dancing/-kYzxMKp514", "-kYzxMKp514"),
        ("kinetics100", "dancing", "clip_7", None),
        ("ssv2_small", "Pushing", "88644", None),
    ],
)
def test_names_of_clips_tell_their_recordings(dataset, class_name, name, recording):
    assert recording_of(dataset, class_name, name) == recording


def test_recordings_of_the_annotation_come_first_and_span_classes():
    told = [("ucf101", "v_Kick_g01_c01", "film b"), ("ucf101", "v_Kick_g01_c02", "film a")]
    clips = [Clip(name, "Kick", Path("x"), recording=film) for _, name, film in told]
    numbers = recordings("ucf101", split_of(*clips, Clip("v_Wave_g01_c01", "Wave", Path("x"), recording="film b")))
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [1, 0, 1]
    youtube = [Clip("-kYzxMKp514", "a", Path("x")), Clip("clip", "a", Path("x"))]
    assert recordings("kinetics100", split_of(*youtube)) is None  # not all of the names tell
    assert recordings("kinetics100", split_of(youtube[0])).tolist() == [0]


def test_recordings_are_counted_and_those_of_two_splits_are_named(tmp_path, capsys):
    rows = rows_of(*[row(f"{split}{c}", split) for split in ("train", "test") for c in range(2)], clips=3)
    for each in rows["clips"]:  # every class has a film of its own, and the first clip of each is of one film
        each["recording"] = "film" if each["id"].endswith("/0") else each["class"]
    dataset = opened(tmp_path, rows)
    assert [(c.split, c.recordings, c.clips) for c in recording_counts(dataset)] == [("train", 3, 6), ("test", 3, 6)]
    assert shared_recordings(dataset) == {("train", "test"): ["film"]}
    (tmp_path / "d.py").write_text('dataset = dict(name="d", annotation="a.json")\nbackbone = "tiny_clip"\n')
    assert stats_command(str(tmp_path / "d.py")) == 0
    printed = capsys.readouterr().out
    assert "train: 6 clips of 3 recordings\ntest: 6 clips of 3 recordings\n" in printed
    assert "note: 1 recordings have clips in train and in test: film" in printed
    assert "source recording:" not in printed  # they are known


def test_splits_without_recordings_are_named_once(tmp_path, capsys):
    opened(tmp_path, rows_of(*[row(f"{split}{c}", split) for split in ("train", "test") for c in range(2)], clips=3))
    (tmp_path / "d.py").write_text('dataset = dict(name="d", annotation="a.json")\nbackbone = "tiny_clip"\n')
    assert stats_command(str(tmp_path / "d.py")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    note = "the clips of train, test do not tell their source recording: intervals over clips will take them as independent"
    assert printed.count(note) == 1
    assert "a CSV with the column recording" in printed


def test_a_built_in_clip_is_a_recording_of_its_own():
    dataset = open_dataset("any_name", "builtin:synthact", ["order"])
    for name in dataset.names:
        split = dataset.split(name)
        assert sorted(recordings(dataset.name, split)) == list(range(len(split.clips)))
    assert shared_recordings(dataset) == {}


# Clips in two splits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path) -> Path:
    """Files of different bytes."""
    for name in "abcdef":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    return tmp_path


def contents(folder: Path, name: str = "test", **paths: str) -> Contents:
    """Clips of one class, by id."""
    clips = [Clip(each, "kick", folder / path) for each, path in paths.items()]
    return Contents.of(Split(name, ClipList.of([("kick", c.id) for c in clips]), tuple(clips), ("kick",), (-1,)))


def test_links_copies_and_folders_are_the_clips_that_they_show(files):
    (files / "link.mp4").symlink_to("a.mp4")
    os.link(files / "b.mp4", files / "hard.mp4")
    shutil.copy(files / "c.mp4", files / "copy.mp4")
    for name in ("frames", "same"):
        (files / name).mkdir()
        for i in range(2):
            (files / name / f"{i}.png").write_bytes(f"picture {i}".encode())
    tested = contents(files, a="a.mp4", b="b.mp4", c="c.mp4", d="d.mp4", f="frames")
    learned = contents(files, "train", one="copy.mp4", two="link.mp4", three="hard.mp4", four="e.mp4", five="same")
    pairs = tested.shared_with(learned)
    assert [(one.id, other.id) for one, other in pairs] == [("a", "two"), ("b", "three"), ("c", "one"), ("f", "five")]
    text = described(pairs)
    assert f"'a' of 'kick' ({files / 'a.mp4'}) is the file of 'two' of 'kick' ({files / 'link.mp4'})" in text
    assert "'c' of 'kick'" in text
    assert "has the content of" in text
    assert text.endswith(" and 1 more")
    assert contents(files, a="a.mp4").shared_with(contents(files, b="b.mp4")) == []


def test_clips_that_a_split_holds_twice_are_counted(files):
    shutil.copy(files / "a.mp4", files / "copy.mp4")
    text = repeats(contents(files, a="a.mp4", b="b.mp4", c="copy.mp4"), "d")
    assert text.startswith("The test split of d (3 clips) holds 1 clip under a second id: a query can be among its own")
    assert str(files / "copy.mp4") in text
    assert repeats(contents(files, a="a.mp4", b="b.mp4"), "d") is None


def test_classes_are_shared_by_name_or_text(tmp_path):
    learned = opened(tmp_path, rows_of(row("Ride Bike", "train"), row("x1", "train", "jump"))).split("train")
    tested = opened(
        tmp_path, rows_of(row("ride_bike", "test", "cycle"), row("y", "test", "Jump"), row("z", "test"))
    ).split("test")
    assert shared_names(tested, [learned]) == ["'ride_bike' as 'Ride Bike'", "'y' as 'x1'"]
    tiny = annotation_rows()
    dataset = opened(tmp_path, tiny)
    assert shared_names(dataset.split("test"), [dataset.split("train"), dataset.split("val")]) == []
