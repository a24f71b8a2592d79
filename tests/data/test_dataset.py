"""The dataset, its splits, and the guard around the test split."""

from __future__ import annotations

import json

import pytest

from fsar_bench.data.dataset import Dataset
from fsar_bench.errors import ConfigError, DataError, ProtocolError


def test_test_split_stays_closed_while_training():
    dataset = Dataset("synthact", "builtin:synthact")
    with dataset.training():
        assert dataset.split("val").name == "val"
        with pytest.raises(ProtocolError, match="while training"):
            dataset.split("test")
    assert dataset.split("test").name == "test"


def test_test_split_closes_again_even_if_it_was_open():
    dataset = Dataset("synthact", "builtin:synthact")
    dataset.split("test")
    with dataset.training(), pytest.raises(ProtocolError, match="stays closed"):
        dataset.split("test")


def test_variants_are_subsets_and_reverses_stay_inside_a_split():
    whole = Dataset("synthact", "builtin:synthact")
    order = Dataset("synthact_order", "builtin:synthact", ["order"])
    for name in ("train", "val", "test"):
        big, small = whole.split(name), order.split(name)
        assert set(small.list.flat) < set(big.list.flat)
        assert min(small.reverse) >= 0
        for number, other in enumerate(small.reverse):
            assert small.reverse[other] == number != other


def test_fingerprint_follows_content(tmp_path):
    for name, data in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(data)
    table = {
        "classes": [{"name": "c", "text": "c", "split": "test"}],
        "clips": [{"id": n, "class": "c", "path": n} for n in "ab"],
    }
    (tmp_path / "a.json").write_text(json.dumps(table))
    first = Dataset("d", str(tmp_path / "a.json")).split("test").fingerprint
    (tmp_path / "b").write_bytes(b"3")
    assert Dataset("d", str(tmp_path / "a.json")).split("test").fingerprint != first


def test_damaged_annotations_and_unknown_groups_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.json.*cannot be read"):
        Dataset("d", str(tmp_path / "no.json"))
    (tmp_path / "bad.json").write_text('{"classes": [')
    with pytest.raises(DataError, match=r"bad\.json.*is damaged"):
        Dataset("d", str(tmp_path / "bad.json"))
    with pytest.raises(ConfigError, match="no group"):
        Dataset("d", "builtin:synthact", ["sports"])
    with pytest.raises(ProtocolError, match="no clips in its 'dev' split"):
        Dataset("d", "builtin:synthact").split("dev")
