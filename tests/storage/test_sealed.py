"""Seals: every byte counts, in every form; what is damaged is made again with one line; machines that run out are told."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import outputs
from safetensors.torch import load_file, save, save_file

from fsar_bench import io
from fsar_bench.cli.leaderboard import leaderboard_command
from fsar_bench.data import contents
from fsar_bench.data.dataset import Clip
from fsar_bench.engine import bank, checkpoint, scoring
from fsar_bench.engine.places import Places, recall_places
from fsar_bench.engine.state import Finished, finished_training, note_finished
from fsar_bench.errors import LimitError, WeightsError
from fsar_bench.method import VideoFeatures
from fsar_bench.progress import events
from fsar_bench.progress.events import listening
from fsar_bench.storage import arrays, sealed
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import (
    DamagedError,
    check_tensors,
    has_seal,
    seal_json,
    seal_tensors,
    unseal,
    unseal_json,
)

KEY = "what it was made from"
FRAMES = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
FEATURES = VideoFeatures(frames=torch.arange(12.0).reshape(3, 4), matched=torch.ones(3, 2))
TRAINING = {
    "iteration": 3, "seconds": 0.5, "best_sha": "", "model": {"w": torch.ones(2)}, "optimizer": {}, "schedulers": [],
}  # fmt: skip
SCORES = {"total": np.arange(12, dtype=np.float32).reshape(2, 2, 3), "seconds": np.array([0.5])}


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(4.0))


def equal(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor | np.ndarray):
        return bool((first == second).all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)
    return first == second


def write_best(path: Path, key: str) -> None:
    checkpoint.save_best(path, Network(), {"fsar_bench_trained_on": "x"}, made_from=key)


def read_best(path: Path, key: str) -> dict[str, torch.Tensor] | None:
    try:
        checkpoint.check_best(path, key)
    except WeightsError:
        return None
    return load_file(path)


def read_bank(path: Path, key: str) -> dict[str, torch.Tensor] | None:
    read = recall(path, lambda path: bank._load(path, key, 3, torch.device("cpu")), "features", again="Again")
    return read and dict(read.features.items())


def read_scores(path: Path, key: str) -> dict[str, np.ndarray] | None:
    return scoring._stored(path, key, (2, 2, 3), None)


def read_frames(path: Path, key: str) -> np.ndarray | None:
    return recall(path, lambda path: arrays.read_array(path, key), "frames", again="Again")


KINDS = {  # suffix: what writes (path, key), and what reads (path, key) and gives None where it is damaged
    "frames.npy": (lambda p, key: arrays.write_array(p.open("wb"), FRAMES, key), read_frames),
    "bank.safetensors": (lambda p, key: bank._save(p, bank._Timed(FEATURES, 0.25), key), read_bank),
    "scores.npz": (lambda p, key: scoring._save(p, SCORES, key), read_scores),
    "best.safetensors": (write_best, read_best),
    "last.pt": (
        lambda p, key: checkpoint.save_last(p, TRAINING, key),
        checkpoint.load_last,
    ),
    "finished.json": (
        lambda p, key: note_finished(p.parent, key, Finished(train=1.5, best="0" * 64, curve=[(0, 20.0)])),
        lambda p, key: finished_training(p.parent, key),
    ),
    "other.json": (
        lambda p, key: p.write_bytes(seal_json({"é": [1, 2.5, None]}, key)),
        lambda p, key: recall(p, lambda path: unseal_json(io.read_whole(path), key), "statistics", again="Again"),
    ),
}


@pytest.fixture
def warnings(monkeypatch) -> Iterator[list[str]]:
    """The warnings of this test."""
    monkeypatch.setattr(events, "_warned", set())
    given: list[str] = []
    with listening(lambda event: given.append(event.note)):
        yield given


def damages(data: bytes) -> Iterator[bytes]:
    """Every byte of a small file turned, every length, and additions."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        yield data[:place]
    yield data + b"\0"
    yield data + data


@pytest.mark.parametrize("name", KINDS)
def test_every_byte_and_every_length_counts_and_gives_one_line(tmp_path, warnings, name):
    write, read = KINDS[name]
    path = tmp_path / name
    write(path, KEY)
    data, whole = path.read_bytes(), read(path, KEY)
    assert whole is not None
    assert len(data) < 4000
    write(path, KEY)
    assert path.read_bytes() == data  # equal content, equal bytes
    for damaged in damages(data):
        path.write_bytes(damaged)
        assert read(path, KEY) is None
    assert len(warnings) == (0 if name == "best.safetensors" else 1)  # that one is an error
    path.write_bytes(data)
    assert equal(read(path, KEY), whole)


@pytest.mark.parametrize("name", KINDS)
def test_what_was_made_from_something_else_or_is_another_kind_is_not_believed(tmp_path, warnings, name):
    write, read = KINDS[name]
    path = tmp_path / name
    for other, (write_other, _) in KINDS.items():
        write_other(tmp_path / other, KEY if other == name else f"{KEY} of {other}")
        data = (tmp_path / other).read_bytes()
        path.write_bytes(data)
        if other != name:
            assert read(path, KEY) is None
    write(path, KEY + "!")
    assert read(path, KEY) is None
    assert name == "best.safetensors" or not path.exists()


def test_other_programs_read_what_is_sealed(tmp_path):
    for name, (write, _) in KINDS.items():
        write(tmp_path / name, KEY)
    assert (np.load(tmp_path / "frames.npy") == FRAMES).all()
    assert (np.load(tmp_path / "frames.npy", mmap_mode="r") == FRAMES).all()
    assert (np.load(tmp_path / "scores.npz")["total"] == SCORES["total"]).all()
    assert (load_file(tmp_path / "bank.safetensors")["frames"] == FEATURES.frames).all()
    assert json.loads((tmp_path / "finished.json").read_text())["train"] == 1.5


def test_a_right_seal_on_wrong_content_is_damage(tmp_path, warnings):
    """As a faulty version of this project might have written it."""
    wrong = {
        "float32": {**SCORES, "total": SCORES["total"].astype(np.float64)},
        "shape": {**SCORES, "total": SCORES["total"][:, :1]},
        "part": {**SCORES, "text": SCORES["total"][:1]},
        "seconds": {**SCORES, "seconds": np.array([np.nan])},
        "total": {**SCORES, "total": np.full_like(SCORES["total"], np.nan)},
        "names": {"seconds": SCORES["seconds"]},
    }
    for part in wrong.values():
        scoring._save(tmp_path / "scores.npz", part, KEY)
        assert read_scores(tmp_path / "scores.npz", KEY) is None
    for array in (FRAMES.astype(np.float32), np.asfortranarray(FRAMES)):
        with (tmp_path / "frames.npy").open("wb") as file:
            arrays.write_array(file, array, KEY)
        assert read_frames(tmp_path / "frames.npy", KEY) is None
    for content in (b"", b"no arrays", b"PK\x05\x06" + bytes(18)):
        with (tmp_path / "scores.npz").open("wb") as file:
            sealed.write_sealed(file, KEY, lambda out, content=content: out.write(content))
        assert read_scores(tmp_path / "scores.npz", KEY) is None
    whole = {"frames": FEATURES.frames.int()}
    for part in (
        bank._Timed(FEATURES[:2], 0.25),
        bank._Timed(FEATURES, -1.0),
        bank._Timed(VideoFeatures(**whole), 0.25),
    ):
        bank._save(tmp_path / "bank.safetensors", part, KEY)
        assert read_bank(tmp_path / "bank.safetensors", KEY) is None
    for change in ({"iteration": -1}, {"seconds": math.nan}, {"best_sha": None}, {"model": None}, {"schedulers": 1}):
        checkpoint.save_last(tmp_path / "last.pt", {**TRAINING, **change}, KEY)
        assert checkpoint.load_last(tmp_path / "last.pt", KEY) is None
    for record in ({"train": float("nan"), "best": "0" * 64}, {"train": 1.0, "best": "x"}, {"train": 1.0}, {}):
        (tmp_path / "finished.json").write_bytes(seal_json(record, KEY))
        assert finished_training(tmp_path, KEY) is None


def test_rows_of_an_array_are_read_alone_once_the_file_was_checked(tmp_path, monkeypatch):
    path, hashed = tmp_path / "x.npy", []
    monkeypatch.setattr(arrays, "unseal", lambda *given: hashed.append(1) or unseal(*given))
    array = np.random.RandomState(0).randint(0, 256, (50, 4, 4, 3), np.uint8)
    with path.open("wb") as file:
        arrays.write_array(file, array, KEY)
    for rows in ([3, 49, 0], [0], [7, 7]):
        assert (arrays.read_array(path, KEY, lambda shape, rows=rows: rows) == array[rows]).all()
    assert len(hashed) == 1
    with pytest.raises(DamagedError):  # of another key nothing was checked
        arrays.read_array(path, "another", lambda shape: [0])
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the change time still tells
    with pytest.raises(DamagedError):
        arrays.read_array(path, KEY, lambda shape: [0])
    monkeypatch.setattr(arrays, "_REMEMBERED", 2)
    monkeypatch.setattr(arrays, "_verified", set())
    for number in range(5):
        with (tmp_path / f"{number}.npy").open("wb") as file:
            arrays.write_array(file, array, KEY)
        arrays.read_array(tmp_path / f"{number}.npy", KEY, lambda shape: [0])
        assert len(arrays._verified) <= 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_running_out_of_something_is_not_damage(tmp_path, warnings, monkeypatch, number):
    for name, (write, _) in KINDS.items():
        write(tmp_path / name, KEY)

    def run_out(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    clip = Clip("a", "c", tmp_path / "last.pt")
    monkeypatch.setattr(io.os, "open", run_out)
    monkeypatch.setattr(contents.os, "stat", run_out)
    for name, (_, read) in KINDS.items():
        with pytest.raises(LimitError, match=rf"Cannot read .*{name}"):
            read(tmp_path / name, KEY)
    with pytest.raises(LimitError, match=r"ulimit|memory|end other"):
        contents.contents_of([clip])
    monkeypatch.undo()
    assert all((tmp_path / name).exists() for name in KINDS)
    assert not warnings


def test_a_file_that_cannot_be_read_stays_and_is_told(tmp_path, warnings):
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "x").write_bytes(b"x")
    for _ in range(3):
        assert recall(tmp_path / "x", refused, "frames", again="They are decoded again") is None
    assert warnings == [f"Cannot read frames in {tmp_path} (Permission denied). They are decoded again."]
    assert (tmp_path / "x").exists()
    assert recall(tmp_path / "y", Path.read_bytes, "frames", again="Again") is None
    assert len(warnings) == 1
    (tmp_path / "last.pt").mkdir()
    with pytest.raises(WeightsError, match=r"last\.pt cannot be read \(it is a folder, not a file\)"):
        checkpoint.load_last(tmp_path / "last.pt", KEY)


def test_safetensors_of_other_programs_have_no_seal_and_ours_never_lose_theirs_unseen(tmp_path):
    network = Network()
    path = tmp_path / "own.safetensors"
    save_file({"weight": torch.zeros(4)}, path)
    checkpoint.load_named(path, network)
    assert not has_seal(path.read_bytes())
    write_best(path, "a training")
    checkpoint.load_named(path, network)
    data = path.read_bytes()
    for place, damaged in enumerate(damages(data)):
        if place % 3:
            continue  # each takes a while, and all were tried as a best checkpoint
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"checkpoint=.*is (damaged|no checkpoint of fsar-bench)"):
            checkpoint.load_named(path, network)


def test_equal_tensors_have_equal_bytes_whatever_the_metadata():
    """The library itself writes metadata in an order that changes."""
    data = save({"b": torch.ones(3), "a": torch.zeros(2, 2)})
    metadata = {f"key {i}": str(i) for i in range(20)}
    files = {
        b"".join(map(bytes, seal_tensors(data, KEY, dict(items))))
        for items in (metadata.items(), reversed(metadata.items()))
    }
    assert len(files) == 1
    assert check_tensors(files.pop(), KEY)["key 7"] == "7"


def test_places_are_those_of_their_folder(tmp_path):
    (tmp_path / "places.json").write_bytes(seal_json(Places(annotation="/a").model_dump(), tmp_path.name))
    assert recall_places(tmp_path).annotation == "/a"
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "places.json", tmp_path / "other")
    assert recall_places(tmp_path / "other") == Places()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def swap(paths: list[Path]) -> None:
    whole = [path.read_bytes() for path in paths]
    for path, data in zip(paths, whole[1:] + whole[:1], strict=True):
        path.write_bytes(data)


QUICK = {
    "train.episodes": 2, "train.val_interval": 2, "train.val_episodes": 4, "episodes": 20, "controls": False,
}  # fmt: skip
SCORES_OF, FEATURES_OF = "work/*/*/scores-*", ("work/*/*-training-*/bank", "cache/features")
STATE = {  # kind: files, what stands behind them, and what is told
    "frames": ("cache/frames/*/*.npy", (SCORES_OF, *FEATURES_OF, "work/*/*-training-*"), "frames in"),
    "features": ("work/*/*-training-*/bank/*.safetensors", (SCORES_OF,), "features in"),
    "scores": ("work/*/*/scores-*/*.npz", (), "scores in"),
    "finished": ("work/*/*-training-*/finished.json", (SCORES_OF,), "finished.json"),
    "last": ("work/*/*-training-*/last.pt", ("work/*/*-training-*/finished.json",), "the training state in"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, cache) -> tuple[Path, Callable[[Path], dict[str, bytes]]]:
    """The folder of an undisturbed run, and what runs there or in a copy of it and gives all bytes that must be the same."""
    from helpers import annotation_rows, write_dataset

    import fsar_bench

    folder = tmp_path_factory.mktemp("saved")
    dataset = write_dataset(folder / "tiny.py", annotation_rows(5, 3))

    def run(base: Path) -> dict[str, bytes]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FSAR_BENCH_CACHE", str(base / "cache"))
            fsar_bench.run(
                "otam", dataset=dataset, backbone="tiny_clip", workers=1, progress=False, out=base / "out",
                work_dir=base / "work", **QUICK,
            )  # fmt: skip
        best = {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("best.safetensors")}
        return outputs(base / "out") | best

    base = folder / "base"
    run(base)
    return base, run


@pytest.mark.parametrize(("kind", "damage"), [*((kind, "flip") for kind in STATE), ("frames", "swap")])
def test_a_run_over_damaged_state_gives_the_same_bytes_with_one_line(saved, tmp_path, monkeypatch, kind, damage):
    base, run = saved
    monkeypatch.setattr(events, "_warned", set())
    pattern, later, told = STATE[kind]
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    expected = outputs(copy / "out") | {
        str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("best.safetensors")
    }
    for gone in ("out/results/*", *later):
        for path in copy.glob(gone):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = sorted(copy.glob(pattern))
    assert len(files) > (damage == "swap")
    swap(files) if damage == "swap" else [flip(path) for path in files]
    assert run(copy) == expected
    lines = [line for line in events._warned if "Damaged, or made" in line]
    assert len(lines) == 1
    assert told in lines[0]


def test_a_best_checkpoint_that_is_damaged_or_another_is_an_error(saved, tmp_path):
    base, run = saved
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (best,) = copy.rglob("best.safetensors")
    data = best.read_bytes()
    shutil.rmtree(copy / "out" / "results")
    flip(best)
    with pytest.raises(WeightsError, match=rf"The checkpoint {best} is damaged .*Delete the folder"):
        run(copy)
    key = json.loads(next((base / "out").rglob("result.json")).read_text())["training_key"]
    state = {name: tensor + 1 for name, tensor in load_file(base / best.relative_to(copy)).items()}
    best.write_bytes(b"".join(map(bytes, seal_tensors(save(state), key, {}))))
    with pytest.raises(WeightsError, match="it is not the one that the training chose"):
        run(copy)
    (best.parent / "finished.json").unlink()
    best.unlink()
    with pytest.raises(
        WeightsError, match=r"best\.safetensors is damaged \(No such file"
    ):  # before anything is trained
        run(copy)
    best.write_bytes(data)
    run(copy)
    assert (best.parent / "finished.json").read_bytes()


def test_check_believes_no_cache(tmp_path, monkeypatch, saved):
    base, _ = saved
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(base / "out", tmp_path / "out")
    assert leaderboard_command([f"out={tmp_path / 'out'}"], check=False) == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.json")}
    assert len(kept) == 2
    monkeypatch.setattr("fsar_bench.leaderboard.boards.recall", None)
    monkeypatch.setattr("fsar_bench.results.store.recall", None)
    assert leaderboard_command([f"out={tmp_path / 'out'}"], check=True) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.json")} == kept
