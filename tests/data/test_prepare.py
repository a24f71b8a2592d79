"""From a disk to a leaderboard row: small trees of real clips in every layout, lists written by hand, missing clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest

from fsar_bench.cli.data import import_command, prepare_command, verify_command
from fsar_bench.cli.leaderboard import leaderboard_command
from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import BUILTIN, Dataset, open_dataset
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing import storing
from fsar_bench.data.importing.audit import recordings
from fsar_bench.data.importing.classes import table
from fsar_bench.engine.run import run_cell
from fsar_bench.errors import DataError
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.plan import digest_of_recordings
from fsar_bench.results.store import read_all

WAYS, CLIPS = 5, 3
PUBLISHED = {"hmdb51": 1292, "ucf101": 2745}  # clips of the test split, as the literature has them


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """A private folder of prepared datasets."""
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def videos() -> list[Path]:
    folder = BUILTIN / "synthact"
    rows = [r for r in json.loads((folder / "annotation.json").read_text())["clips"] if r["class"]]
    return [folder / row["path"] for row in rows[:: len(rows) // (WAYS * CLIPS + 1)]]


def classes(dataset: str, split: str = "test") -> list:
    return [c for c in table(dataset).classes if c.split == split][:WAYS]


def frames_of(video: Path, folder: Path, count: int = 8) -> None:
    """The first frames of a video as images, as the TRX family extracts them."""
    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0), 1):
            frame.to_image().save(folder / f"{number:08d}.jpg", quality=90)
            if number == count:
                return


def spaceless(c) -> str:
    return c.name.replace(" ", "_")


DATASETS = {  # dataset -> (stem of clip number i of a class, extension, line of its published list)
    "hmdb51": (lambda c, i: f"Movie{i}_{c.name}_f_cm_np1_ri_med_{i}", ".avi", lambda c, stem: f"{c.name}/{stem}"),
    "ucf101": (lambda c, i: f"v_{c.name}_g0{i + 1}_c99", ".avi", lambda c, stem: f"test{c.number}//videos/{c.name}/{stem}.avi"),
    "kinetics100@cmn": (
        lambda c, i: f"{c.number:02d}aaaaaaaa{i}_000010_000020", ".mkv", lambda c, stem: f"{c.name}/{stem}",
    ),
    "kinetics100@clip_fsar": (
        lambda c, i: f"{c.number:02d}aaaaaaaa{i}", ".mp4",
        lambda c, stem: f"test{c.number}//val_256/{spaceless(c)}/{stem}_000010_000020.mp4",
    ),
    "ssv2_small": (lambda c, i: f"{c.number}{i}77", ".webm", lambda c, stem: f"test{c.number}/{stem}"),
    "ssv2_full": (lambda c, i: f"{c.number}{i}88", ".mp4", lambda c, stem: f"{c.label}/{stem}"),
    "epic_kitchens": (lambda c, i: f"P0{c.number}_1_{i}", ".MP4", lambda c, stem: f"test{c.number}//clips_256/{stem}.MP4"),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["class folders", "flat", "frames"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_from_a_disk_to_a_row(tmp_path, videos, dataset, layout, capsys, monkeypatch):
    """Import, prepare, verify, run: each dataset in each layout."""
    stem_of, suffix, line = DATASETS[dataset]
    source, lines = iter(videos), []
    for c in classes(dataset):
        for i in range(CLIPS):
            stem = stem_of(c, i)
            lines.append(line(c, stem))
            if layout == "frames":
                frames_of(next(source), tmp_path / "disk" / spaceless(c) / stem, 9)
                continue
            folder = tmp_path / "disk" / (f"videos/{spaceless(c)}" if layout == "class folders" else "any/where")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(next(source), folder / f"{stem}{suffix}")
    has_list = layout == "flat" or dataset.partition("@")[0] not in preparing.BY_CLASS  # there class folders suffice
    if has_list:
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "testlist.txt").write_text("\n".join(lines))
        with pytest.raises(DataError, match="Pass --accept"):
            import_command(dataset, tmp_path / "lists", accept=False)
        assert f"{WAYS * CLIPS} extra test clips in {WAYS} classes" in capsys.readouterr().out
        assert import_command(dataset, tmp_path / "lists", accept=True) == 0
        assert f"test: {WAYS} classes, {WAYS * CLIPS} videos" in capsys.readouterr().out
    assert prepare_command(dataset, tmp_path / "disk") == 0
    assert ("100.00" in capsys.readouterr().out) == has_list  # without it, the published counts are what counts
    assert verify_command(dataset, reader="pyav", workers=1, seconds=30, accept=False) == 0
    assert f"{WAYS * CLIPS} of {WAYS * CLIPS} clips decode" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    pairs = ["methods=otam_frozen", f"dataset={dataset}", "backbone=tiny_clip", "episodes=50", "controls=false"]
    asked = resolve(pairs)
    run_cell(asked.cells[0], asked.options)
    assert leaderboard_command([], check=False) == 0
    page = Path("leaderboards", f"{dataset}-5way_1shot.md").read_text()
    assert f"{WAYS} test classes, {WAYS * CLIPS if has_list else PUBLISHED[dataset]} clips" in page
    assert (f"({WAYS * CLIPS} of {PUBLISHED.get(dataset)} clips)" in page) == (not has_list)
    assert ("Coverage" in page) == (not has_list)
    assert ("reader images (opencv" if layout == "frames" else "reader pyav") in page
    rows = (tmp_path / "data" / dataset / "mmaction2_test.txt").read_text().splitlines()
    assert len(rows) == WAYS * CLIPS
    assert {row.rsplit(" ", 1)[1] for row in rows} == set("01234")


def test_group_disjoint_episodes_are_another_protocol(fsar, tmp_path, videos):
    """In one dataset every clip has its own recording, so the episodes stay; in the other the names do not tell it."""
    for dataset in ("ucf101", "ssv2_small"):
        stem_of, suffix, line = DATASETS[dataset]
        source, lines = iter(videos), []
        for c in classes(dataset):
            for i in range(CLIPS):
                path = tmp_path / dataset / c.name / f"{stem_of(c, i)}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(next(source), path)
                lines.append(line(c, stem_of(c, i)))
        (tmp_path / "testlist.txt").write_text("\n".join(lines))
        import_command(dataset, tmp_path / "testlist.txt", accept=True)
        prepare_command(dataset, tmp_path / dataset)
    run = ("run", "methods=otam_frozen", "backbone=tiny_clip", "episodes=50", "controls=false", "group_disjoint=true")
    done = fsar(*run, "dataset=ucf101")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "leaderboards" / "ucf101-5way_1shot.md").read_text()
    assert "Supports share no source recording with queries of their class" in page
    (stored,) = read_all(tmp_path / "leaderboards" / "results")
    split = open_dataset("ucf101", "prepared:ucf101").split("test")
    assert stored.result.data.recordings == digest_of_recordings(recordings("ucf101", split))
    done = fsar(*run, "dataset=ssv2_small")
    assert "tell the source recording of every clip" in done.stderr


def test_missing_clips_are_replaced_and_reported(fsar, tmp_path, videos, capsys):
    lines = []
    for c in classes("ssv2_small"):
        for i in range(CLIPS + 1):
            lines.append(f"test{c.number}/{c.number}{i}77")
            if (c.number, i) not in {(0, 2), (3, 0)}:
                frames_of(videos[i], tmp_path / "frames" / f"{c.number}{i}77")
    (tmp_path / "test_few_shot.txt").write_text("\n".join(lines))
    assert import_command("ssv2_small", tmp_path / "test_few_shot.txt", accept=True) == 0
    assert prepare_command("ssv2_small", tmp_path / "frames") == 0
    printed = capsys.readouterr().out
    assert "90.00" in printed
    assert f"test, {classes('ssv2_small')[0].name}: 3 of 4" in printed
    assert (tmp_path / "data" / "ssv2_small" / "missing.txt").read_text().count("\n") == 2
    done = fsar(
        "run", "methods=otam_frozen", "dataset=ssv2_small", "backbone=tiny_clip", "episodes=200", "controls=false"
    )
    assert done.returncode == 0, done.stderr
    (stored,) = load_results(tmp_path / "leaderboards")
    assert stored.result.data.coverage == pytest.approx(0.9)
    assert stored.result.episodes.plan != stored.result.episodes.realised
    assert stored.result.frames.reader.startswith("images (opencv")
    page = (tmp_path / "leaderboards" / "ssv2_small-5way_1shot.md").read_text()
    assert "Coverage 90.00 %: missing clips are replaced by others within their episodes." in page


@pytest.mark.parametrize("form", ["folders", "csv"])
def test_custom_data(fsar, tmp_path, videos, form):
    source = iter(videos)
    rows = ["path,class,split,text"]
    for name in ("wave", "jump_high", "sit", "run", "fall"):
        for i in range(CLIPS):
            path = tmp_path / "mine" / "test" / name / f"{i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next(source), path)
            rows.append(f"mine/test/{name}/{i}.mp4,{name},test,someone doing {name}")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    assert prepare_command("custom", tmp_path / ("mine" if form == "folders" else "mine.csv")) == 0
    texts = Dataset("custom", "prepared:custom").split("test").texts
    assert ("jump high" if form == "folders" else "someone doing jump_high") in texts
    done = fsar(
        "run", "methods=prototype_frozen", "dataset=custom", "backbone=tiny_clip", "episodes=50", "controls=false"
    )
    assert done.returncode == 0, done.stderr


def test_faults_of_a_disk_are_named(tmp_path, videos):
    known = classes("hmdb51")[1]  # UCF101 has no class of this name
    with pytest.raises(DataError, match="is not a folder"):
        preparing.prepare("hmdb51", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither video files nor folders of images"):
        preparing.prepare("hmdb51", tmp_path / "empty")
    for folder in ("a", "b"):
        (tmp_path / "disk" / folder / known.name).mkdir(parents=True)
        shutil.copy(videos[0], tmp_path / "disk" / folder / known.name / "one.avi")
    prepared = preparing.prepare("hmdb51", tmp_path / "disk")
    assert list(prepared.ambiguous) == ["one"]
    assert prepared.clips[0].path.endswith(f"a/{known.name}/one.avi")
    frames_of(videos[0], tmp_path / "disk" / "c" / known.name / "two")
    with pytest.raises(DataError, match="some clips as videos and some as folders of images"):
        preparing.prepare("hmdb51", tmp_path / "disk")
    with pytest.raises(DataError, match="No folder below --root has the name of a class"):
        preparing.prepare("ucf101", tmp_path / "disk")
    with pytest.raises(DataError, match="has a published list, which does not ship: import it first"):
        preparing.prepare("ssv2_full", tmp_path / "disk")
    with pytest.raises(
        DataError, match=r"The dataset hmdb51 is not prepared on this machine.*data prepare hmdb51 --root DIR"
    ):
        Dataset("hmdb51", "prepared:hmdb51")


def test_the_file_in_the_folder_of_the_class_is_taken(tmp_path, videos):
    one, two = classes("hmdb51")[:2]
    for c in (one, two):
        (tmp_path / c.name).mkdir()
        shutil.copy(videos[0], tmp_path / c.name / "same.avi")
    prepared = preparing.prepare("hmdb51", tmp_path)
    assert {row.id: Path(row.path).parent.name for row in prepared.clips} == {
        f"{one.name}/same": one.name,
        f"{two.name}/same": two.name,
    }
    assert not prepared.ambiguous


def test_faults_of_custom_data_are_named(tmp_path, videos):
    (tmp_path / "x.csv").write_text("path,class\na.mp4,b\n")
    with pytest.raises(DataError, match="lacks the column 'split'"):
        preparing.prepare_custom("custom", tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("path,class,split\na.mp4,b,tset\n")
    with pytest.raises(DataError, match=r"line 2: unknown split 'tset'. Did you mean 'test'"):
        preparing.prepare_custom("custom", tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("path,class,split\na.mp4,b,test\n")
    with pytest.raises(DataError, match=r"line 2: .*a\.mp4 does not exist"):
        preparing.prepare_custom("custom", tmp_path / "x.csv")
    for split in ("train", "test"):
        (tmp_path / "mine" / split / "jump").mkdir(parents=True)
        shutil.copy(videos[0], tmp_path / "mine" / split / "jump" / "a.mp4")
    with pytest.raises(
        DataError, match=r"the class 'jump' is in t\w+ \(.*\) and in t\w+ \(.*\): splits share no class"
    ):
        preparing.prepare_custom("custom", tmp_path / "mine")


def test_content_changes_with_the_clip(tmp_path, videos):
    folder = tmp_path / "mine" / "test" / "jump"
    folder.mkdir(parents=True)
    shutil.copy(videos[0], folder / "a.mp4")
    storing.store(preparing.prepare_custom("custom", tmp_path / "mine"))
    before = Dataset("custom", "prepared:custom").split("test").fingerprint
    shutil.copy(videos[1], folder / "a.mp4")
    assert Dataset("custom", "prepared:custom").split("test").fingerprint != before
