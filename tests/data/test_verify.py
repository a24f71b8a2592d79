"""Verification: bad clips are named, and left out only if accepted; resuming; the leak audit; the doctor's page."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fsar_bench.cli.data import parity_command, stats_command, verify_command
from fsar_bench.data.dataset import BUILTIN, Clip, Dataset
from fsar_bench.data.decode import ReadPlan
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing import storing
from fsar_bench.data.importing import verify as verifying
from fsar_bench.data.importing.audit import leak, leak_audit, recordings
from fsar_bench.data.importing.summary import durations, seconds_of, split_sizes
from fsar_bench.data.importing.verify import ListedClip, compare_readers, sample, verify, verify_dataset
from fsar_bench.engine.episodes import TrainEpisodes
from fsar_bench.errors import ConfigError, DataError, ResultError
from fsar_bench.plan import ClipList, EpisodePlan

CLASSES = ("wave", "jump", "sit", "run", "fall")


@pytest.fixture
def custom(tmp_path, monkeypatch) -> Path:
    """Five classes of five clips, prepared as `custom`; returns the folder of the clips."""
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    folder = BUILTIN / "synthact"
    rows = json.loads((folder / "annotation.json").read_text())["clips"][::70]
    for number, row in enumerate(rows[:25]):
        path = tmp_path / "mine" / "test" / CLASSES[number % 5] / f"{number // 5}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / row["path"], path)
    storing.store(preparing.prepare_custom("custom", tmp_path / "mine"))
    return tmp_path / "mine" / "test"


def test_bad_clips_are_named_and_left_out_only_if_accepted(fsar, tmp_path, custom, capsys):
    whole = (custom / "sit" / "1.mp4").read_bytes()
    (custom / "sit" / "1.mp4").write_bytes(whole[: len(whole) // 3])
    (custom / "run" / "0.mp4").write_bytes(b"")
    (custom / "fall" / "2.mp4").write_text("not a video")
    how = {"reader": "pyav", "workers": 1, "seconds": 60.0}
    assert verify_command("custom", **how, accept=False) == 1
    printed = capsys.readouterr().out
    assert "22 of 25 clips decode" in printed
    for name in ("sit/1", "run/0", "fall/2"):
        assert f"Clip '{name}'" in printed
    assert "data verify custom --accept" in printed
    run = ("run", "methods=otam_frozen", "dataset=custom", "backbone=tiny_clip", "episodes=100", "controls=false")
    stopped = fsar(*run)
    assert stopped.returncode == 1
    assert (
        "data verify found 3 clips of the test split of custom that do not decode: 'fall/2', 'run/0'" in stopped.stderr
    )
    assert "[1/" not in stopped.stdout  # before anything is run
    accepted = fsar("data", "verify", "custom", "--accept")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    done = fsar(*run)
    assert done.returncode == 0, done.stderr
    assert "Coverage 88.00 %" in (tmp_path / "leaderboards" / "custom-5way_1shot.md").read_text()
    assert Dataset("custom", "prepared:custom").split("test").missing == {"sit/1", "run/0", "fall/2"}
    capsys.readouterr()
    assert verify_command("custom", **how, accept=False) == 0
    assert "22 of 25 clips decode" in capsys.readouterr().out  # the same three as accepted
    (custom / "run" / "0.mp4").write_bytes(b"still not a video")
    (custom / "sit" / "1.mp4").write_bytes(whole)
    assert verify_command("custom", **how, accept=False) == 0
    assert Dataset("custom", "prepared:custom").split("test").missing == {"run/0", "fall/2"}
    (custom / "jump" / "0.mp4").write_bytes(b"")
    assert verify_command("custom", **how, accept=False) == 1  # one that was not accepted
    for name in ("run/0", "fall/2", "jump/0"):
        (custom / f"{name}.mp4").write_bytes(whole + name.encode())
    capsys.readouterr()
    assert verify_command("custom", **how, accept=False) == 0
    assert "25 of 25 clips decode" in capsys.readouterr().out
    mended = Dataset("custom", "prepared:custom")
    assert (mended.split("test").missing, mended.undecided) == (frozenset(), frozenset())
    with pytest.raises(ConfigError, match="leave --reader=decord out"):
        verify_command("custom", **{**how, "reader": "decord"}, accept=True)
    with pytest.raises(ConfigError, match=r"No reader 'decrod' is registered\. Did you mean 'decord'"):
        verify_command("custom", **{**how, "reader": "decrod"}, accept=False)
    assert Dataset("custom", "prepared:custom").undecided == frozenset()
    quarantine = tmp_path / "data" / "custom" / "quarantine.json"
    (quarantine / "in the way").mkdir(parents=True)
    dataset = Dataset("custom", str(quarantine.with_name("annotation.json")))
    dataset.is_prepared = True
    with pytest.raises(ResultError, match=r"Cannot remove .*quarantine\.json .*Remove it yourself"):
        verify_dataset(dataset, reader="pyav", workers=1, seconds=60)


def test_bad_clips_of_a_dataset_that_was_not_prepared_cannot_be_left_out(tmp_path, custom, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    (custom / "sit" / "1.mp4").write_bytes(b"")
    for annotation, is_prepared in (
        (str(tmp_path / "data" / "custom" / "annotation.json"), False),
        ("prepared:custom", True),
    ):
        dataset = Dataset("mine", annotation)
        verification = verify_dataset(dataset, reader="pyav", workers=1, seconds=30, accept=True)
        assert [verdict.clip.id for verdict in verification.bad] == ["sit/1"]
        assert (verification.can_be_left_out, verification.is_left_out) == (is_prepared, is_prepared)
        folder = tmp_path / "data" / "custom" if is_prepared else tmp_path / "cache" / "verify" / "mine"
        assert verification.quarantine == folder / "quarantine.json"
        assert json.loads(verification.quarantine.read_text())["accepted"] is is_prepared
    verification = verify_dataset(Dataset("mine", "prepared:custom"), reader="pyav", workers=1, seconds=30)
    assert (len(verification.verdicts), verification.bad, verification.quarantine) == (24, [], None)


def test_an_interrupted_verification_resumes(tmp_path, custom, monkeypatch):
    clips = [ListedClip("test", clip) for clip in Dataset("custom", "prepared:custom").split("test").clips]
    log = tmp_path / "log.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(clips, reader="pyav", workers=1, seconds=30, log=log, progress=stop)
    assert 10 <= entries(log) < 25
    log.write_text(log.read_text() + '["pyav", "test", "half a line')
    verdicts = verify(clips, reader="pyav", workers=1, seconds=30, log=log)
    assert [v.reason for v in verdicts] == [""] * 25
    assert entries(log) == 25
    shutil.copy(clips[1].clip.path, clips[0].clip.path)  # another file in its place is decoded again
    fresh = [ListedClip("test", clip) for clip in Dataset("custom", "prepared:custom").split("test").clips]
    verify(fresh, reader="pyav", workers=1, seconds=30, log=log)
    assert entries(log) == 26


def test_a_line_of_the_log_counts_only_as_it_was_written(tmp_path):
    verdicts = [["pyav", "test", "é", name, "0" * 64, "", [["rotation", "it is turned"]]] for name in "ab"]
    first, second = (verifying._line(verdict).encode() for verdict in verdicts)
    log, names = tmp_path / "log.jsonl", lambda: [identity[2] for identity in verifying._read_good(log, "pyav")]
    log.write_bytes(b"\n".join([first, b"", b"[" * 10**5, b"5", b'["a"]', b"null", second]))
    assert names() == ["a", "b"]
    for place in range(len(first)):
        turned = first[:place] + bytes([first[place] ^ 1 << place % 8]) + first[place + 1 :]
        for damaged in (turned, first[:place]):  # also inside a character
            log.write_bytes(damaged + b"\n" + second)
            assert names() == ["b"]


def entries(log: Path) -> int:
    """Whole lines of a log."""
    return sum(line.endswith("]") for line in log.read_text().splitlines())


def damaged(kind: int, source: bytes, rng: np.random.RandomState) -> bytes:
    """A truncated, foreign, zeroed or flipped file."""
    data = bytearray(source)
    if kind == 0:
        return bytes(data[: rng.randint(0, len(data) // 2)])
    if kind == 1:
        return rng.bytes(rng.randint(1, 4000))
    if kind == 2:
        return bytes(len(data))
    for place in rng.randint(0, len(data), 200):
        data[place] = rng.randint(256)
    return bytes(data)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_never_crash_and_never_pass(tmp_path, custom, count):
    """Videos and folders of images: each is named, or (some flipped bytes) decodes to real frames."""
    rng = np.random.RandomState(0)
    source = (custom / "wave" / "0.mp4").read_bytes()
    picture = cv2.imencode(".jpg", rng.randint(0, 256, (48, 64, 3), np.uint8))[1].tobytes()
    videos, folders = [], []
    for number in range(count * 4 // 5):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged(number % 4, source, rng))
        videos.append(ListedClip("test", Clip(str(number), "x", path)))
    for number in range(count // 5):
        folder = tmp_path / f"f{number}"
        folder.mkdir()
        for image in range(3):
            (folder / f"{image}.jpg").write_bytes(damaged(number % 4, picture, rng) if image == 1 else picture)
        folders.append(ListedClip("test", Clip(f"f{number}", "x", folder)))
    how = {"workers": 2, "seconds": 20, "log": tmp_path / "log.jsonl"}
    verdicts = [*verify(videos, reader="pyav", **how), *verify(folders, reader="images", **how)]
    assert len(verdicts) == count
    good = [v for v in verdicts if not v.reason]
    assert all(int(v.clip.id.lstrip("f")) % 4 in (0, 3) for v in good)  # foreign and zeroed files never pass
    assert not [v for v in good if int(v.clip.id.lstrip("f")) % 4 == 0 and v.clip.path.is_file()]  # nor half a video
    assert all(v.clip.id in v.reason for v in verdicts if v.reason)


HANGING = """
import time
from fsar_bench.data.readers import DecordReader
from fsar_bench.registry import READERS

@READERS.register_module(name="hangs_at_three")
class Reader(DecordReader):
    version = "hangs_at_three 1"
    def open(self, path):
        if path.endswith("3.mp4"):
            time.sleep(600)
        return super().open(path)
"""


def test_a_hanging_clip_costs_its_time_out_and_is_named(tmp_path, custom, monkeypatch):
    (tmp_path / "hanging.py").write_text(HANGING)
    monkeypatch.setattr(verifying, "ReadPlan", partial(ReadPlan, modules=("hanging",), folders=(str(tmp_path),)))
    clips = [
        ListedClip("test", clip)
        for clip in Dataset("custom", "prepared:custom").split("test").clips
        if "wave" in clip.id
    ]
    began = time.perf_counter()
    verdicts = verify(clips, reader="hangs_at_three", workers=1, seconds=2, log=tmp_path / "log.jsonl")
    assert time.perf_counter() - began < 60
    assert [v.clip.id for v in verdicts if v.reason] == ["wave/3"]
    assert "Clip 'wave/3' was not decoded within 2 s by the reader 'hangs_at_three'" in verdicts[3].reason


def test_pipes_are_no_clips(tmp_path, custom):
    os.mkfifo(custom / "wave" / "9.mp4")
    assert not [row for row in preparing.prepare_custom("custom", tmp_path / "mine").clips if row.id == "wave/9"]
    with pytest.raises(DataError, match="is empty, or no file at all"):
        _ = Clip("x", "y", custom / "wave" / "9.mp4").content


@pytest.mark.parametrize(
    ("dataset", "clips"),
    [
        ("ucf101", ["v_Kick_g01_c01", "v_Kick_g01_c02", "v_Kick_g02_c01"]),
        (
            "hmdb51",
            ["A_movie_kick_f_cm_np1_ri_med_0", "A_movie_kick_u_nm_np2_ba_goo_1", "Other_kick_f_cm_np1_ri_med_0"],
        ),
    ],
)
def test_recordings_are_read_from_names(dataset, clips):
    class Split:
        clips = ()

    split = Split()
    split.clips = [Clip(name, "kick", Path("x")) for name in clips]
    one, two, three = recordings(dataset, split)
    assert one == two
    assert two != three
    assert recordings("ssv2_full", split) is None


def test_leak_by_hand():
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(4)])
    plan = EpisodePlan.sample(clips, way=5, shot=2, query=1, episodes=40, seed=0, purpose="test")
    recording = np.arange(20) // 2  # clips 2k and 2k + 1 of a class come from one recording
    expected = [
        recording[plan.query[e, n, 0]] in recording[plan.support[e, n]] for e in range(len(plan)) for n in range(5)
    ]
    assert leak(plan, recording) == pytest.approx(100 * np.mean(expected))
    assert leak(plan, np.arange(20)) == 0
    assert leak(plan, np.zeros(20, int)) == 100


def test_leak_audit_of_a_dataset(tmp_path, monkeypatch):
    """UCF101's names: all clips of a class are of one group in train, each of its own group in test, val has one class."""
    classes, clips = [], []
    for split, count, group in (("train", 5, lambda i: 1), ("val", 1, lambda i: 1), ("test", 5, lambda i: i + 1)):
        for c in range(count):
            name = f"{split}{c}"
            classes.append({"name": name, "text": name, "split": split})
            clips += [{"id": f"v_{name}_g{group(i):02d}_c{i}", "class": name, "path": f"{i}"} for i in range(7)]
    (tmp_path / "a.json").write_text(json.dumps({"classes": classes, "clips": clips}))
    dataset = Dataset("ucf101", str(tmp_path / "a.json"))
    leaks = leak_audit(dataset, episodes=20)
    assert [(row.split, row.way, row.shot, row.percent) for row in leaks] == [
        ("train", 5, 1, 100.0),
        ("train", 5, 5, 100.0),
        ("val", 2, 1, None),
        ("val", 2, 5, None),
        ("test", 5, 1, 0.0),
        ("test", 5, 5, 0.0),
    ]
    assert all(row.reason for row in leaks if row.percent is None)
    assert leak_audit(Dataset("ssv2_full", str(tmp_path / "a.json"))) is None
    sizes = split_sizes(dataset)
    assert [(s.split, s.classes, s.clips, s.missing, s.smallest, s.largest) for s in sizes] == [
        ("train", 5, 35, 0, 7, 7),
        ("val", 1, 7, 0, 7, 7),
        ("test", 5, 35, 0, 7, 7),
    ]


def test_group_disjoint_training_episodes_do_not_leak(tmp_path):
    """Six classes of four recordings of three clips each, named as in UCF101."""
    ids = {f"c{c}": [f"v_c{c}_g{g:02d}_c{i:02d}" for g in range(4) for i in range(3)] for c in range(6)}
    table = {
        "classes": [{"name": name, "text": name, "split": "train"} for name in ids],
        "clips": [{"id": clip, "class": name, "path": f"{clip}.mp4"} for name, clips in ids.items() for clip in clips],
    }
    (tmp_path / "annotation.json").write_text(json.dumps(table))
    how = {
        "dataset": {"name": "ucf101", "annotation": str(tmp_path / "annotation.json")}, "template": "{}", "seed": 0,
        "frames": {"reader": "pyav", "resize": 32, "crop": 32, "frames": 4, "workers": 1, "seconds": 5.0},
        "way": 5, "shot": 2, "query": 2, "episodes": 50,
    }  # fmt: skip
    kept, plain = (TrainEpisodes(**how, group_disjoint=disjoint) for disjoint in (True, False))
    recording = recordings("ucf101", kept.split)
    assert leak(kept.plan, recording) == 0 < leak(plain.plan, recording)


def test_stats_and_doctor(command, custom, capsys):
    assert stats_command("custom") == 0
    printed = capsys.readouterr().out
    assert "do not tell their source recording" in printed
    assert re.search(r"seconds of 25 clips, spread over all: [\d.]+ to [\d.]+, median [\d.]+", printed)
    (custom / "wave" / "0.mp4").unlink()
    (custom.parents[1] / "hf" / "hub" / "models--me--tiny" / "snapshots").mkdir(parents=True)
    done = command("doctor", HF_HOME=str(custom.parents[1] / "hf"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ hf-hub:me/tiny, in the hub's cache" in done.stdout
    assert "✓ decord" in done.stdout
    assert "✓ av" in done.stdout
    assert "custom: 24 of 25 clips on this disk, 1 gone since it was prepared" in done.stdout


def test_parity_of_readers(custom, capsys):
    how = {"count": 4, "workers": 1, "seconds": 60.0}
    assert parity_command("custom", readers="decord, pyav", **how) == 0
    match = re.search(r"decord and pyav, 4 clips: mean difference ([\d.]+) of 255", capsys.readouterr().out)
    assert float(match[1]) < 1.5
    assert parity_command("custom", readers="decord", **how) == 0  # with the default reader
    assert "decord and pyav, 4 clips" in capsys.readouterr().out
    for readers in ("pyav", "pyav,pyav", "a,b,c"):
        with pytest.raises(ConfigError, match="must name two readers"):
            parity_command("custom", readers=readers, **how)
    with pytest.raises(ConfigError, match="are folders of images: there is one reader"):
        compare_readers(SimpleNamespace(name="x", frames=True), ("decord", "pyav"), count=4, workers=1, seconds=30)


def test_durations_are_those_of_the_containers(custom):
    dataset = Dataset("custom", "prepared:custom")
    seconds = durations(dataset, count=4)
    assert seconds.count == 4
    assert 1.0 < seconds.shortest <= seconds.median <= seconds.longest < 4.0
    clip = dataset.split("test").clips[0]
    assert 1.0 < seconds_of(clip) < 4.0
    assert seconds_of(Clip("x", "y", custom / "nothing.mp4")) is None
    assert [c.id for c in sample([ListedClip("test", Clip(str(i), "x", Path("x"))) for i in range(9)], 3)] == [
        "0",
        "4",
        "8",
    ]
