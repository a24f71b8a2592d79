"""`fsar-bench cache`: sizes by kind, what is stale, and that clearing deletes exactly what it says."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest

from fsar_bench import cache as cache_module
from fsar_bench.cli import cache as cli

SIZES = {
    "frames": 3000,
    "features": 20_000,
    "statistics": 500,
    "verify": 100,
    "contents": 40,
    "weights": 7000,
    "datasets": 900,
}
DEAD = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A cache with one file of each kind, three levels deep, and a folder that is not ours."""
    folder = tmp_path / "own_cache"
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(folder))
    monkeypatch.delenv("FSAR_BENCH_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    for kind, size in SIZES.items():
        path = folder / kind / "ab" / "file.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    (folder / "notes").mkdir()
    return folder


def rows_of(out: str) -> dict[str, list[str]]:
    """Words of each line of the table by the first one."""
    return {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}


def left(root: Path) -> set[str]:
    return {path.parent.parent.name for path in root.rglob("*.bin")}


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def test_sizes_by_kind(root, fsar):
    code, out, err = fsar("cache")
    assert (code, err) == (0, "")
    assert str(root) in out
    rows = rows_of(out)
    assert rows["frames"][1:4] == ["1", "3.0", "kB"]
    assert rows["features"][1:4] == ["1", "20.0", "kB"]
    assert rows["datasets"][1:4] == ["1", "900", "B"]
    assert rows["contents"][1:4] == ["1", "40", "B"]
    assert rows["all"][1:4] == ["7", "31.5", "kB"]
    assert "Not of this suite, never deleted: notes" in out


def test_an_empty_or_missing_cache(tmp_path, fsar, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "nowhere"))
    code, out, _ = fsar("cache")
    assert code == 0
    assert rows_of(out)["all"][1:4] == ["0", "0", "B"]
    assert fsar("cache", "clear", "--yes")[1] == "Nothing to delete.\n"


def test_clearing_leaves_weights_and_datasets_unless_they_are_named(root, fsar):
    code, out, _ = fsar("cache", "clear", "--yes")
    assert code == 0
    assert "Freed 23.6 kB: 5 files deleted." in out
    assert left(root) == {"weights", "datasets"}
    assert not (root / "frames" / "ab").exists()
    assert (root / "frames").is_dir()
    assert (root / "notes").is_dir()
    assert "Freed 7.0 kB: 1 file deleted." in fsar("cache", "clear", "weights", "-y")[1]
    assert left(root) == {"datasets"}


def test_named_kinds_alone(root, fsar):
    assert "Freed 20.0 kB" in fsar("cache", "clear", "features", "--yes")[1]
    assert left(root) == {*SIZES} - {"features"}
    code, _, err = fsar("cache", "clear", "featurs", "--yes")
    assert (code, "Did you mean 'features'" in err) == (1, True)


def test_nothing_is_deleted_without_a_yes(root, fsar, monkeypatch):
    code, _, err = fsar("cache", "clear")
    assert (code, "Say --yes" in err) == (1, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, kept in ((False, {*SIZES}), (True, {"weights", "datasets"})):
        monkeypatch.setattr(cli.typer, "confirm", lambda *_, answer=answer: answer)
        code, out, _ = fsar("cache", "clear")
        assert "frames: 1 file, 3.0 kB in " in out
        assert (code == 0) == answer
        assert left(root) == kept


def test_stale_is_what_was_not_used_for_long_or_left_by_a_dead_process(root, fsar):
    old, read_lately = root / "frames" / "cd" / "old.bin", root / "frames" / "cd" / "read.bin"
    old.parent.mkdir()
    for path in (old, read_lately, root / "weights" / "ab" / "file.bin"):
        path.write_bytes(bytes(1000))
        age(path, 40)
    os.utime(read_lately, (time.time() - 3600, time.time() - 40 * 86_400))  # written long ago, read an hour ago
    parts = {pid: root / "features" / f".x.safetensors.{platform.node()}.{pid}.1.part" for pid in (DEAD, os.getpid())}
    for path in parts.values():
        path.write_bytes(bytes(50))
    code, out, _ = fsar("cache")
    rows = rows_of(out)
    assert rows["frames"][1:6] == ["3", "5.0", "kB", "1.0", "kB"]
    assert rows["features"][1:6] == ["3", "20.1", "kB", "50", "B"]
    assert rows["weights"][1:5] == ["1", "1.0", "kB", "weights"]  # never stale: they cannot be computed again
    assert "1 file left half written" in out
    assert rows_of(fsar("cache", "--days", "50")[1])["frames"][4:6] == ["0", "B"]
    code, out, _ = fsar("cache", "clear", "--stale", "--yes")
    assert code == 0
    assert "Freed 1.1 kB: 2 files deleted." in out  # 1000 + 50 bytes
    assert not old.exists()
    assert not parts[DEAD].exists()
    assert parts[os.getpid()].exists()
    assert read_lately.exists()
    assert left(root) >= {*SIZES}


def test_links_are_not_followed(root, tmp_path, fsar):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "precious.txt").write_text("x")
    (root / "frames" / "folder").symlink_to(outside)
    (root / "frames" / "file").symlink_to(outside / "precious.txt")
    assert fsar("cache", "clear", "frames", "--yes")[0] == 0
    assert (outside / "precious.txt").read_text() == "x"
    assert not (root / "frames" / "file").is_symlink()


def test_what_cannot_be_deleted_is_said(root, fsar, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    code, out, err = fsar("cache", "clear", "frames", "--yes")
    assert code == 1
    assert "Freed 0 B: 0 files deleted." in out
    assert err.startswith("error: 1 file could not be deleted (")
    assert "Permission denied" in err


def test_a_file_system_that_notes_no_reads_is_said(root, fsar, monkeypatch):
    monkeypatch.setattr(cli, "knows_use", lambda: False)
    assert "does not note when files are read" in fsar("cache")[1]
    assert cache_module.knows_use() in (True, False)


def test_prepared_datasets_are_found_where_the_variable_says(root, tmp_path, fsar, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "prepared"))
    (tmp_path / "prepared" / "mine").mkdir(parents=True)
    (tmp_path / "prepared" / "mine" / "annotation.json").write_bytes(bytes(12))
    assert rows_of(fsar("cache")[1])["datasets"][1:4] == ["1", "12", "B"]
