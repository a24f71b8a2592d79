"""Verification: bad clips are named, resumed, and left out only when accepted; the leak audit; the doctor's page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fsar_bench.data import prepare as preparing
from fsar_bench.data.audit import leak, recordings
from fsar_bench.data.dataset import BUILTIN, Clip, Dataset
from fsar_bench.data.verify import sample, seconds_of, verify
from fsar_bench.episodes import ClipList, EpisodePlan

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
    preparing.store(preparing.prepare_custom("custom", tmp_path / "mine"))
    return tmp_path / "mine" / "test"


def test_bad_clips_are_named_and_left_out_only_when_accepted(command, tmp_path, custom):
    whole = (custom / "sit" / "1.mp4").read_bytes()
    (custom / "sit" / "1.mp4").write_bytes(whole[: len(whole) // 3])
    (custom / "run" / "0.mp4").write_bytes(b"")
    (custom / "fall" / "2.mp4").write_text("not a video")
    done = command("data", "verify", "custom")
    assert done.returncode == 1
    assert "22 of 25 clips decode" in done.stdout
    for name in ("sit/1", "run/0", "fall/2"):
        assert f"Clip '{name}'" in done.stdout
    assert "data verify custom --accept" in done.stdout
    run = ("run", "methods=otam_frozen", "dataset=custom", "backbone=tiny_clip", "episodes=100", "controls=false")
    stopped = command(*run)
    assert stopped.returncode == 1
    assert "Clip '" in stopped.stderr
    accepted = command("data", "verify", "custom", "--accept")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    done = command(*run)
    assert done.returncode == 0, done.stderr
    assert "Coverage 88.00 %" in (command.folder / "leaderboards" / "custom.md").read_text()
    assert Dataset("custom", "prepared:custom").split("test").missing == {"sit/1", "run/0", "fall/2"}
    whole_again = command("data", "verify", "custom")
    assert "22 of 22 clips decode" in whole_again.stdout


def test_verification_goes_on_where_it_stopped(tmp_path, custom, monkeypatch):
    clips = [("test", clip) for clip in Dataset("custom", "prepared:custom").split("test").clips]
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
    shutil.copy(clips[1][1].path, clips[0][1].path)  # another file in its place is decoded again
    fresh = [("test", clip) for clip in Dataset("custom", "prepared:custom").split("test").clips]
    verify(fresh, reader="pyav", workers=1, seconds=30, log=log)
    assert entries(log) == 26


def entries(log: Path) -> int:
    """Whole lines of a log."""
    return sum(line.endswith("]") for line in log.read_text().splitlines())


def test_damaged_files_never_crash_and_never_pass(tmp_path, custom):
    """Truncations, flipped bytes and other files: each is named, or decodes to real frames."""
    rng = np.random.RandomState(0)
    source = (custom / "wave" / "0.mp4").read_bytes()
    clips = []
    for number in range(60):
        kind, data = number % 3, bytearray(source)
        if kind == 0:
            data = data[: rng.randint(0, len(data) // 2)]
        elif kind == 1:
            data = bytearray(rng.bytes(rng.randint(1, 4000)))
        else:
            for place in rng.randint(0, len(data), 200):
                data[place] = rng.randint(256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(bytes(data))
        clips.append(("test", Clip(str(number), "x", path)))
    verdicts = verify(clips, reader="decord", workers=2, seconds=20, log=tmp_path / "log.jsonl")
    assert len(verdicts) == 60
    assert all(v.reason for v in verdicts if int(v.clip.id) % 3 < 2)
    assert all(v.clip.id in v.reason for v in verdicts if v.reason)


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


def test_stats_and_doctor(command, custom):
    done = command("data", "stats", "custom")
    assert done.returncode == 0, done.stderr
    assert "do not tell their source recording" in done.stdout
    assert re.search(r"seconds of 25 clips, spread over all: [\d.]+ to [\d.]+, median [\d.]+", done.stdout)
    (custom / "wave" / "0.mp4").unlink()
    done = command("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ decord" in done.stdout
    assert "✓ av" in done.stdout
    assert "custom: 24 of 25 clips on this disk, 1 gone since it was prepared" in done.stdout


def test_parity_of_readers(command, custom):
    done = command("data", "parity", "custom", "--sample", "4")
    assert done.returncode == 0, done.stderr
    found = re.search(r"decord and pyav, 4 clips: mean difference ([\d.]+) of 255", done.stdout)
    assert float(found[1]) < 1.5
    assert command("data", "parity", "custom", "--readers", "decord").returncode == 1


def test_durations_are_those_of_the_containers(custom):
    clip = Dataset("custom", "prepared:custom").split("test").clips[0]
    assert 1.0 < seconds_of(clip) < 4.0
    assert seconds_of(Clip("x", "y", custom / "nothing.mp4")) is None
    assert [c.id for c in sample([("test", Clip(str(i), "x", Path("x"))) for i in range(9)], 3)] == ["0", "4", "8"]
