"""Features that do not fit in memory: the same bytes, bounded memory, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import GivenFeatures, outputs

from fsar_bench.engine import host, memory, scoring
from fsar_bench.engine.bank import CHUNK, FeatureBank, RepeatedGathering, build_bank
from fsar_bench.engine.memory import Room, Shelf, free_memory
from fsar_bench.engine.scoring import score_plan
from fsar_bench.errors import ProtocolError, ResultError
from fsar_bench.matching.matcher import build_matcher
from fsar_bench.method import FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.plan import ClipList, EpisodePlan
from fsar_bench.writing import mapped
from fsar_bench.writing.temporary import sweep

CLASSES, CLIPS, T, C = 6, 12, 4, 8  # 72 clips: three chunks, the last of which is short
ONE_ROLE = CLASSES * CLIPS * (T * C * 4 + 8)  # bytes of features of all clips


class Source:
    """Frames of one pixel, whose value is the number of the clip."""

    plan = SimpleNamespace(frames=1)

    def prefetch(self, requests):
        return [None] * len(requests)

    def collect(self, requests, pending):
        return np.array([int(request.clip.id) for request in requests], np.uint8).reshape(-1, 1, 1, 1, 1).repeat(3, 4)


class Noise(FewShotMethod):
    """Each clip is noise of its number; a support adds its class text. The matcher compares triples of frames, indexed."""

    traits = Traits(uses_class_names=True, trainable=False, transductive=False, order_sensitive=True)
    matched = "frames"

    def __init__(self, *, role_free: bool):
        super().__init__(GivenFeatures(C))
        self.role_free, self.width = role_free, 0
        torch.manual_seed(0)
        self.matcher = build_matcher({"type": "TRX", "out": 5}, C)

    def embed(self, frames, class_text):
        numbers = frames[:, 0, 0, 0, 0].tolist()
        noise = torch.stack([torch.randn(T, C, generator=torch.Generator().manual_seed(n)) for n in numbers])
        if class_text is not None and not self.role_free:
            noise += class_text[:, None]
        # As methods give them: of other types, not contiguous, without width where there is no text encoder.
        count = torch.tensor(numbers, dtype=torch.float64)
        return VideoFeatures(
            frames=noise.transpose(1, 2).contiguous().transpose(1, 2), count=count, text=noise[:, 0, :0]
        )

    def score(self, support, query, class_text):
        return Scores(
            -self.matched_distance(query, support), {"count": query.count[..., None] - support.count.mean(-1)[:, None]}
        )


def setting(role_free: bool):
    """A method, and what `build_bank` and `score_plan` need."""
    clips = ClipList.of([(f"c{c}", str(c * CLIPS + i)) for c in range(CLASSES) for i in range(CLIPS)])
    plan = EpisodePlan.sample(clips, way=5, shot=2, query=1, episodes=40, seed=0, purpose="test")
    class_of = [number // CLIPS for number in range(CLASSES * CLIPS)]
    split = SimpleNamespace(
        clips=[SimpleNamespace(id=str(n), content=f"sha{n}") for n in range(CLASSES * CLIPS)], class_of=class_of
    )
    return Noise(role_free=role_free), split, plan, torch.randn(CLASSES, C, generator=torch.Generator().manual_seed(1))


def bank_of(method, split, text, room: Room | None, clips=None) -> FeatureBank:
    numbers = np.arange(len(split.clips)) if clips is None else clips
    return build_bank(method, split, numbers, text, Source(), room=room)


def count_files(monkeypatch) -> list[int]:
    """Sizes of the mapped files that are made from now on."""
    sizes: list[int] = []
    make = mapped.MappedFile.__init__
    monkeypatch.setattr(
        mapped.MappedFile, "__init__", lambda self, path, size: sizes.append(size) or make(self, path, size)
    )
    return sizes


@pytest.mark.parametrize("keeps_index", [True, False])
@pytest.mark.parametrize(
    ("role_free", "left", "banks", "indexes"),  # bytes that there is room for, and the files that are made
    [
        (True, 10**6, 0, 0),
        (True, ONE_ROLE, 0, 1),
        (True, ONE_ROLE - 1, 1, 1),
        (False, 10**6, 0, 0),
        (False, 2 * ONE_ROLE, 0, 2),
        (False, 2 * ONE_ROLE - 1, 1, 2),
        (False, 0, 2, 2),
    ],
)
def test_scores_have_the_same_bytes_wherever_features_are(
    tmp_path, monkeypatch, role_free, left, banks, indexes, keeps_index
):
    monkeypatch.setattr(scoring, "INDEXED", (1 << 32) * keeps_index)
    method, split, plan, text = setting(role_free)
    expected = score_plan(method, bank_of(method, split, text, None), plan, text, batch=7)
    files = count_files(monkeypatch)
    bank = bank_of(method, split, text, Room(left, tmp_path))
    assert (len(files), bank.is_mapped) == (banks, banks > 0)
    scores = score_plan(method, bank, plan, text, batch=7)
    assert scores.total.tobytes() == expected.total.tobytes()
    assert scores.parts["count"].tobytes() == expected.parts["count"].tobytes()
    assert len(files) == banks + indexes * keeps_index
    assert list(tmp_path.iterdir()) == []  # what is mapped has no name


def test_a_clip_is_read_once_per_batch_and_role_in_the_order_of_the_file(tmp_path, monkeypatch):
    method, split, plan, text = setting(False)
    bank = bank_of(method, split, text, Room(0, tmp_path))
    near = bank_of(method, split, text, None)
    read = []
    gathered = FeatureBank._gathered
    monkeypatch.setattr(
        FeatureBank, "_gathered", lambda self, _, rows, *more: read.append(rows) or gathered(self, _, rows, *more)
    )
    rows = slice(3, 30)
    found = bank.episodes(plan, rows)
    monkeypatch.undo()
    assert [list(part) for part in read] == [sorted(set(p[rows].flat)) for p in (plan.support, plan.query)]
    for ours, theirs in zip(found, near.episodes(plan, rows), strict=True):
        assert all(torch.equal(tensor, getattr(theirs, name)) for name, tensor in ours.items())


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("role_free", [True, False])
@pytest.mark.parametrize("left", [10**6, 0])
@torch.no_grad()
def test_batches_hold_their_features_unless_the_caller_is_done_with_them(tmp_path, role_free, left, is_half):
    method, split, plan, text = setting(role_free)
    room = Room(left, tmp_path, is_half=is_half)
    bank = bank_of(method, split, text, room).indexed(method.index)
    assert bank.is_mapped == (left == 0)
    batches = [slice(0, 7), slice(7, 16), slice(16, 19)]
    held = [bank.episodes(plan, rows) for rows in batches]
    read = [[dict(role.items()) for role in batch] for batch in held]  # all of them, before one of them is looked at
    gathering, places = RepeatedGathering(), []
    for rows, expected in zip(batches, read, strict=True):
        for role, features, tensors, numbers in zip(
            ("support", "query"),
            bank.episodes(plan, rows, gathering),
            expected,
            (plan.support, plan.query),
            strict=True,
        ):
            of_bank = getattr(bank, role)
            index = torch.from_numpy(bank.row[numbers[rows]])
            for name, tensor in features.items():
                right = getattr(of_bank, name)[index if role == "support" else index.flatten(1)]
                assert torch.equal(tensor, right.float() if right.dtype == torch.half else right)
                assert torch.equal(tensor, tensors[name])
                assert tensor.is_contiguous()
        places.append(features.frames.data_ptr())
    assert places[1] == places[2]  # the third batch is not larger than the second
    assert len({batch[1]["frames"].data_ptr() for batch in read}) == 3


def test_scores_that_are_views_of_features_outlive_their_batch(tmp_path):
    class Views(Noise):
        def score(self, support, query, class_text):
            return Scores(query.count[..., None].expand(-1, -1, 5), {"first": support.frames[:, :, 0, :5, 0]})

    method, (_, split, plan, text) = Views(role_free=True), setting(True)
    scores = score_plan(method, bank_of(method, split, text, Room(0, tmp_path)), plan, text, batch=7)
    assert (scores.total == plan.query.reshape(len(plan), -1)[..., None]).all()
    expected = score_plan(method, bank_of(method, split, text, None), plan, text, batch=len(plan))
    assert scores.parts["first"].tobytes() == expected.parts["first"].tobytes()


def test_an_index_that_adds_nothing_takes_no_memory(tmp_path):
    method, split, _, text = setting(True)
    bank = bank_of(method, split, text, Room(0, tmp_path))
    same = bank.indexed(lambda features: features)
    assert same.query.frames.data_ptr() == bank.query.frames.data_ptr()
    more = bank.indexed(lambda features: VideoFeatures(frames=features.frames, mean=features.frames.mean(1)))
    assert more.query.frames.data_ptr() == bank.query.frames.data_ptr()
    assert torch.equal(more.query.mean, bank.query.frames.mean(1))
    assert "count" not in more.query

    def now_and_then(features):
        return features if len(features) == CHUNK else VideoFeatures(**{n: x + 0 for n, x in features.items()})

    with pytest.raises(ProtocolError, match=r"index\(\) changed features of some videos"):
        bank.indexed(now_and_then)


@pytest.mark.parametrize("left", [None, 0])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (VideoFeatures(x=torch.zeros(1, 3)), r"are x \[1, 3\] \(torch.float32\), not x \[5, 3\]"),
        (VideoFeatures(x=torch.zeros(2, 1)), r"are x \[2, 1\] "),
        (VideoFeatures(x=torch.zeros(2, 3).double()), "torch.float64"),
        (VideoFeatures(y=torch.zeros(2, 3)), r"are y \[2, 3\]"),
    ],
)
def test_features_that_differ_between_clips_are_refused(tmp_path, left, part, message):
    shelf = Shelf(5, Room(left, tmp_path))
    shelf.put(VideoFeatures(x=torch.ones(3, 3)), 3)
    with pytest.raises(ProtocolError, match=message):
        shelf.put(part, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_a_file_keeps_every_type(tmp_path, dtype):
    values = (torch.arange(21).view(7, 3) % 5).to(dtype)
    shelf = Shelf(7, Room(0, tmp_path))
    for part in values.split(4):
        shelf.put(VideoFeatures(odd=part[:, 0], x=part), len(part))  # `x` begins where no multiple of its size may be
    found = shelf.features()
    assert torch.equal(found.x, values)
    assert torch.equal(found.odd, values[:, 0])
    assert found.x.dtype == dtype


def test_the_room_is_what_was_asked_for_or_half_of_what_is_free(tmp_path, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**10 if device.type == "cpu" else 6 * 10**9)
    assert [Room.of(text, tmp_path, cpu).left for text in ("auto", "none", "4GB", "900 GB")] == [
        5 * 10**9, None, 4 * 10**9, 9 * 10**11,
    ]  # fmt: skip
    assert [Room.of(text, tmp_path, cuda).left for text in ("auto", "none", "1GB", "4GB")] == [
        3 * 10**9, None, 10**9, 3 * 10**9,
    ]  # fmt: skip
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**7)
    assert Room.of("auto", tmp_path, cpu).left == memory.LEAST
    assert Room.of("auto", tmp_path, cuda).left == 5 * 10**6


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")
@pytest.mark.parametrize(
    ("line", "root", "names"),
    [
        ("0::/job/step", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:cpu,memory:/job/step", "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)  # fmt: skip
def test_limits_of_control_groups_bound_free_memory(tmp_path, monkeypatch, line, root, names):
    limit, used, files = names
    step = tmp_path / root / "job" / "step"
    step.mkdir(parents=True)
    for folder, most in ((step, "max"), (step.parent, "5000000"), (tmp_path / root, "9000000")):
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text("3000000\n")
        (folder / "memory.stat").write_text(f"anon 7\n{files} 1000000\nshmem 3\n")
    monkeypatch.setattr(host, "_GROUP_ROOT", tmp_path)
    monkeypatch.setattr(host, "_GROUPS", tmp_path / "groups")
    assert free_memory(torch.device("cpu")) > 7 * 10**6  # no such file: no groups
    (tmp_path / "groups").write_text(f"3:pids:/elsewhere\n{line}\n")
    assert free_memory(torch.device("cpu")) == 3 * 10**6


def test_results_have_the_same_bytes_and_a_full_disk_is_named(run_tiny, tmp_path, monkeypatch):
    """Statistics of train, encoding and scoring."""
    settings = {
        "methods": ["otam_frozen", "tied_gaussian"],
        "controls": False,
        "tied_gaussian.method.covariance": "train",
    }
    sizes = count_files(monkeypatch)
    run_tiny(**settings)
    expected = outputs(tmp_path / "leaderboards")
    assert not sizes  # the default has room for this
    run_tiny(**settings, bank_budget="1kB", out=tmp_path / "again", work_dir=tmp_path / "work")
    assert outputs(tmp_path / "again") == expected
    assert len(sizes) == 3  # two test banks, one of train
    assert not list((tmp_path / "work").rglob("*.part"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped.os, "pwrite", full)
    with pytest.raises(ResultError, match=r"Cannot write .*features.* \(No space left.*another folder with work_dir="):
        run_tiny("otam_frozen", controls=False, bank_budget="1kB", out=tmp_path / "c", work_dir=tmp_path / "d")


def test_a_disk_that_is_too_small_is_told_before_anything_is_encoded(tmp_path):
    disk = os.statvfs(tmp_path)
    with pytest.raises(OSError, match="No space left") as told:
        mapped.MappedFile(tmp_path / "features", 2 * disk.f_blocks * disk.f_frsize)
    assert told.value.filename == str(tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from fsar_bench.writing import mapped

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
if sys.argv[2] == "before":
    Path.unlink = die
file = mapped.MappedFile(folder / "features", 1 << 20)
file.write(0, memoryview(b"x" * (1 << 20)))
die()
"""


@pytest.mark.parametrize(("when", "left"), [("before", 1), ("after", 0)])
def test_a_kill_leaves_no_file_after_the_next_sweep(tmp_path, when, left):
    """Killed while the file has a name, and while it is written."""
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "work"), when])
    assert child.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "work").iterdir())) == left
    sweep([tmp_path])
    assert not list(tmp_path.rglob("*.part"))


BOUNDED = """
import hashlib, sys
from dataclasses import replace
from pathlib import Path
import test_bank_budget as test
from fsar_bench.engine.memory import Room
from fsar_bench.engine.scoring import score_plan

folder, more = Path(sys.argv[1]), int(sys.argv[2])
method, split, plan, text = test.setting(True)
method = test.Large()
plan = replace(plan, classes=plan.classes[:4], support=plan.support[:4], query=plan.query[:4])

def digest(left):
    bank = test.bank_of(method, split, text, Room(left, folder))
    return hashlib.sha256(score_plan(method, bank, plan, text, batch=250).total.tobytes()).hexdigest()

mapped = digest(50 * 10**6)  # libraries have what they keep then
with test.private_memory_bounded(more):
    assert digest(50 * 10**6) == mapped
try:
    with test.private_memory_bounded(more):
        digest(None)
except (MemoryError, RuntimeError) as error:
    print(error)
else:
    sys.exit("as much memory as the whole bank takes was allowed")
with test.private_memory_bounded(more + test.LARGE):  # in memory, but not twice
    assert digest(None) == mapped
"""
MEGABYTES = 4  # of the features of a clip
LARGE = CLASSES * CLIPS * MEGABYTES * 10**6  # of those of all clips


class Large(Noise):
    """Features of some megabytes."""

    def __init__(self):
        super().__init__(role_free=True)
        self.matched = ""

    def embed(self, frames, class_text):
        numbers = frames[:, 0, 0, 0, 0].float()
        return VideoFeatures(large=torch.outer(numbers, torch.linspace(0, 1, MEGABYTES * 250_000)))

    def score(self, support, query, class_text):
        return Scores(-torch.cdist(query.large[..., :100], support.large[..., :100].mean(2)))


@contextlib.contextmanager
def private_memory_bounded(more: int) -> Iterator[None]:
    """Bound what this process has to itself, by the system: no memory beyond that is given.

    Pages of mapped files do not count: the system takes them back where others need memory.
    """
    import resource

    (now,) = (int(x.split()[1]) * 1024 for x in Path("/proc/self/status").read_text().splitlines() if "VmData" in x)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the private memory of a process")
def test_memory_is_bounded_where_the_bank_is_larger(tmp_path):
    """A chunk while clips are encoded, an episode twice while it is scored (its 15 clips, and those as supports and queries)."""
    bound = max(CHUNK, 2 * 15) * MEGABYTES * 10**6 + 50 * 10**6
    assert bound < 0.7 * LARGE
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)  # glibc gives back what is larger: its heap has holes
    child = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path), str(bound)], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert "allocate memory" in child.stdout
