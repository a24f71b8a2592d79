"""The dataset, its splits, its annotation, and the guard around the test split."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fsar_bench.data.dataset import Dataset, close_split, open_dataset, open_split, split_closed
from fsar_bench.errors import ConfigError, DataError, ProtocolError


class Owner:
    """Stands for a hook that keeps a split closed."""


def synthact() -> Dataset:
    return Dataset("synthact", "builtin:synthact")


def test_the_test_split_stays_closed_within_a_context():
    dataset = synthact()
    with split_closed("test"):
        assert dataset.split("val").name == "val"
        with pytest.raises(ProtocolError, match=r"'test' split of 'synthact' while training\. It stays closed"):
            dataset.split("test")
    assert dataset.split("test").name == "test"


def test_an_open_split_closes_for_every_dataset_and_thread():
    dataset = synthact()
    dataset.split("test")
    refused = []

    def ask(other: Dataset) -> None:
        try:
            other.split("test")
        except ProtocolError:
            refused.append(other)

    with split_closed("test"):
        datasets = [dataset, synthact(), open_dataset("synthact", "builtin:synthact")]
        threads = [threading.Thread(target=ask, args=(other,)) for other in datasets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 3


def test_a_split_opens_when_its_last_owner_opens_it_or_is_gone():
    dataset, first, second = synthact(), Owner(), Owner()
    for owner in (first, first, second):  # closing twice needs no second opening
        close_split("test", owner)
    open_split("test", first)
    with pytest.raises(ProtocolError, match="stays closed"):
        dataset.split("test")
    del second, owner
    gc.collect()
    assert dataset.split("test").name == "test"
    open_split("test", first)  # of one that keeps nothing closed


def test_variants_are_subsets_and_reverses_stay_inside_a_split():
    whole = synthact()
    order = Dataset("synthact_order", "builtin:synthact", ["order"])
    for name, paired in (
        ("train", 24),
        ("val", 8),
        ("test", 20),
    ):  # the others are their own reverse, as there and back
        big, small = whole.split(name), order.split(name)
        assert set(small.list.flat) < set(big.list.flat)
        pairs = [(number, other) for number, other in enumerate(small.reverse) if other >= 0]
        assert len(pairs) == paired
        assert all(small.reverse[other] == number != other for number, other in pairs)


def annotation(folder: Path, **changes: object) -> str:
    """An annotation of one class with two clips."""
    for name, data in (("a", b"1"), ("b", b"2")):
        (folder / name).write_bytes(data)
    table = {
        "classes": [{"name": "c", "text": "c", "split": "test"}],
        "clips": [{"id": n, "class": "c", "path": n} for n in "ab"],
        **changes,
    }
    (folder / "a.json").write_text(json.dumps(table))
    return str(folder / "a.json")


def test_fingerprint_follows_content(tmp_path):
    path = annotation(tmp_path)
    first = Dataset("d", path).split("test").fingerprint
    (tmp_path / "b").write_bytes(b"3")
    assert Dataset("d", path).split("test").fingerprint != first


def test_damaged_annotations_and_unknown_groups_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.json.*cannot be read"):
        Dataset("d", str(tmp_path / "no.json"))
    with pytest.raises(ConfigError, match="no group"):
        Dataset("d", "builtin:synthact", ["sports"])
    with pytest.raises(ProtocolError, match="no clips in its 'dev' split"):
        Dataset("d", "builtin:synthact").split("dev")


CLIP = {"id": "a", "class": "c", "path": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_text('{"classes": ['), r"a\.json of dataset 'd' is damaged"),
        (lambda file: file.write_bytes(b"\xff\xfe"), r"a\.json of dataset 'd' is damaged"),
        (lambda file: file.write_text("[]"), r"a\.json of dataset 'd' is damaged"),
        (dict(clips=[{"id": "a", "class": "c"}]), r"is damaged \(clips\.0\.path: "),
        (dict(classes=[{"text": "c", "split": "test"}]), r"is damaged \(classes\.0\.name: "),
        (dict(classes=[{"name": "c", "split": "test"}]), r"In .*a\.json, the class 'c' lacks its text or split\."),
        (dict(clips=[CLIP, CLIP | {"class": "e"}]), r"clips are of the class 'e', which is not among the classes\."),
        (dict(clips=[CLIP, CLIP]), r"a clip id occurs twice in one class: .* Remove the duplicates\."),
    ],
)
def test_faults_of_annotations_are_named(tmp_path, change: Callable | dict, message):
    path = annotation(tmp_path, **({} if callable(change) else change))
    if callable(change):
        change(Path(path))
    with pytest.raises(DataError, match=message):
        Dataset("d", path)


def test_further_keys_of_annotations_are_ignored(tmp_path):
    path = annotation(tmp_path, licence="MIT", clips=[CLIP | {"seconds": 2.0}])
    assert Dataset("d", path).split("test").list.flat == ["a"]


def test_open_datasets_are_shared_until_their_files_change(tmp_path, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path))
    (tmp_path / "mine").mkdir()
    path = Path(annotation(tmp_path / "mine"))
    path.rename(path.with_name("annotation.json"))
    first = open_dataset("d", "prepared:mine")
    assert open_dataset("d", "prepared:mine") is first
    assert open_dataset("d", "prepared:mine", []) is not first
    quarantine = tmp_path / "mine" / "quarantine.json"
    quarantine.write_text(json.dumps({"accepted": True, "clips": [{"id": "b", "class": "c", "reason": "bad"}]}))
    second = open_dataset("d", "prepared:mine")
    assert [dataset.split("test").missing for dataset in (first, second)] == [set(), {"b"}]
    os.utime(path.with_name("annotation.json"), ns=(0, 0))
    assert open_dataset("d", "prepared:mine") is not second


def test_a_quarantine_that_is_damaged_or_not_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path))
    (tmp_path / "mine").mkdir()
    path = Path(annotation(tmp_path / "mine"))
    path.rename(path.with_name("annotation.json"))
    quarantine = tmp_path / "mine" / "quarantine.json"
    quarantine.write_text(json.dumps({"accepted": False, "clips": [{"id": "b", "class": "c"}]}))
    assert not Dataset("d", "prepared:mine").split("test").missing
    quarantine.write_text(json.dumps({"clips": []}))
    with pytest.raises(DataError, match=r"quarantine\.json is damaged \(accepted: .*Run fsar-bench data verify again"):
        Dataset("d", "prepared:mine")
