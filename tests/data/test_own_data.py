"""Clips of the user's own: names, nothing replaced in silence, classes divided at random, other layouts, the first run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fsar_bench.cli import first_run as advising
from fsar_bench.config.files import load
from fsar_bench.config.resolve import dataset_config
from fsar_bench.data.dataset import BUILTIN, Dataset
from fsar_bench.data.importing.layout import Division
from fsar_bench.data.importing.summary import SplitSize, split_sizes
from fsar_bench.errors import ConfigError

NAMES = ("wave", "jump", "sit", "run", "fall", "kick")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """A private folder of prepared datasets, and no weights beside those that ship."""
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "data"


def clips(folder: Path, names: tuple[str, ...] = NAMES, count: int = 3) -> Path:
    """Real clips in class folders; returns the folder."""
    builtin = BUILTIN / "synthact"
    rows = json.loads((builtin / "annotation.json").read_text())["clips"][:: 400 // (len(names) * count)]
    for number in range(len(names) * count):
        path = folder / names[number // count] / f"{number % count}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(builtin / rows[number]["path"], path)
    return folder


def prepare(fsar, *arguments: object):
    return fsar("data", "prepare", *map(str, arguments))


def test_datasets_by_name_are_stored_side_by_side(fsar, tmp_path, data):
    for name in ("gestures", "sports"):
        clips(tmp_path / name / "test")
        done = prepare(fsar, "--name", name, "--root", tmp_path / name)
        assert done.returncode == 0, done.stderr
    for name in ("gestures", "sports"):
        config = dataset_config(str(data / name / "dataset.py"))
        assert (config.title, config.dataset.name) == (name, name)
        assert (config.backbone, config.controls) == (
            dataset_config("custom").backbone,
            dataset_config("custom").controls,
        )
        stored = Dataset(config.dataset.name, config.dataset.annotation).split("test")
        assert {clip.path.parents[2].name for clip in stored.clips} == {name}


def test_an_edited_config_stays(fsar, tmp_path, data):
    clips(tmp_path / "mine" / "test")
    prepare(fsar, "--name", "gestures", "--root", tmp_path / "mine")
    path = data / "gestures" / "dataset.py"
    path.write_text(path.read_text().replace("title = 'gestures'", "title = 'My gestures'"))
    assert prepare(fsar, "--name", "gestures", "--root", tmp_path / "mine").returncode == 0
    assert load("datasets", str(path)).values["title"] == "My gestures"


def test_a_stored_dataset_is_never_replaced_in_silence(fsar, tmp_path, data):
    first, second = clips(tmp_path / "a" / "test").parent, clips(tmp_path / "b" / "test").parent
    assert "(new)" in prepare(fsar, "--name", "gestures", "--root", first).stdout
    annotation = data / "gestures" / "annotation.json"
    before = annotation.read_bytes()
    assert "(unchanged)" in prepare(fsar, "--name", "gestures", "--root", first).stdout
    shutil.copy(first / "test" / "wave" / "0.mp4", first / "test" / "wave" / "9.mp4")
    for root in (first, second):
        refused = prepare(fsar, "--name", "gestures", "--root", root)
        assert refused.returncode == 1
        assert "The dataset gestures is stored already, with other clips: 18 clips of 6 classes" in refused.stderr
        assert f"below {first}/test" in refused.stderr
        assert "--replace" in refused.stderr
        assert annotation.read_bytes() == before
    (data / "gestures" / "quarantine.json").write_text(
        '{"accepted": true, "clips": [{"class": "wave", "id": "wave/0"}]}'
    )
    done = prepare(fsar, "--name", "gestures", "--root", second, "--replace")
    assert "(replaced" in done.stdout
    split = Dataset("gestures", "prepared:gestures").split("test")
    assert {clip.path.parents[2] for clip in split.clips} == {second}
    assert not split.missing  # the quarantine was of other clips


def test_a_published_dataset_may_gain_clips_but_loses_none_in_silence(fsar, tmp_path):
    classes = ("climb", "fencing", "golf", "kick_ball", "pushup")
    clips(tmp_path / "disk", classes)
    assert prepare(fsar, "hmdb51", "--root", tmp_path / "disk").returncode == 0
    shutil.copy(tmp_path / "disk" / "golf" / "0.mp4", tmp_path / "disk" / "golf" / "9.mp4")
    assert "(updated" in prepare(fsar, "hmdb51", "--root", tmp_path / "disk").stdout
    clips(tmp_path / "other", classes)
    refused = prepare(fsar, "hmdb51", "--root", tmp_path / "other")
    assert "The dataset hmdb51 is stored already" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name=../x",), "cannot name a dataset"),
        (("--name=-x",), "cannot name a dataset"),
        (("--name=x.py",), "cannot name a dataset"),
        (("--name=",), "cannot name a dataset"),
        (("--name=hmdb51",), "is the name of a dataset that fsar-bench knows"),
        (("--name=synthact",), "is the name of a dataset that fsar-bench knows"),
        (("hmdb51", "--name=x"), "hmdb51 keeps its name"),
        (("gestures",), "For your own clips, say fsar-bench data prepare --name gestures --root DIR"),
        ((), "Which dataset?"),
        (("hmdb51", "--classes", "1/1/1"), "hmdb51 has splits of its own"),
    ],
)  # fmt: skip
def test_names_are_checked(fsar, tmp_path, arguments, message):
    done = prepare(fsar, *arguments, "--root", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


def test_classes_are_divided_at_random_and_the_same_way_each_time(fsar, tmp_path, data):
    clips(tmp_path / "mine")
    done = prepare(fsar, "--name", "gestures", "--root", tmp_path / "mine", "--classes", "2/1/3")
    assert done.returncode == 0, done.stderr
    stored = json.loads((data / "gestures" / "annotation.json").read_text())
    assert stored["division"] == {"classes": "2/1/3", "seed": 0}
    by_split = {row["name"]: row["split"] for row in stored["classes"]}
    assert sorted(by_split.values()) == ["test"] * 3 + ["train"] * 2 + ["val"]
    for split in ("train", "val", "test"):
        assert f"  {split}: {', '.join(sorted(n for n, s in by_split.items() if s == split))}" in done.stdout
    assert by_split == Division(2, 1, 3).divide(reversed(NAMES))  # whatever the order on the disk
    assert list(by_split.values()) != ["train", "train", "val", "test", "test", "test"]
    assert (
        "(unchanged)" in prepare(fsar, "--name", "gestures", "--root", tmp_path / "mine", "--classes", "2/1/3").stdout
    )
    assert "--replace" in prepare(fsar, "--name", "gestures", "--root", tmp_path / "mine", "--classes", "3/1/2").stderr


def test_a_csv_may_leave_the_splits_to_chance(fsar, tmp_path):
    clips(tmp_path / "mine")
    rows = [f"mine/{name}/{i}.mp4,{name}" for name in NAMES for i in range(3)]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["path,class", *rows]), encoding="utf-8-sig")
    assert "let the classes be divided with --classes" in prepare(fsar, "--name", "x", "--root", table).stderr
    assert prepare(fsar, "--name", "x", "--root", table, "--classes", "2/1/3").returncode == 0
    table.write_text("\n".join(["path,class,split", *(f"{row},test" for row in rows)]))
    assert "Leave --classes out" in prepare(fsar, "--name", "x", "--root", table, "--classes", "2/1/3").stderr


@pytest.mark.parametrize("text", ["6/3", "6/3/x", "6/3/0", "6/3/1", "-1/3/4", "6,3,3"])
def test_a_division_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match="--classes="):
        Division.parse(text)


def test_a_proposed_division_has_every_class_and_five_of_each_where_it_can():
    for classes in range(2, 200):
        division = Division.proposed(classes)
        assert sum(division.counts) == classes
        assert min(division.counts) >= (5 if classes >= 15 else 2) or division.counts == (0, 0, classes)
    assert Division.proposed(100).counts == (64, 12, 24)


def test_other_layouts_are_named_with_what_to_do(fsar, tmp_path):
    clips(tmp_path / "flat")

    def message(root: Path) -> str:
        done = prepare(fsar, "--name", "x", "--root", root)
        assert done.returncode == 1
        return done.stderr

    said = message(tmp_path / "flat")
    assert "it has 6 other folders with clips (fall, jump, kick and 3 more)" in said
    proposal = said.split("such as --classes ")[1].split(";")[0]
    assert prepare(fsar, "--name", "flat", "--root", tmp_path / "flat", "--classes", proposal).returncode == 0
    clips(tmp_path / "named" / "training")
    clips(tmp_path / "named" / "Test")
    assert "Rename Test to test, training to train" in message(tmp_path / "named")
    clips(tmp_path / "good" / "test")
    assert f"--root {tmp_path}/good" in message(tmp_path / "good" / "test")
    clips(tmp_path / "deep" / "clips" / "test")
    assert f"--root {tmp_path}/deep/clips" in message(tmp_path / "deep")
    (tmp_path / "loose" / "test").mkdir(parents=True)
    for i in range(3):
        shutil.copy(tmp_path / "flat" / "wave" / f"{i}.mp4", tmp_path / "loose" / "test")
    assert "3 clips are directly in test, in no folder of a class" in message(tmp_path / "loose")
    assert "its clips (3) are in no folder" in message(tmp_path / "flat" / "wave")


def test_clips_beside_the_classes_are_counted(fsar, tmp_path):
    folder = clips(tmp_path / "mine" / "test")
    shutil.copy(folder / "wave" / "0.mp4", folder / "stray.mp4")
    clips(tmp_path / "mine" / "unused", ("spare",), 1)
    done = prepare(fsar, "--name", "x", "--root", tmp_path / "mine")
    assert "passed over: 2 clips in no folder of a class" in done.stdout
    assert split_sizes(Dataset("x", "prepared:x"))[0].clips == 18


def size(split: str, classes: int, available: int, missing: int = 0) -> SplitSize:
    listed = available + missing
    return SplitSize(split, classes, classes * listed, missing, listed, listed, "wave", available)


def test_what_a_split_suffices_for():
    assert str(size("test", 12, 15)) == "test: 12 classes, 15 clips each: up to 12-way, 14-shot with 1 query"
    assert "('wave' has the fewest, 3 on this disk): up to 6-way, 2-shot with 1 query" in str(
        size("val", 6, 3, missing=2)
    )
    assert "no episode can be drawn: the class 'wave' has 1 clip" in str(size("val", 6, 1))
    assert "one class" in str(size("val", 1, 9))
    custom = dataset_config("custom")
    whole = [size("train", 6, 6), size("val", 3, 3), size("test", 4, 2)]
    advice = advising.first_run("custom", custom, whole)
    assert "5-way does not work, way=3 does" in advice.notes[1]
    assert "5-way does not work, way=4 does" in advice.notes[2]
    assert advice.command.endswith("way=4")
    assert "way=3" in advice.training  # val has no more classes
    scarce = advising.first_run("custom", custom, [size("train", 6, 4), *whole[1:]])
    assert "train.query_per_class=3" in scarce.training
    for rows, reason in ((whole[1:], "no train split"), ([whole[0], whole[2]], "no val split")):
        advice = advising.first_run("custom", custom, rows)
        assert advice.training is None
        assert any(reason in note for note in advice.notes)
    assert advising.first_run("custom", custom, whole[:2]).command is None


def test_weights_are_looked_for_where_they_are_loaded_from(tmp_path, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    clip = {"model": "ViT-B-16", "pretrained": "openai"}
    assert not advising.has_weights(clip)
    places = (
        tmp_path / "cache" / "weights" / "ViT-B-16-openai.pt",
        tmp_path / "home" / ".cache" / "clip" / "ViT-B-16.pt",
        tmp_path / "hub" / "models--timm--vit_base_patch16_clip_224.openai" / "snapshots" / "1" / "model.safetensors",
    )
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"x")
        assert advising.has_weights(clip), place
        place.unlink()
        assert not advising.has_weights(clip), place
    assert advising.has_weights({"model": "synthact_clip", "pretrained": "builtin"})
    assert not advising.has_weights({"model": "ViT-B-16", "pretrained": str(tmp_path / "none.pt")})


@pytest.mark.parametrize("splits", [("test",), ("train", "val", "test")])
def test_the_command_that_prepare_prints_runs_here(fsar, tmp_path, splits):
    for number, split in enumerate(splits):
        names = tuple(f"{name}_{split}" for name in NAMES[: 4 - number])
        clips(tmp_path / "mine" / split, names, 6)
    done = prepare(fsar, "custom", "--root", tmp_path / "mine")
    command = next(line for line in done.stdout.splitlines() if line.startswith("Next: "))
    assert "backbone=synthact_clip" in command
    assert "For real ones: backbone=vit_b_16 pretrained=/path/to/ViT-B-16.pt" in done.stdout
    ran = fsar(*command.removeprefix("Next: fsar-bench ").split())
    assert ran.returncode == 0, ran.stderr
    assert "Next: " + command.removeprefix("Next: ") in fsar("data", "stats", "custom").stdout
