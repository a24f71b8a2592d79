"""Contents of clips: what is told apart, and what is known again without being read.

How often bytes are read is counted at the one place that reads them; keys are checked against `hashlib` over whole files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fsar_bench import io
from fsar_bench.data import contents
from fsar_bench.data.contents import contents_of, contents_or_faults
from fsar_bench.data.dataset import Clip, Dataset, open_dataset
from fsar_bench.errors import DataError
from fsar_bench.progress import events


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """Files that are read, as they are read."""
    read, original = [], contents._file_digest

    def digest(path, buffer):
        read.append(Path(path))
        return original(path, buffer)

    monkeypatch.setattr(contents, "_file_digest", digest)
    return read


@pytest.fixture
def later(monkeypatch) -> None:
    """The clock is a minute ahead: what was just written has settled."""
    monkeypatch.setattr(contents, "time", lambda: time.time() + 60)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def clip(path: Path) -> Clip:
    return Clip(path.name, "c", path)


def content(path: Path) -> str:
    return clip(path).content


def forget() -> None:
    """As a new process: what was read of the cache folder is read again."""
    contents._shard.cache_clear()


def store_of(cache: Path) -> Path:
    """The one file that keeps contents."""
    (file,) = (cache / "contents").iterdir()
    return file


def frames(folder: Path, colour: int, count: int = 4) -> Path:
    folder.mkdir()
    for number in range(count):
        picture = np.full((48, 64, 3), colour + number, np.uint8)
        (folder / f"{number:05d}.bmp").write_bytes(cv2.imencode(".bmp", picture)[1].tobytes())
    return folder


# What is told apart


def test_the_content_of_a_file_is_its_sha_256(tmp_path, cache):
    data = np.random.default_rng(0).bytes(3 * contents.CHUNK + 17)
    assert content(write(tmp_path / "a.mp4", data)) == hashlib.sha256(data).hexdigest()


def test_files_that_agree_at_both_ends_and_in_size_are_told_apart(tmp_path, cache):
    data = bytearray(np.random.default_rng(0).bytes(1 << 20))
    first = write(tmp_path / "a.mp4", data)
    data[len(data) // 2] ^= 1
    assert content(first) != content(write(tmp_path / "b.mp4", data))


def test_folders_of_images_of_equal_names_and_sizes_are_told_apart(tmp_path, cache):
    one, other, same = (frames(tmp_path / name, colour) for name, colour in (("a", 10), ("b", 20), ("c", 10)))
    sizes = [[file.stat().st_size for file in sorted(folder.iterdir())] for folder in (one, other)]
    assert sizes[0] == sizes[1]
    assert content(one) != content(other)
    assert content(one) == content(same)


def test_only_frames_and_their_order_count(tmp_path, cache):
    folder = frames(tmp_path / "a", 10)
    before = content(folder)
    (folder / "notes.txt").write_text("taken in the garden")
    (folder / "flow").mkdir()
    assert content(folder) == before
    for number in range(4):
        (folder / f"{number:05d}.bmp").rename(folder / f"img_{number:05d}.bmp")
    assert content(folder) == before  # what readers see is the same
    (folder / "img_00000.bmp").rename(folder / "img_00009.bmp")
    assert content(folder) != before


def test_a_frame_that_moves_from_one_file_to_the_next_changes_the_content(tmp_path, cache):
    """The same bytes one after the other, divided elsewhere."""
    for name, parts in (("a", (b"12", b"3")), ("b", (b"1", b"23"))):
        for number, part in enumerate(parts):
            write(tmp_path / name / f"{number}.jpg", part)
    assert content(tmp_path / "a") != content(tmp_path / "b")


def test_the_built_in_clips_have_the_fingerprint_that_stored_results_hold():
    assert open_dataset("synthact", "builtin:synthact").split("test").fingerprint.startswith("d72aaf0f880e")


# What is known again


def test_a_known_file_is_not_read_again(tmp_path, cache, reads, later):
    path = write(tmp_path / "a.mp4", b"1")
    folder = frames(tmp_path / "f", 10)
    first = [content(path), content(folder)]
    assert len(reads) == 5
    assert [content(path), content(folder)] == first
    forget()
    assert [content(path), content(folder)] == first
    assert len(reads) == 5


def test_what_was_just_written_is_read_again(tmp_path, cache, reads):
    """Its times are no proof: it may change once more within one step of the file system's clock."""
    path = write(tmp_path / "a.mp4", b"1")
    state = path.stat()
    assert content(path) == content(path)
    assert len(reads) == 2
    path.write_bytes(b"2")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content(path) == hashlib.sha256(b"2").hexdigest()


def test_a_file_from_the_future_is_known_again(tmp_path, cache, reads, later):
    path = write(tmp_path / "a.mp4", b"1")
    os.utime(path, (time.time() + 1e8, time.time() + 1e8))
    assert content(path) == content(path)
    assert len(reads) == 1


def test_a_touched_file_is_read_again_and_has_its_content(tmp_path, cache, reads, later):
    path = write(tmp_path / "a.mp4", b"1")
    before = content(path)
    os.utime(path, (1, 1))
    assert content(path) == before
    assert len(reads) == 2


def test_a_change_in_place_with_restored_time_is_seen(tmp_path, cache, later):
    path = write(tmp_path / "a.mp4", b"first")
    state, before = path.stat(), content(path)
    time.sleep(0.05)  # more than one step of the clock behind the change time
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (state.st_size, state.st_mtime_ns, state.st_ino)
    assert content(path) == hashlib.sha256(b"other").hexdigest() != before


def test_files_that_are_swapped_by_renaming_are_seen(tmp_path, cache, later):
    """Equal sizes and equal times; of folders too."""
    for one, other in (("a.mp4", "b.mp4"), ("f/0.jpg", "g/0.jpg")):
        first, second = write(tmp_path / one, b"1"), write(tmp_path / other, b"2")
        for path in (first, second):
            os.utime(path, (1000, 1000))
        clips = [tmp_path / Path(name).parts[0] for name in (one, other)]
        before = [content(path) for path in clips]
        first.rename(tmp_path / "third")
        second.rename(first)
        (tmp_path / "third").rename(second)
        assert [content(path) for path in clips] == before[::-1]


def test_a_link_has_the_state_of_what_it_leads_to(tmp_path, cache, reads, later):
    one, other = write(tmp_path / "1", b"1"), write(tmp_path / "2", b"2")
    link = tmp_path / "a.mp4"
    link.symlink_to(one)
    assert content(link) == content(link) == hashlib.sha256(b"1").hexdigest()
    assert len(reads) == 1
    link.unlink()
    link.symlink_to(other)
    assert content(link) == hashlib.sha256(b"2").hexdigest()


def test_a_clip_that_changes_while_it_is_read_is_not_kept(tmp_path, cache, later, monkeypatch):
    path, original = write(tmp_path / "a.mp4", b"1"), contents._digest

    def digest(place):
        found = original(place)
        place.write_bytes(b"22")
        return found

    monkeypatch.setattr(contents, "_digest", digest)
    assert content(path) == hashlib.sha256(b"1").hexdigest()
    monkeypatch.setattr(contents, "_digest", original)
    assert not (cache / "contents").exists()
    assert content(path) == hashlib.sha256(b"22").hexdigest()


# The store


def test_a_half_line_of_a_killed_process_spoils_no_other(tmp_path, cache, reads, later):
    paths = [write(tmp_path / "clips" / name, name.encode()) for name in "abc"]
    before = [content(path) for path in paths[:2]]
    file = store_of(cache)
    file.write_bytes(file.read_bytes()[:-40])  # of the second
    forget()
    before.append(content(paths[2]))
    forget()
    reads.clear()
    assert [content(path) for path in paths] == before
    assert reads == [paths[1]]


def test_a_flipped_bit_makes_a_line_unknown(tmp_path, cache, reads, later):
    path = write(tmp_path / "a.mp4", b"1")
    before, whole = content(path), store_of(cache).read_bytes()
    for place in range(len(whole)):
        for bit in (1, 64):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            store_of(cache).write_bytes(damaged)
            forget()
            assert content(path) == before
    assert len(reads) >= 2 * (len(whole) - 2)  # but for the newlines


def test_lines_of_two_processes_at_once_stay_whole(tmp_path, cache, reads, later):
    """Each hashes its own half of one folder, many appends long, and both find everything afterwards."""
    paths = [write(tmp_path / "clips" / f"{number}.mp4", str(number).encode()) for number in range(300)]
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom fsar_bench.data import contents\n"
        "from fsar_bench.data.dataset import Clip\n"
        "contents.time = lambda: time.time() + 60\n"
        "for path in sys.argv[1:]:\n    Clip(path, 'c', Path(path)).content\n"
    )
    halves = (paths[:200], paths[100:])
    running = [subprocess.Popen([sys.executable, "-c", code, *map(str, half)]) for half in halves]
    assert [process.wait() for process in running] == [0, 0]
    lines = [line for line in store_of(cache).read_bytes().split(b"\n") if line]
    assert {len(line) for line in lines} == {contents._Shard._LENGTH}
    found = contents_of([clip(path) for path in paths])
    assert found == [hashlib.sha256(str(number).encode()).hexdigest() for number in range(300)]
    assert not reads


def test_what_another_process_has_found_meanwhile_is_known(tmp_path, cache, reads, later):
    one, other = (write(tmp_path / "clips" / name, name.encode()) for name in "ab")
    content(one)
    held = contents._shard(cache / "contents", store_of(cache).stem)
    forget()  # what follows is another process for `held`
    content(other)
    assert held.find(contents._state_of(other).identity) == hashlib.sha256(b"b").hexdigest()


def test_a_cache_that_was_cleared_is_filled_again(tmp_path, cache, reads, later):
    one, other = (write(tmp_path / "clips" / name, name.encode()) for name in "ab")
    content(one)
    shutil.rmtree(cache)
    content(other)
    forget()
    reads.clear()
    assert [content(one), content(other)] == [hashlib.sha256(name).hexdigest() for name in (b"a", b"b")]
    assert reads == [one]


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path, cache, later, capsys, monkeypatch):
    monkeypatch.setattr(events, "_warned", set())
    cache.write_text("a file where the folder should be")
    paths = [write(tmp_path / name, name.encode()) for name in "abc"]
    assert [content(path) for path in paths] == [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1
    assert f"Cannot write to {cache}" in err


def test_what_is_interrupted_is_kept(tmp_path, cache, reads, later, monkeypatch):
    paths = [write(tmp_path / "clips" / f"{number:03d}", str(number).encode()) for number in range(200)]

    def interrupt(done, total):
        if done >= 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(contents, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        contents_of([clip(path) for path in paths], interrupt)
    count = len(reads)
    assert 100 <= count < 200
    forget()
    contents_of([clip(path) for path in paths])
    assert len(reads) == 200


# Many at once


def test_many_clips_have_their_contents_in_order_and_progress_counts_what_is_new(tmp_path, cache, later, monkeypatch):
    monkeypatch.setattr(contents, "EVERY", 0.0)
    paths = [write(tmp_path / f"{number % 7}" / str(number), str(number).encode()) for number in range(600)]
    expected = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(600)]
    told: list[tuple[int, int]] = []
    assert contents_of([clip(path) for path in paths[:100]], lambda *count: told.append(count)) == expected[:100]
    assert told == [(done, 100) for done in range(101)]
    told.clear()
    assert contents_of([clip(path) for path in paths], lambda *count: told.append(count)) == expected
    assert told == [(done, 500) for done in range(501)]
    told.clear()
    clips = [clip(path) for path in paths]
    assert contents_of(clips, lambda *count: told.append(count)) == expected
    assert told == []
    assert [vars(each)["content"] for each in clips] == expected


def test_the_first_bad_clip_is_named_whatever_is_known(tmp_path, cache, later):
    for number in range(40):
        write(tmp_path / "clips" / f"{number:02d}", bytes([number]))
    wrong = Clip("wrong", "c", tmp_path / "clips" / "20", "0" * 64)
    gone = Clip("gone", "c", tmp_path / "clips" / "gone")
    good = [clip(path) for path in sorted((tmp_path / "clips").iterdir())]
    for _ in range(3):  # nothing is known, then all
        for first, second, message in ((wrong, gone, "'wrong' is damaged"), (gone, wrong, "'gone' cannot be read")):
            fresh = [clip(each.path) for each in good]
            with pytest.raises(DataError, match=message):
                contents_of([*fresh[:10], first, *fresh[10:30], second, *fresh[30:]])


def test_faults_stand_in_the_place_of_contents(tmp_path, cache, later):
    good = clip(write(tmp_path / "good", b"1"))
    empty = clip(write(tmp_path / "empty", b""))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    found = contents_or_faults([empty, good, clip(tmp_path / "folder"), good, clip(tmp_path / "pipe")])
    assert found[1] == found[3] == hashlib.sha256(b"1").hexdigest()
    for number, name in ((0, "empty"), (2, "folder"), (4, "pipe")):
        assert isinstance(found[number], DataError)
        assert f"Clip '{name}' is empty, or no file at all: {tmp_path / name}" in str(found[number])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path, cache):
    path = write(tmp_path / "a.mp4", b"1")
    path.chmod(0)
    with pytest.raises(DataError, match=r"'a\.mp4' cannot be read: .*a\.mp4 \(Permission denied\)"):
        content(path)


def test_a_frame_that_cannot_be_read_is_named(tmp_path, cache, monkeypatch):
    folder = frames(tmp_path / "a", 10)

    def refuse(path, buffer):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(contents, "_file_digest", refuse)
    with pytest.raises(DataError, match=r"Clip 'a' cannot be read: .*a/00000\.bmp \(Permission denied\)"):
        content(folder)


def test_a_folder_whose_frames_cannot_be_told_is_named(tmp_path, cache, monkeypatch):
    folder = frames(tmp_path / "a", 10)

    def refuse(path):
        raise DataError(f"The images of {path} are several series.")

    monkeypatch.setattr(contents, "frame_files", refuse)
    with pytest.raises(DataError, match=r"Clip 'a' cannot be read: The images of .*/a are several series\."):
        content(folder)


def test_a_fingerprint_reads_all_clips_in_parallel_and_leaves_missing_ones_out(tmp_path, cache):
    clips = [{"id": name, "class": "c", "path": name} for name in "abc"]
    rows = {
        "classes": [{"name": "c", "text": "c", "split": "test"}],
        "clips": [*clips, {**clips[0], "id": "d", "path": None}],
    }
    for name in "abc":
        write(tmp_path / name, name.encode())
    io.write_atomically(tmp_path / "a.json", io.to_json(rows))
    lines = "".join(f"c\t{name}\t{hashlib.sha256(name.encode()).hexdigest()}\n" for name in "abc")
    split = Dataset("d", str(tmp_path / "a.json")).split("test")
    assert split.fingerprint == hashlib.sha256(lines.encode()).hexdigest()
    assert [each.id for each in split.present] == ["a", "b", "c"]
