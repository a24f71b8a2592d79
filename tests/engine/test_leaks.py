"""Leaks between what a cell learns from and what it tests on are said before anything is trained; sound data are silent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import annotation_rows, write_dataset
from safetensors.torch import load_file, save_file

from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import open_dataset
from fsar_bench.engine.leaks import LeakCheck
from fsar_bench.engine.preflight import preflight
from fsar_bench.engine.provenance import KEY, TrainedOn
from fsar_bench.engine.run import run_cell
from fsar_bench.errors import DataError, ProtocolError
from fsar_bench.progress.events import HASHING


def sound_rows(**sizes: int) -> dict:
    """Shipped clips, whose files tests replace: without the SHA-256 of each."""
    rows = annotation_rows(**sizes)
    return {**rows, "clips": [{k: v for k, v in each.items() if k != "sha256"} for each in rows["clips"]]}


def of(rows: dict, split: str, number: int = 0) -> list[dict]:
    """Clips of one class of a split."""
    name = [each["name"] for each in rows["classes"] if each["split"] == split][number]
    return [each for each in rows["clips"] if each["class"] == name]


def copied(clip: dict, folder: Path) -> str:
    return str(shutil.copy(clip["path"], folder / f"copy of {Path(clip['path']).name}"))


@pytest.fixture
def check(tmp_path):
    """Preflight of some methods on a dataset of these rows, in this process."""

    def run(rows: dict, *pairs: str, methods: str = "otam", name: str = "leaky"):
        path = dataset_of(rows, tmp_path, name)
        given = {pair.partition("=")[0] for pair in pairs}
        defaults = {
            "dataset": path,
            "backbone": "tiny_clip",
            "controls": "false",
            "out": tmp_path / "out",
            "work_dir": tmp_path / "w",
        }
        work = resolve([f"methods={methods}", *pairs, *(f"{k}={v}" for k, v in defaults.items() if k not in given)])
        return preflight(work.cells, work.options, isolate=False)

    return run


def dataset_of(rows: dict, folder: Path, name: str) -> Path:
    """A config of a dataset with this name."""
    path = write_dataset(folder / f"{name}.py", rows)
    path.write_text(path.read_text().replace('name="tiny"', f'name="{name}"'))
    return path


def cells_of(path: Path, *pairs: str) -> list:
    return resolve(["methods=otam", f"dataset={path}", "backbone=tiny_clip", "controls=false", *pairs]).cells


def test_a_sound_dataset_is_silent(check, capsys):
    assert len(check(sound_rows(), methods="otam,otam_frozen").sound) == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("split", "verb"), [("train", "trained"), ("val", "chosen")])
def test_tested_clips_that_methods_learn_from_are_refused(check, tmp_path, capsys, split, verb):
    rows = sound_rows()
    tested, learned = of(rows, "test"), of(rows, split)
    learned[0]["path"] = copied(tested[0], tmp_path)
    learned[1]["path"] = tested[1]["path"]
    (tmp_path / "link.avi").symlink_to(tested[2]["path"])
    learned[2]["path"] = str(tmp_path / "link.avi")
    with pytest.raises(ProtocolError) as raised:
        check(rows)
    text = str(raised.value)
    assert f"3 of the 42 clips of the test split of leaky are also in the {split} split of leaky" in text
    assert f"on which methods are {verb}: " in text
    assert (
        f"{tested[0]['id']!r} of {tested[0]['class']!r} ({tested[0]['path']}) has the content of {learned[0]['id']!r}"
        in text
    )
    assert f"are {tested[1]['path']}" in text
    assert f"is the file of {learned[2]['id']!r} of {learned[2]['class']!r} ({tmp_path / 'link.avi'})" in text
    assert text.endswith("Keep each in one of the two splits (" + str(tmp_path / "leaky.json") + "). Nothing was run.")
    assert len(check(rows, methods="otam_frozen").sound) == 1  # learns from nothing
    assert capsys.readouterr().err == ""


def test_cells_that_leak_are_left_out_and_the_others_run(check, tmp_path):
    rows = sound_rows()
    of(rows, "train")[0]["path"] = copied(of(rows, "test")[0], tmp_path)
    findings = check(rows, methods="otam,bi_mhm,otam_frozen")
    assert [cell.name for cell in findings.sound] == ["otam_frozen"]
    (error,) = findings.errors
    assert str(error).endswith("(OTAM on leaky, 5-way 1-shot; Bi-MHM on leaky, 5-way 1-shot)")


def test_a_cell_that_was_not_checked_before_is_refused_too(tmp_path):
    rows = sound_rows()
    of(rows, "val")[0]["path"] = copied(of(rows, "test")[0], tmp_path)
    path = dataset_of(rows, tmp_path, "leaky")
    work = resolve(
        ["methods=otam", f"dataset={path}", "backbone=tiny_clip", "controls=false", f"work_dir={tmp_path / 'w'}"]
    )
    with pytest.raises(ProtocolError, match="is also in the val split"):
        run_cell(work.cells[0], work.options)
    assert not list((tmp_path / "w").rglob("*.safetensors"))


def test_a_method_that_chooses_on_val_is_not_tested_on_its_clips(run_tiny, tmp_path):
    rows = sound_rows()
    of(rows, "val")[0]["path"] = copied(of(rows, "test")[0], tmp_path)
    path = dataset_of(rows, tmp_path, "leaky")
    assert len(run_tiny("tip_adapter", dataset=path, controls=False)) == 1
    with pytest.raises(ProtocolError, match="is also in the val split of leaky, on which methods are chosen"):
        run_tiny("tip_adapter", dataset=path, controls=False, method={"weights": "val"})


def test_repeated_clips_are_counted_once_for_all_cells(check, tmp_path, capsys):
    rows = sound_rows()
    first, second = of(rows, "test"), of(rows, "test", 1)
    first[1]["path"] = copied(first[0], tmp_path)
    second[0]["path"] = first[2]["path"]
    assert len(check(rows, "shot=1,2", methods="otam_frozen,bi_mhm_frozen").sound) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: The test split of leaky (42 clips) holds 2 clips under a second id, 1 of them under two classes: "
    )


def test_classes_without_clips_are_counted(check, capsys):
    rows = sound_rows(classes_per_split=7)
    name = next(each["name"] for each in rows["classes"] if each["split"] == "test")
    rows["clips"] = [each for each in rows["clips"] if each["class"] != name]
    assert len(check(rows, methods="otam_frozen").sound) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: 1 class of the test split of leaky without clips, in no episode: {name!r}."


def test_val_clips_that_are_trained_on_are_counted(check, tmp_path, capsys):
    rows = sound_rows()
    of(rows, "val")[0]["path"] = copied(of(rows, "train")[0], tmp_path)
    assert len(check(rows).sound) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: 1 of the 42 clips of the val split of leaky, on which checkpoints are chosen, is also in its"
    )


def test_texts_of_tested_classes_in_training_are_counted(check, capsys):
    rows = sound_rows()
    tested, learned = ([each for each in rows["classes"] if each["split"] == split] for split in ("test", "val"))
    learned[0]["text"] = tested[0]["text"].upper()
    assert len(check(rows, methods="otam,bi_mhm").sound) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: The text of 1 class of the test split of leaky, such as {tested[0]['name']!r} as")
    check(rows, methods="otam_frozen", name="frozen")
    assert capsys.readouterr().err == ""


def moved(rows: dict) -> dict:
    """The same classes with train and test exchanged."""
    turned = {"train": "test", "test": "train", "val": "val"}
    return {**rows, "classes": [{**each, "split": turned[each["split"]]} for each in rows["classes"]]}


def test_actions_of_another_dataset_are_counted_and_its_clips_refused(check, tmp_path, capsys):
    rows, many = sound_rows(), sound_rows(clips=14)
    later = {
        **many,
        "clips": [each for each in many["clips"] if each["id"] not in {clip["id"] for clip in rows["clips"]}],
    }
    other = dataset_of(moved(later), tmp_path, "other")
    assert len(check(rows, f"train_on={other}").sound) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: Methods are trained or chosen on the actions of 6 classes of the test split of leaky, such as "
    )
    assert line.endswith("in other: the clips are others, but the classes are not new to them.")
    with pytest.raises(
        ProtocolError, match="42 of the 42 clips of the test split of leaky are also in the train split of other"
    ):
        check(rows, f"train_on={dataset_of(moved(rows), tmp_path, 'other')}")
    lineage = dataset_of(moved(later), tmp_path, "leaky@b")
    with pytest.raises(
        ProtocolError, match=r"6 classes of the test .* in leaky@b, which divides its classes differently"
    ):
        check(rows, f"train_on={lineage}")


@pytest.mark.parametrize(("shared", "is_refused"), [(1, False), (2, True)])
def test_a_published_list_may_share_one_clip_in_a_hundred(tmp_path, monkeypatch, capsys, shared, is_refused):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path))
    folder = tmp_path / "hmdb51"
    folder.mkdir()
    names = [(split, f"{split}_{c}") for split in ("train", "val", "test") for c in range(5)]
    clips = [{"id": f"{name}_{i}", "class": name, "path": f"{name}_{i}"} for _, name in names for i in range(20)]
    for each in clips:
        (folder / each["path"]).write_bytes(each["path"].encode())
    for i in range(shared):
        (folder / f"train_0_{i}").write_bytes(f"test_0_{i}".encode())
    classes = [{"name": name, "text": name, "split": split} for split, name in names]
    (folder / "annotation.json").write_text(json.dumps({"classes": classes, "clips": clips}))
    pairs = ["methods=otam", "dataset=hmdb51", "backbone=tiny_clip", "controls=false"]
    (cell,) = resolve(pairs).cells
    record = TrainedOn.of(
        "hmdb51", [open_dataset("hmdb51", "prepared:hmdb51").split(name) for name in ("train", "val")]
    )
    save_file({"w": torch.zeros(1)}, tmp_path / "c.safetensors", record.metadata)
    (evaluated,) = resolve([*pairs, f"checkpoint={tmp_path / 'c.safetensors'}"]).cells
    if is_refused:
        with pytest.raises(ProtocolError, match=r"or chosen on 2 of the 100 clips"):
            LeakCheck()(evaluated, learns_from=())
        with pytest.raises(ProtocolError, match=r"2 of the 100 clips .*, and prepare the dataset again\."):
            LeakCheck()(cell, learns_from=("train", "val"))
    else:
        LeakCheck()(cell, learns_from=("train", "val"))
        LeakCheck()(evaluated, learns_from=())
        lines = capsys.readouterr().err.splitlines()
        assert [line.endswith("They stay, because the list is a published one.") for line in lines] == [True, True]


def test_hashing_is_told_where_it_takes_long_and_a_lost_clip_is_named(check, tmp_path, monkeypatch):
    rows = sound_rows()
    lost = of(rows, "test")[0]
    lost["path"] = str(tmp_path / "lost.avi")
    with pytest.raises(DataError, match=r"cannot be read: .*lost\.avi"):
        check(rows)
    shutil.copy(of(rows, "test")[1]["path"], lost["path"])
    os.truncate(lost["path"], os.path.getsize(lost["path"]) - 1)
    monkeypatch.setattr("fsar_bench.engine.preflight.PATIENCE", -1.0)
    path, events = dataset_of(rows, tmp_path, "slow"), []
    work = resolve(
        ["methods=otam_frozen", f"dataset={path}", "backbone=tiny_clip", "controls=false", f"out={tmp_path / 'o'}"]
    )
    preflight(work.cells, work.options, events.append, isolate=False)
    assert [event.done for event in events if event.stage == HASHING][-1] >= 1


def test_a_checkpoint_records_what_it_was_trained_on(run_tiny, tiny, tmp_path, capsys):
    run_tiny("otam", controls=False)
    best = next((tmp_path / "work_dirs").rglob("best.safetensors"))
    recorded, rows = TrainedOn.read(best), json.loads(tiny.with_suffix(".json").read_text())
    assert recorded.dataset == "tiny"
    assert recorded.classes == sorted(each["name"] for each in rows["classes"] if each["split"] != "test")
    run_tiny("otam", controls=False, checkpoint=best, shot=2)
    assert capsys.readouterr().err == ""
    turned = dataset_of(moved(rows), tmp_path, "turned")
    with pytest.raises(
        ProtocolError, match=r"trained or chosen on 42 of the 42 clips of the test split of turned, as clips of tiny"
    ):
        run_tiny("otam", controls=False, checkpoint=best, dataset=turned)
    with pytest.raises(ProtocolError, match=r"trained or chosen on 6 of the 6 classes of the test split of tiny \('"):
        run_tiny("otam", controls=False, checkpoint=best, dataset=write_dataset(tmp_path / "again.py", moved(rows)))
    capsys.readouterr()
    save_file(load_file(best), tmp_path / "foreign.safetensors")
    run_tiny("otam", controls=False, checkpoint=tmp_path / "foreign.safetensors", shot=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: checkpoint={tmp_path / 'foreign.safetensors'} does not say what it was trained on"
    )


def test_a_checkpoint_of_the_same_actions_elsewhere_is_told(tmp_path, tiny, capsys):
    rows = json.loads(tiny.with_suffix(".json").read_text())
    names = [each["name"].upper().replace("_", " ") for each in rows["classes"] if each["split"] == "test"][:2]
    record = TrainedOn(dataset="elsewhere", classes=names, clips="")
    path = tmp_path / "elsewhere.safetensors"
    save_file({"w": torch.zeros(1)}, path, record.metadata)
    (cell,) = cells_of(tiny, f"checkpoint={path}")
    LeakCheck()(cell, learns_from=())
    assert (
        f"checkpoint={path} was trained on elsewhere, which has 2 of the 6 classes of the test"
        in capsys.readouterr().err
    )
    assert TrainedOn.read(path) == record
    for damaged in ("{", '{"dataset": "d", "classes": [], "clips": "%"}'):
        save_file({"w": torch.zeros(1)}, path, {KEY: damaged})
        assert TrainedOn.read(path) is None
