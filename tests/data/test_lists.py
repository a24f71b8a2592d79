"""Published lists: every syntax, fingerprints, lineages, and what is wrong with a list, on lists written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.data.dataset import SPLITS
from fsar_bench.data.faults import spelling
from fsar_bench.data.importing import lists
from fsar_bench.data.importing.classes import known_datasets, table
from fsar_bench.data.importing.lists import (
    Lineage,
    ListedVideo,
    PublishedList,
    Recognition,
    fingerprint,
    known_names,
    lineages,
    read_lists,
    recognise,
    short_hashes,
    store_recognised,
    stored_list,
    video_id,
)
from fsar_bench.errors import ConfigError, DataError

COUNTS = {
    "kinetics100": ((64, 6400), (12, 1200), (24, 2400)),
    "ssv2_small": ((64, 6400), (12, 1200), (24, 2400)),
    "ssv2_full": ((64, 67013), (12, 1926), (24, 2857)),
    "hmdb51": ((31, 4280), (10, 1194), (10, 1292)),
    "ucf101": ((70, 9154), (10, 1421), (21, 2745)),
    "epic_kitchens": ((60, 66056), None, (20, 10646)),
}


def test_known_names_are_those_of_the_configs():
    configs = Path(__file__).parents[2] / "configs" / "datasets"
    names = {path.stem for path in configs.glob("*.py")} - {"__init__"}
    assert known_names() == sorted(name for name in names if not name.startswith("synthact"))


KINETICS = {name: Lineage(name, f"Kinetics, {name}", {}, {}) for name in ("clip_fsar", "cmn")}


@pytest.mark.parametrize(
    ("dataset", "lineage", "accept", "outcome"),
    [
        ("kinetics100", "cmn", False, "kinetics100@cmn"),
        ("kinetics100@cmn", "cmn", False, "kinetics100@cmn"),
        ("kinetics100@cmn", "clip_fsar", False, "These are the lists of kinetics100@clip_fsar, not of kinetics100@cmn"),
        ("kinetics100", None, False, "These are not the lists of Kinetics-100 that others use.*Pass --accept"),
        ("kinetics100", None, True, "name one of kinetics100@clip_fsar, kinetics100@cmn"),
        ("kinetics100@cmn", None, True, "kinetics100@cmn"),
        ("hmdb51", "arn", False, "hmdb51"),
    ],
)
def test_lists_are_stored_under_the_name_of_their_lineage(tmp_path, monkeypatch, dataset, lineage, accept, outcome):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path))
    published = PublishedList(dataset.partition("@")[0], {"test": {ListedVideo("a", "b")}})
    known = {**KINETICS, "arn": Lineage("arn", "HMDB51", {}, {})}
    recognition = Recognition(known[lineage] if lineage else None)
    if " " in outcome:
        with pytest.raises((DataError, ConfigError), match=outcome):
            store_recognised(dataset, published, recognition, accept=accept)
        assert not list(tmp_path.iterdir())
        return
    stored = store_recognised(dataset, published, recognition, accept=accept)
    assert (stored.name, stored.path) == (outcome, tmp_path / outcome / "list.json")
    assert json.loads(stored.path.read_text()) == {"lineage": lineage or "", "rows": {"test": [["a", "b"]]}}
    assert stored_list(outcome) == {"test": {("a", "b")}}


def write(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        stem, _, suffix = name.rpartition("__")
        (folder / f"{stem}.{suffix}").write_text(text)
    return folder


def test_class_tables_are_disjoint_and_complete():
    assert known_datasets() == sorted(COUNTS)
    for dataset, counts in COUNTS.items():
        known = table(dataset)
        per_split = [sum(c.split == split for c in known.classes) for split in SPLITS]
        assert per_split == [count[0] if count else 0 for count in counts]
        assert len({spelling(c.name) for c in known.classes}) == len(known.classes)
        assert all("[" not in c.text and "_" not in c.text and c.text for c in known.classes)
    assert table("kinetics100@cmn") is table("kinetics100@cmn")
    with pytest.raises(ConfigError, match="Did you mean 'hmdb51'"):
        table("hmdb")


def test_shipped_lineages_have_the_counts_of_the_field():
    for dataset, counts in COUNTS.items():
        for lineage in lineages(dataset):
            assert [lineage.counts.get(split) for split in SPLITS] == list(counts)
    assert [lineage.name for lineage in lineages("kinetics100")] == ["clip_fsar", "cmn"]
    assert lineages("kinetics100")[0].fingerprints != lineages("kinetics100")[1].fingerprints


SYNTAXES = {
    "trx": dict(trainlist03__txt="brush_hair/a_1\ncatch/b\n", testlist03__txt="fencing/c\n"),
    "mmai": dict(
        train_few_shot__txt="train1//videos/catch/b.avi\ntrain0//videos/brush_hair/a_1.avi\n",
        test_few_shot__txt="test0//videos/fencing/c.avi",
    ),
    "cmn": dict(train__list="brush hair/a_1\r\ncatch/b\r\n", test__list="some/where/fencing/c.avi\r\n\r\n"),
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_says_the_same(tmp_path, syntax):
    read = read_lists("hmdb51", write(tmp_path, **SYNTAXES[syntax]))
    assert read.rows == {"train": {("brush_hair", "a_1"), ("catch", "b")}, "test": {("fencing", "c")}}
    assert [read.duplicates, read.in_two_splits, read.spellings, read.misplaced] == [[], {}, {}, []]


def test_numbers_without_folders_official_labels_and_csv(tmp_path):
    small = read_lists("ssv2_small", write(tmp_path / "a", val_few_shot__txt="val0/46768\n"))
    first = next(c for c in table("ssv2_small").classes if c.split == "val")
    assert small.rows == {"val": {(first.name, "46768")}}
    labelled = read_lists("ssv2_full", write(tmp_path / "b", testlist03__txt="0/195025\n"))
    assert labelled.rows == {"test": {("Approaching something with your camera", "195025")}}
    csv = "label,youtube_id,time_start,time_end,split,is_cc\nblasting sand,-kYzxMKp514,86,96,train,0\n"
    timed = "test0//train_256/blasting_sand/-kYzxMKp514_000086_000096.mp4\n"
    one = read_lists("kinetics100", write(tmp_path / "c", kinetics_100_test__csv=csv))
    two = read_lists("kinetics100@cmn", write(tmp_path / "d", test_few_shot__txt=timed))
    assert one.rows == two.rows == {"test": {("blasting sand", "-kYzxMKp514")}}


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), changed=st.integers(0, 5))
def test_fingerprint_changes_with_a_video_and_with_nothing_else(tmp_path_factory, order, changed):
    videos = [f"v{i}" for i in range(6)]
    plain = read_lists("hmdb51", write(tmp_path_factory.mktemp("p"), test__txt="".join(f"kick/{v}\n" for v in videos)))
    other = "\r\n".join(f"deep/kick/{videos[i]}.mkv" for i in order)
    same = read_lists("hmdb51", write(tmp_path_factory.mktemp("s"), my_test_list__txt=other))
    assert same.fingerprint("test") == plain.fingerprint("test")
    rows = set(plain.rows["test"]) - {("kick", f"v{changed}")} | {("kick", "another")}
    assert fingerprint(rows) != plain.fingerprint("test")


def test_faults_are_reported_by_name(tmp_path):
    read = read_lists(
        "hmdb51",
        write(tmp_path, train__txt="catch/a\ncatch/a\nCatch/b\nkick/d\n", test__txt="fencing/a\nfencing/c\n"),
    )
    assert read.duplicates == [("train", "catch", "a")]
    assert read.in_two_splits == {"a": ["test", "train"]}
    assert read.spellings == {"catch": ["Catch", "catch"]}
    assert read.misplaced == ["kick (train; HMDB51 has it in test)"]
    assert read.faults() == {
        "occurs twice": ["train: catch/a"],
        "is in several splits": ["a (test, train)"],
        "has several spellings": ["catch (Catch, catch)"],
        "is in another split": ["kick (train; HMDB51 has it in test)"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("catch/a\nnothing\n", r"train.txt, line 2 is in none of the known syntaxes: 'nothing'"),
        ("catches/a\n", r"line 1: HMDB51 has no class 'catches'"),
        ("train77//videos/catch/a.avi\n", r"line 1: HMDB51 has no class train77"),
        ("train1//videos/chew/a.avi\n", r"class train1 is 'catch', but the folder says 'chew'"),
        ("catch\nchew\n", r"lists classes, not videos \('catch'\).*fsar-bench data prepare hmdb51"),
        ("7/12\n", r"line 1: HMDB51 has no class with the label 7"),
        ("youtube_id,split\nabc,train\n", r"line 2: HMDB51 has no class ''"),
        ("catch/a.avi, 7\n", r"line 1 ends in a class number of its own"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_lists("hmdb51", write(tmp_path, train__txt=text))


def test_folders_without_lists_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match="holds no list files"):
        read_lists("hmdb51", tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"The list .*train\.txt cannot be read"):
        read_lists("hmdb51", tmp_path)


def test_lineages_are_recognised_and_differences_counted(tmp_path, monkeypatch):
    import numpy as np

    known = read_lists(
        "hmdb51", write(tmp_path / "known", train__txt="catch/a\nchew/b\n", test__txt="kick/c\nfencing/d\n")
    )
    (tmp_path / "lineages.json").write_text(
        json.dumps(
            {
                "hmdb51": {
                    "toy": {
                        "title": "HMDB51, toy lineage",
                        "fingerprints": {split: known.fingerprint(split) for split in known.rows},
                        "counts": {"train": [2, 2], "test": [2, 2]},
                    }
                }
            }
        )
    )
    np.savez(tmp_path / "lineages.npz", **{f"hmdb51|toy|{s}": short_hashes(rows) for s, rows in known.rows.items()})
    monkeypatch.setattr(lists, "KNOWN", tmp_path)
    lists.lineages.cache_clear()
    lists._hashes.cache_clear()
    try:
        same = write(tmp_path / "x", test__txt="fencing/d.avi\nkick/c.avi\n")
        recognition = recognise(read_lists("hmdb51", same))
        assert recognition.lineage.title == "HMDB51, toy lineage"
        assert not recognition.differences
        other = write(
            tmp_path / "y", train__txt="catch/a\n", test__txt="kick/c\nkick/e\nfencing/d\nfencing/f\nkick/g\n"
        )
        recognition = recognise(read_lists("hmdb51", other))
        assert recognition.lineage is None
        assert recognition.differences == (
            "differs from HMDB51, toy lineage: 3 extra test clips in 2 classes, 1 train clips lacking",
        )
    finally:
        lists.lineages.cache_clear()
        lists._hashes.cache_clear()


def test_video_ids():
    assert video_id("kinetics100", "train_256/a b/-kYzxMKp514_000086_000096.mp4") == "-kYzxMKp514"
    assert video_id("hmdb51", "x\\(Rad)Schlag_die_Bank!_np1_le_med_0.avi") == "(Rad)Schlag_die_Bank!_np1_le_med_0"
    assert video_id("ssv2_full", "88644") == "88644"
    assert video_id("epic_kitchens", "clips_256/P01_11_100.MP4") == "P01_11_100"
    assert video_id("hmdb51", "a.b.c") == "a.b.c"
