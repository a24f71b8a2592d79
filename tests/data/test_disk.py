"""Disks as they are: what systems leave behind, links, names that are there twice, CSVs with slips, incomplete datasets."""

from __future__ import annotations

import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from fsar_bench.data import disk
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.disk import begins_like_a_video, is_hidden, is_video
from fsar_bench.data.importing import custom, storing
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing.classes import table
from fsar_bench.data.importing.lists import lineages, read_lists
from fsar_bench.errors import DataError

MP4 = b"\0\0\0\x20ftypisom" + bytes(40)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """A private folder of prepared datasets."""
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def file(path: Path, content: bytes = MP4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def frames(path: Path, count: int = 4, pattern: str = "{:05d}.jpg") -> Path:
    for number in range(count):
        file(path / pattern.format(number), b"x")
    return path


def plain(root: Path) -> Path:
    """Two classes of two clips."""
    for name in ("wave", "jump"):
        for i in range(2):
            file(root / "test" / name / f"{name}_{i}.mp4")
    return root


def ids(root: Path) -> list[str]:
    return [clip.id for clip in preparing.prepare_custom("custom", root).clips]


PLAIN = ["jump/jump_0", "jump/jump_1", "wave/wave_0", "wave/wave_1"]


@pytest.mark.parametrize(
    "left",
    [
        "test/wave/._wave_0.mp4", "test/wave/.DS_Store", "test/wave/.ipynb_checkpoints/wave_0-checkpoint.mp4",
        "test/.ipynb_checkpoints/a.mp4", ".Trash/test/wave/a.mp4", "test/@eaDir/x.mp4", "test/wave/@eaDir/wave_0.mp4",
        "__MACOSX/test/wave/x.mp4", "test/__MACOSX/x.mp4", "test/wave/Thumbs.db", "$RECYCLE.BIN/test/wave/x.mp4",
        "test/lost+found/x.mp4", ".git/test/wave/a.mp4", "test/wave/.part/x.mp4",
    ],
)  # fmt: skip
def test_what_systems_leave_behind_is_no_clip_and_no_class(tmp_path, left):
    file(plain(tmp_path / "mine") / left)
    assert ids(tmp_path / "mine") == PLAIN


def test_names_that_only_look_hidden_are_kept():
    assert not any(map(is_hidden, ("wave", "_wave", "-kYzxMKp514", "a.b.mp4", "@home", "#1")))


def test_hidden_files_are_no_lists(tmp_path):
    file(tmp_path / "testlist.txt", b"fencing/a\nfencing/b\n")
    file(tmp_path / "._testlist.txt", b"\0\5\26\7\xff")
    file(tmp_path / ".ipynb_checkpoints" / "testlist-checkpoint.txt", b"fencing/c\n")
    (tmp_path / "vallist.txt").mkdir()
    assert [row.video for row in sorted(read_lists("hmdb51", tmp_path).rows["test"])] == ["a", "b"]


def test_a_link_keeps_its_own_path(tmp_path):
    blob = file(tmp_path / "blobs" / "0a1b2c")
    link = plain(tmp_path / "mine") / "test" / "wave" / "linked.mp4"
    link.symlink_to(blob)
    prepared = preparing.prepare_custom("custom", tmp_path / "mine")
    assert next(clip.path for clip in prepared.clips if clip.id == "wave/linked") == str(link)


def test_a_link_in_a_csv_keeps_its_own_path(tmp_path):
    blob = file(tmp_path / "blobs" / "0a1b2c")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.mp4").symlink_to(blob)
    file(tmp_path / "list" / "clips.csv", b"path,class,split\n../links/a.mp4,x,test\n")
    (clip,) = preparing.prepare_custom("custom", tmp_path / "list" / "clips.csv").clips
    assert (clip.id, clip.path) == ("x/a", str(tmp_path / "links" / "a.mp4"))


def test_links_back_up_end_and_broken_ones_are_told(tmp_path):
    root = plain(tmp_path / "mine")
    (root / "test" / "wave" / "up").symlink_to("..")
    (root / "test" / "wave" / "self").symlink_to(".")
    (root / "test" / "jump" / "out").symlink_to(tmp_path)
    (root / "test" / "jump" / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "test" / "jump" / "round.mp4").symlink_to("round.mp4")
    prepared = preparing.prepare_custom("custom", root)
    assert [clip.id for clip in prepared.clips] == PLAIN
    said = list(prepared.passed_over.lines())
    assert any("links back up: 3" in line for line in said)
    assert any("broken links: 2" in line and "gone.mp4" in line for line in said)


def test_folders_that_link_to_each_other_are_looked_into_a_bounded_number_of_times(tmp_path):
    names = [f"class{i}x" for i in range(8)]
    for name in names:
        file(tmp_path / "mine" / "test" / name / f"{name}.mp4")
        for other in names:
            if other != name:
                (tmp_path / "mine" / "test" / name / f"to_{other}").symlink_to(f"../{other}")
    with pytest.raises(DataError, match="the clip is the same file as"):
        ids(tmp_path / "mine")


def test_a_link_and_its_target_in_one_class_are_one_clip(tmp_path):
    root = plain(tmp_path / "mine")
    (root / "test" / "wave" / "again.mp4").symlink_to("wave_0.mp4")
    prepared = preparing.prepare_custom("custom", root)
    assert [clip.id for clip in prepared.clips] == PLAIN
    assert any("second paths of a clip" in line for line in prepared.passed_over.lines())


def test_one_inode_is_no_proof(tmp_path, monkeypatch):
    """Some file systems list all files with one inode."""
    root = plain(tmp_path / "mine")
    found = custom.find_clips

    def with_one_inode(*args, **kwargs):
        result = found(*args, **kwargs)
        return replace(result, clips=[replace(clip, inode=(1, 2**32 - 1)) for clip in result.clips])

    monkeypatch.setattr(custom, "find_clips", with_one_inode)
    assert ids(root) == PLAIN


def test_folders_of_classes_without_clips_are_told(tmp_path):
    root = plain(tmp_path / "mine")
    file(root / "test" / "hop" / "videos.zip", b"x")
    (root / "test" / ".cache").mkdir()
    said = list(preparing.prepare_custom("custom", root).passed_over.lines())
    assert said[0] == f"1 file that is no clip (.zip 1), such as {root}/test/hop/videos.zip"
    assert said[1:] == [
        f"hidden files and folders: 1, such as {root}/test/.cache",
        f"folders of classes without a clip: 1, such as {root}/test/hop",
    ]


@pytest.mark.parametrize("how", ["link", "hard link", "linked folder"])
def test_a_file_in_two_classes_is_refused_with_both_paths(tmp_path, how):
    root = plain(tmp_path / "mine")
    if how == "link":
        (root / "test/jump/other.mp4").symlink_to("../wave/wave_0.mp4")
    elif how == "hard link":
        os.link(root / "test/wave/wave_0.mp4", root / "test/jump/other.mp4")
    else:
        (root / "test/hop").symlink_to("wave")
    with pytest.raises(DataError, match=r"wave/wave_0\.mp4") as error:
        ids(root)
    assert ("test/hop/wave_0.mp4" if how == "linked folder" else "test/jump/other.mp4") in str(error.value)


def test_clips_without_extension_are_told_by_their_first_bytes(tmp_path):
    root = plain(tmp_path / "mine")
    file(root / "test/wave/clip")
    file(root / "test/wave/README", b"about these clips")
    file(root / "test/wave/noise", b"\x12\x34" * 50)
    prepared = preparing.prepare_custom("custom", root)
    assert "wave/clip" in [clip.id for clip in prepared.clips]
    assert list(prepared.passed_over.lines()) == [
        f"1 file that is no clip (no extension 1), such as {root}/test/wave/noise"
    ]


def test_a_dot_in_a_name_begins_no_extension_that_is_not_known(tmp_path):
    root = plain(tmp_path / "mine")
    for name in ("v1.0", "v1.1", "take.final", "360.insv"):
        file(root / "test/wave" / name)
    for name in ("v1.2", "notes.v3"):
        file(root / "test/wave" / name, b"no video")
    for name in ("sound.m4a", "still.heic", "GOPR0001.LRV", "jump_1.mp4.1", "jump_1.mp4.part", "jump_1.mp4.tmp"):
        file(root / "test/jump" / name)
    prepared = preparing.prepare_custom("custom", root)
    own = ["wave/360.insv", "wave/take.final", "wave/v1.0", "wave/v1.1"]
    assert [clip.id for clip in prepared.clips] == [*PLAIN[:2], *own, *PLAIN[2:]]
    assert list(prepared.passed_over.lines()) == [
        "8 files that are no clips (.1 1, .2 1, .heic 1, .lrv 1, .m4a 1, .part 1, .tmp 1, .v3 1), such as "
        f"{root}/test/wave/notes.v3"
    ]


def test_backups_of_clips_are_no_clips(tmp_path):
    root = plain(tmp_path / "mine")
    left = (
        "c6.mp4~",
        "c6~",
        "#wave_0.mp4#",
        "#x#",
        "x.orig",
        "wave_0.mp4.orig",
        "wave_0.mp4.bak",
        "wave_0.MP4_original",
        "c6.mp4.~1~",
    )
    for name in left:
        file(root / "test/wave" / name)
    prepared = preparing.prepare_custom("custom", root)
    assert [clip.id for clip in prepared.clips] == PLAIN
    assert list(prepared.passed_over.lines()) == [
        f"backups that an editor or tool left: {len(left)}, such as {root}/test/wave/{min(left)}"
    ]


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\x7fb"])
@pytest.mark.parametrize("kind", ["folder", "frames", "csv", "hmdb51"])
def test_a_clip_whose_name_breaks_lines_is_refused_before_anything_is_shown(fsar, tmp_path, data, kind, name):
    root = plain(tmp_path / "mine")
    arguments: tuple[str, ...] = ("custom", "--root", str(root))
    if kind == "frames":
        frames(tmp_path / "other" / "test" / "wave" / name)
        arguments = ("custom", "--root", str(tmp_path / "other"))
    elif kind == "csv":
        file(root / "test" / "wave" / f"{name}.mp4")
        table = file(tmp_path / "clips.csv", f'path,class,split\n"mine/test/wave/{name}.mp4",wave,test\n'.encode())
        arguments = ("custom", "--root", str(table))
    elif kind == "hmdb51":
        file(tmp_path / "hmdb" / "fencing" / f"{name}.avi")
        file(tmp_path / "hmdb" / "fencing" / "fine.avi", b"another")
        arguments = ("hmdb51", "--root", str(tmp_path / "hmdb"))
    else:
        file(root / "test" / "wave" / f"{name}.mp4", b"another")
    done = fsar("data", "prepare", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert ascii(name)[1:-1] in done.stderr
    assert "line break or control character" in done.stderr
    assert "Rename the file" in done.stderr
    assert not list(data.glob("*/annotation.json"))


@pytest.mark.parametrize("kind", ["test", "fencing"])
def test_a_clip_whose_name_is_no_utf_8_is_refused(tmp_path, kind):
    root = plain(tmp_path / "mine") if kind == "test" else tmp_path / "mine"
    file(root / kind / "wave" / "a\udce9.mp4", b"another") if kind == "test" else file(root / kind / "a\udce9.avi")
    with pytest.raises(DataError, match=r"a.udce9.* is not UTF-8, so no list can hold it. Rename the file"):
        ids(root) if kind == "test" else preparing.prepare("hmdb51", root)


TS = (b"G" + bytes(187)) * 4


@pytest.mark.parametrize(
    ("content", "video"),
    [
        (MP4, True),
        (TS, True), ((bytes(4) + b"G" + bytes(187)) * 4, True), (b"\x1aE\xdf\xa3webm", True),
        (b"RIFF\0\0\0\0AVI LIST", True), (b"RIFF\0\0\0\0WAVEfmt ", False), (b"GIF89a" + bytes(9) + b"!\xff\x0bNETSCAPE2.0", True),
        (b"GIF89a" + bytes(99), False), (b"OggS" + bytes(24) + b"\x80theora", True),
        (b"OggS" + bytes(24) + b"\x01vorbis", False), (b"Gimport { G } from 'g'", False),
        (b"export const a = 1;\n" * 40, False), (b"", False),
        (b"\0\0\x01\xba" + bytes(9), True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.ts", "a.gif", "a.ogg", "a"])
def test_extensions_that_mean_two_things_are_looked_into(tmp_path, name, content, video):
    assert is_video(file(tmp_path / name, content)) == video == begins_like_a_video(tmp_path / name)


def test_an_extension_is_read_regardless_of_case(tmp_path):
    root = plain(tmp_path / "mine")
    for k, suffix in enumerate(("MP4", "MTS", "m2ts", "ogv", "VOB", "y4m", "3g2", "rmvb")):
        file(root / "test" / "wave" / f"other_{k}.{suffix}", b"x")
    assert len(ids(root)) == 12


def test_what_is_no_clip_is_counted_by_extension(tmp_path):
    root = plain(tmp_path / "mine")
    for k, name in enumerate(("zip", "zip", "part", "wav", "txt", "json", "srt", "ts", "py")):
        file(root / "test" / "wave" / f"other_{k}.{name}", b"x")
    file(root / "test" / "jump_0.mp4.crdownload", b"x")
    assert list(preparing.prepare_custom("custom", root).passed_over.lines()) == [
        f"5 files that are no clips (.crdownload 1, .part 1, .wav 1, .zip 2), such as {root}/test/jump_0.mp4.crdownload"
    ]


def test_one_stem_in_sub_folders_gets_ids_from_the_path_where_needed(tmp_path):
    root = plain(tmp_path / "mine")
    for subject in ("subject1", "subject2"):
        file(root / "test" / "wave" / subject / "take1.mp4")
    file(root / "test" / "wave" / "subject2" / "take2.mp4")
    assert ids(root) == [*PLAIN[:2], "wave/subject1/take1", "wave/subject2/take1", "wave/take2", *PLAIN[2:]]


@pytest.mark.parametrize("other", ["wave_0.webm", "wave_0.MP4", "wave_0/"])
def test_one_clip_in_two_formats_is_refused_with_both_files(tmp_path, other):
    root = plain(tmp_path / "mine")
    place = root / "test" / "wave" / other
    frames(place) if other.endswith("/") else file(place)
    with pytest.raises(DataError, match="in another format") as error:
        ids(root)
    assert "test/wave/wave_0.mp4" in str(error.value)
    assert f"test/wave/{other.rstrip('/')}" in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda clip: frames(clip),
        lambda clip: frames(clip / "rgb"),
        lambda clip: (frames(clip / "img"), frames(clip / "flow"), frames(clip / "masks"), frames(clip / "flow_x")),
        lambda clip: (frames(clip), frames(clip / "flow"), file(clip / "depth" / "00001.png", b"x")),
        lambda clip: (frames(clip), frames(clip, 3, "flow_x_{}.jpg"), file(clip / "thumb.jpg", b"x")),
        lambda clip: (frames(clip.parent / "frames" / clip.name), frames(clip.parent / "tvl1_flow" / "u" / clip.name)),
    ],
)  # fmt: skip
def test_a_clip_of_frames_has_one_id_wherever_its_images_are(tmp_path, make):
    for name in ("wave", "jump"):
        for i in range(2):
            make(tmp_path / "mine" / "test" / name / f"{name}_{i}")
        file(tmp_path / "mine" / "test" / name / "cover.jpg", b"x")
    prepared = preparing.prepare_custom("custom", tmp_path / "mine")
    assert [clip.id for clip in prepared.clips] == PLAIN
    assert {clip.frames for clip in prepared.clips} == {4}


def test_folders_of_images_that_are_no_clips_are_named(tmp_path):
    frames(tmp_path / "mine/test/wave/a")
    file(tmp_path / "mine/test/wave/b/x.jpg", b"x")
    file(tmp_path / "mine/test/wave/b/y.jpg", b"x")
    frames(tmp_path / "mine/test/wave/c", pattern="left_{}.jpg")
    frames(tmp_path / "mine/test/wave/c", pattern="right_{}.jpg")
    with pytest.raises(DataError, match="2 faults") as error:
        ids(tmp_path / "mine")
    for said in ("wave/b have no numbers", "wave/c are several series"):
        assert said in str(error.value)


def test_images_beside_videos_are_no_clip(tmp_path):
    root = plain(tmp_path / "mine")
    for i in range(2):
        file(root / "test" / "wave" / f"wave_{i}.jpg", b"x")
        file(root / "test" / "wave" / "subject" / f"take{i}.mp4")
        file(root / "test" / "wave" / "subject" / f"take{i}.png")
    prepared = preparing.prepare_custom("custom", root)
    assert len(prepared.clips) == 6
    assert any("images in folders of videos: 4" in line for line in prepared.passed_over.lines())


@pytest.mark.parametrize(
    ("first", "second"),
    [("wave", "Wave"), ("kick ball", "kick_ball"), ("kick ball", "kickball"), ("push-up", "push up")],
)
def test_classes_that_differ_in_spelling_alone_are_refused(tmp_path, first, second):
    file(tmp_path / "mine" / "test" / first / "a.mp4")
    file(tmp_path / "mine" / "train" / second / "b.mp4")
    with pytest.raises(DataError, match="differ in case, blanks or punctuation alone") as error:
        ids(tmp_path / "mine")
    assert repr(first) in str(error.value)
    assert repr(second) in str(error.value)


def test_blanks_and_forms_of_unicode_make_no_class(tmp_path):
    for number, name in enumerate(("café ", unicodedata.normalize("NFD", "café"), " café", "step 1 1", "step 11")):
        file(tmp_path / "mine" / "test" / name / f"{number}.mp4")
    prepared = preparing.prepare_custom("custom", tmp_path / "mine")
    assert [row.name for row in prepared.classes] == [unicodedata.normalize("NFC", "café"), "step 1 1", "step 11"]


def test_a_split_in_other_words_is_not_passed_over(tmp_path):
    root = plain(tmp_path / "mine")
    file(root / "Validation" / "hop" / "a.mp4")
    with pytest.raises(DataError, match="Rename Validation to val"):
        ids(root)


def table_of(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    for i in range(3):
        file(tmp_path / "clips" / f"a {i}.mp4")
    path = tmp_path / "clips.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,class,split\nclips/a 0.mp4,x,test\nclips/a 1.mp4,x,test\n",
        "\ufeffpath,class,split\r\nclips/a 0.mp4,x,test\r\n\r\nclips/a 1.mp4,x,test\r\n,,\r\n",
        "Path;Class; Split \nclips/a 0.mp4;x ;test\n./clips/a 1.mp4; x;Test\n",
        "split\tclass\tpath\ntest\tx\tclips/a 0.mp4\ntest\tx\tclips\\a 1.mp4\n",
        'path,class,split,note\n"clips/a 0.mp4","x","test","a, ""b"""\nclips/a 1.mp4,x,test,\n',
        "path,class,split\nclips/a 0.mp4,x,test,,\nclips/../clips/a 1.mp4,x,test\n",
    ],
)
def test_a_csv_is_read_as_it_is_meant(tmp_path, text):
    prepared = preparing.prepare_custom("custom", table_of(tmp_path, text))
    assert [(clip.class_name, clip.id, clip.path) for clip in prepared.clips] == [
        ("x", f"x/a {i}", str(tmp_path / "clips" / f"a {i}.mp4")) for i in range(2)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",x,test", "line 3: the path is empty"),
        ("clips/a 1.mp4,,test", "line 3: the class is empty"),
        ("clips/a 1.mp4, ,test", "line 3: the class is empty"),
        ("clips/a 1.mp4,x,", "line 3: unknown split ''"),
        ("clips/a 1.mp4,x,tset", "line 3: unknown split 'tset'. Did you mean 'test'"),
        ("clips/a 1.mp4,x", "line 3: 2 cells, but the header has 3"),
        ("clips/a 1.mp4,x,test,more", "line 3: 4 cells, but the header has 3"),
        ('clips/a 1.mp4,"x\ny",test', "line 3: the class 'x.ny' has a line break"),
        ("clips/a 1.mp4,x\x07,test", "line 3: the class .* has a line break, a control character"),
        ("clips,x,test", "line 3: .* is a folder without images"),
        (".,x,test", "line 3: .* is the folder of the CSV itself"),
        ("..,x,test", "line 3: .* is the folder of the CSV itself, or above it"),
        ("clips/none.mp4,x,test", r"line 3: .*none\.mp4 does not exist"),
        ("~nobody_here/a.mp4,x,test", "line 3: .* names no home folder"),
        ("a" * 3000 + ",x,test", "line 3: .* is no path: a name in it has 3,000 bytes"),
        ("clips.csv,x,test", "line 3: .* is no video"),
        ("clips/a 0.mp4,x,test", r"line 3 .*same file as line 2"),
        ("./clips/../clips/a 0.mp4,x,test", r"line 3 .*same file as line 2"),
        ("clips/a 0.mp4,y,test", r"line 3 .*same file as line 2 .*in the classes 'x' and 'y'"),
        ("clips/a 1.mp4,X,test", r"'X' \(line 3.*'x' \(line 2"),
        ("clips/a 1.mp4,x,train", r"the class 'x' is in test \(line 2 .*\) and in train \(line 3"),
        ('"clips/a 1.mp4,x,test', "cannot be read from line 3 on"),
    ],
)
def test_slips_of_a_csv_are_told_with_the_line(tmp_path, row, message):
    path = table_of(tmp_path, f"path,class,split\nclips/a 0.mp4,x,test\n{row}\n")
    with pytest.raises(DataError, match=message):
        ids(path)


def test_all_slips_of_a_csv_are_told_at_once(tmp_path):
    path = table_of(tmp_path, "path,class,split\n" + "".join(f"clips/{i}.mp4,x,test\n" for i in range(15)) + "a,b\n")
    with pytest.raises(DataError, match="16 faults") as error:
        ids(path)
    assert "line 11" in str(error.value)
    assert "line 12" not in str(error.value)
    assert "and 6 more" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column 'class'"),
        ("path,class,split\n", "has no rows"),
        ("path,class,path,split\nclips/a 0.mp4,x,clips/a 1.mp4,test\n", "column 'path' 2 times"),
        ("path,class,split,recordings\nclips/a 0.mp4,x,test,r\n", "'recordings'. Did you mean 'recording'"),
        ("path,label,split\nclips/a 0.mp4,x,test\n", "lacks the column 'class'; it has path, label, split"),
        (
            "path,class,split,recording\nclips/a 0.mp4,x,test,r\nclips/a 1.mp4,x,test,\n",
            "line 3: the recording is empty",
        ),
        (
            "path,class,split,text\nclips/a 0.mp4,x,test,one\nclips/a 1.mp4,x,test,two\n",
            "has the text 'two', but 'one' on line 2",
        ),
    ],
)
def test_faulty_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        ids(table_of(tmp_path, text))


def test_a_csv_that_is_no_utf_8_is_refused(tmp_path):
    with pytest.raises(DataError, match="must be UTF-8"):
        ids(table_of(tmp_path, "path,class,split\nclips/a 0.mp4,é,test\n", "utf-16"))


def test_recordings_of_a_csv_are_stored(tmp_path):
    path = table_of(
        tmp_path, "path,class,split,recording\n" + "".join(f"clips/a {i}.mp4,x,test,film {i // 2}\n" for i in range(3))
    )
    storing.store(preparing.prepare_custom("custom", path))
    split = Dataset("custom", "prepared:custom").split("test")
    assert [clip.recording for clip in split.clips] == ["film 0", "film 0", "film 1"]


def test_recordings_of_published_datasets_are_stored(tmp_path):
    for stem in ("v_Archery_g01_c01", "v_Archery_g01_c02", "v_Archery_g02_c01", "renamed"):
        file(tmp_path / "ucf" / "Archery" / f"{stem}.avi")
    clips = preparing.prepare("ucf101", tmp_path / "ucf").clips
    assert [clip.recording for clip in clips] == ["renamed", "Archery 01", "Archery 01", "Archery 02"]
    for stem in (
        "A_Film_fencing_f_cm_np2_le_med_0",
        "A_Film_fencing_f_cm_np2_le_med_1",
        "Another_fencing_u_cm_np1_fr_goo_7",
    ):
        file(tmp_path / "hmdb" / "fencing" / f"{stem}.avi")
    assert [clip.recording for clip in preparing.prepare("hmdb51", tmp_path / "hmdb").clips] == [
        "A_Film",
        "A_Film",
        "Another",
    ]


def test_published_counts_of_classes_add_up_to_those_of_the_splits():
    for dataset in preparing.BY_CLASS:
        (lineage,) = lineages(dataset)
        for split, (classes, videos) in lineage.counts.items():
            counts = [c.clips for c in table(dataset).classes if c.split == split]
            assert (len(counts), sum(counts)) == (classes, videos)


def test_incomplete_hmdb51_never_looks_complete(fsar, tmp_path, data):
    for name in ("fencing", "kick"):
        for i in range(3):
            file(tmp_path / "hmdb" / name / f"{i}.avi", os.urandom(8))
    done = fsar("data", "prepare", "hmdb51", "--root", str(tmp_path / "hmdb"))
    assert done.returncode == 0
    assert "100.00" not in done.stdout
    assert "test, fencing: 3 of 116" in done.stdout
    assert "no clip of 8 classes: kick_ball, pick" in done.stdout
    assert "6 of the 6766 clips" in done.stdout
    split = Dataset("hmdb51", "prepared:hmdb51").split("test")
    assert (split.size, split.coverage) == (1292, pytest.approx(6 / 1292))
    stats = fsar("data", "stats", "hmdb51").stdout
    assert "1286" in stats


def test_surplus_clips_are_named_and_lacking_ones_still_counted(tmp_path):
    """Real names of the list, as everyone has them, next to a copy that a file manager made."""
    for number in range(1, 8):
        file(tmp_path / "ucf" / "Archery" / f"v_Archery_g01_c0{number}.avi")
    file(tmp_path / "ucf" / "Archery" / "v_Archery_g01_c01 (1).avi")
    prepared = preparing.prepare("ucf101", tmp_path / "ucf")
    assert [row.video for row in prepared.surplus] == ["v_Archery_g01_c01 (1)"]
    (archery,) = [row for row in prepared.coverage() if row.class_name == "Archery"]
    assert (archery.available, archery.listed) == (7, 145)
    assert prepared.unlisted["train"] == 9154 - 7


def test_an_annotation_without_lacking_clips_says_nothing_of_them(tmp_path, data):
    storing.store(preparing.prepare_custom("custom", plain(tmp_path / "mine")))
    assert "unlisted" not in json.loads((data / "custom" / "annotation.json").read_text())
    assert Dataset("custom", "prepared:custom").split("test").coverage == 1


def test_the_same_clips_may_be_described_anew(tmp_path, data):
    prepared = preparing.prepare_custom("custom", plain(tmp_path / "mine"))
    storing.store(prepared)
    prepared.clips[0].recording = "a film"
    assert storing.store(prepared).state == "described"
    assert json.loads((data / "custom" / "annotation.json").read_text())["clips"][0]["recording"] == "a film"


def test_no_extension_is_both_a_video_and_nothing_worth_a_word():
    assert not set(disk.VIDEO_SUFFIXES) & set(disk.SIDECAR_SUFFIXES)
    assert not set(disk.VIDEO_SUFFIXES) & set(disk.MAYBE_VIDEO_SUFFIXES)
