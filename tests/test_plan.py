"""Episode plans: the documented algorithm, nesting, missing clips, hashes and storage."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ProtocolError, ResultError
from fsar_bench.plan import ClipList, EpisodePlan, digest_of_recordings, plan_sizes, stored_names, stored_recordings
from fsar_bench.storage.archives import ArrayFile

MASK = (1 << 64) - 1


def clip_list(classes: int = 9, clips: int = 8) -> ClipList:
    return ClipList.of([(f"class{c}", f"clip{c}_{i}") for c in range(classes) for i in range(clips + c % 3)])


def sample(clips: ClipList | None = None, **changes) -> EpisodePlan:
    arguments = {"way": 5, "shot": 1, "query": 1, "episodes": 50, "seed": 0, "purpose": "test"}
    return EpisodePlan.sample(clips or clip_list(), **{**arguments, **changes})


def mix(z: int) -> int:
    """SplitMix64 in plain Python."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def redraw(clips: ClipList, episode: int, *, way: int, shot: int, query: int, seed: int, purpose: str, missing=()):
    """The module's docstring, word by word, in plain Python."""
    key = mix(mix(seed) ^ zlib.crc32(purpose.encode()))
    episode_key = mix(key ^ episode)
    classes = sorted(range(len(clips.classes)), key=lambda c: mix(mix(episode_key ^ 1) ^ c))[:way]
    starts, supports, queries = clips.starts, [], []
    for c in classes:
        order = sorted(range(len(clips.clips[c])), key=lambda i: mix(mix(mix(episode_key ^ 2) ^ c) ^ i))
        order = [i for i in order if clips.clips[c][i] not in missing]
        queries.append([starts[c] + i for i in order[:query]])
        supports.append([starts[c] + i for i in order[::-1][:shot]])
    return classes, supports, queries


@settings(max_examples=30, deadline=None)
@given(
    way=st.integers(2, 6),
    shot=st.integers(1, 4),
    query=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    lost=st.booleans(),
)
def test_plan_is_what_the_docstring_says(way, shot, query, seed, lost):
    clips = clip_list()
    missing = frozenset({"clip3_0", "clip5_2"}) if lost else frozenset()
    how = {"way": way, "shot": shot, "query": query, "seed": seed, "purpose": "test"}
    plan = sample(clips, **how, episodes=4, missing=missing)
    for episode in range(4):
        classes, supports, queries = redraw(clips, episode, **how, missing=missing)
        assert plan.classes[episode].tolist() == classes
        assert plan.support[episode].tolist() == supports
        assert plan.query[episode].tolist() == queries


def test_a_split_of_more_classes_than_a_result_may_have_is_refused_before_work():
    clips = ClipList.of([(f"c{number}", f"{number}_{i}") for number in range(10_001) for i in range(2)])
    with pytest.raises(ProtocolError, match=r"The test split has 10,001 classes; at most 10,000 are allowed"):
        EpisodePlan.sample(clips, way=5, shot=1, query=1, episodes=1, seed=0, purpose="test")


def test_hash_is_stable():
    # A change of this hash means that published plans can no longer be redrawn: raise episodes.ALGORITHM then.
    assert sample(episodes=100).digest == "ce1956e11d25ebda38a527009f5dd5e32810a5231984cf2708de090a8a4c2442"


def test_one_shot_supports_are_a_prefix_and_queries_do_not_change():
    one, five = sample(shot=1), sample(shot=5)
    assert (one.classes == five.classes).all()
    assert (one.query == five.query).all()
    assert (one.support == five.support[..., :1]).all()


def test_support_and_query_never_share_a_clip():
    plan = sample(shot=5, query=3, episodes=200)
    for support, query in zip(plan.support.reshape(200, -1), plan.query.reshape(200, -1), strict=True):
        clips = [*support, *query]
        assert len(set(clips)) == len(clips)


def test_episodes_are_drawn_by_number():
    assert (sample(episodes=10, first=40).support == sample(episodes=50).support[40:]).all()


def test_order_of_the_list_does_not_matter():
    rows = [(f"c{c}", f"v{c}{i}") for c in range(6) for i in range(4)]
    assert sample(ClipList.of(rows)).digest == sample(ClipList.of(rows[::-1])).digest


def test_classes_are_uniform_over_labels_and_episodes():
    plan = sample(episodes=9000)
    share = np.bincount(plan.classes.ravel(), minlength=9) / plan.classes.size
    assert np.abs(share - 1 / 9).max() < 0.01
    first = np.bincount(plan.classes[:, 0], minlength=9) / len(plan)
    assert np.abs(first - 1 / 9).max() < 0.02


def test_missing_clip_is_replaced_and_the_plan_keeps_its_hash():
    clips = clip_list()
    whole, holed = sample(clips, shot=3), sample(clips, shot=3, missing=frozenset({"clip2_1"}))
    gone = clips.flat.index("clip2_1")
    assert holed.digest == whole.digest
    assert holed.realised != whole.digest
    assert holed.replaced > 0
    assert gone in whole.used_clips
    assert gone not in holed.used_clips
    touched = ((whole.support == gone).any((1, 2))) | ((whole.query == gone).any((1, 2)))
    assert (whole.support[~touched] == holed.support[~touched]).all()


def test_too_few_clips_and_classes_are_named():
    with pytest.raises(ProtocolError, match=r"'class0'.*has 8 clips, fewer than shot \+ query = 9"):
        sample(shot=8)
    with pytest.raises(ProtocolError, match=r"9 classes, fewer than way=10"):
        sample(way=10)
    missing = frozenset(f"clip0_{i}" for i in range(7))
    with pytest.raises(ProtocolError, match=r"7 of 8 are missing"):
        sample(missing=missing)


def test_save_and_load(tmp_path):
    plan = sample(shot=5)
    plan.save(tmp_path / "plan.npz")
    first = (tmp_path / "plan.npz").read_bytes()
    plan.save(tmp_path / "plan.npz")
    loaded = EpisodePlan.load(tmp_path / "plan.npz")
    assert (tmp_path / "plan.npz").read_bytes() == first
    assert loaded.digest == plan.digest
    assert (loaded.support == plan.support).all()
    (tmp_path / "plan.npz").write_bytes(first[:-100])
    with pytest.raises(ResultError, match=r"plan\.npz cannot be read"):
        EpisodePlan.load(tmp_path / "plan.npz")


def test_tampered_plan_is_refused(tmp_path):
    plan = sample()
    plan.support[0, 0, 0] += 1
    plan.save(tmp_path / "plan.npz")
    with pytest.raises(ResultError, match="does not have the hash"):
        EpisodePlan.load(tmp_path / "plan.npz")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), shot=st.integers(1, 3), query=st.integers(1, 2), lost=st.booleans())
def test_group_disjoint_episodes_share_no_recording_and_keep_their_queries(seed, shot, query, lost):
    clips = ClipList.of([(f"c{c}", f"c{c}_{i:02d}") for c in range(6) for i in range(14)])
    recording = np.random.RandomState(seed).permutation(np.repeat(np.arange(42), 2))
    missing = frozenset({"c1_03", "c4_00"}) if lost else frozenset()
    how = {"way": 5, "query": query, "episodes": 40, "seed": seed, "purpose": "test", "missing": missing}
    plain = EpisodePlan.sample(clips, shot=shot, **how)
    plan = EpisodePlan.sample(clips, shot=shot, recording=recording, **how)
    assert (plan.query == plain.query).all()
    assert (plan.classes == plain.classes).all()
    assert plan.digest != plain.digest
    for e in range(len(plan)):
        for n in range(5):
            assert not set(recording[plan.support[e, n]]) & set(recording[plan.query[e, n]])
            assert len({*plan.support[e, n], *plan.query[e, n]}) == shot + query
    flat = np.array(clips.flat)
    assert not missing & set(flat[plan.used_clips])
    one = EpisodePlan.sample(clips, shot=1, recording=recording, **how)
    assert (one.support[..., 0] == plan.support[..., 0]).all()
    alone = EpisodePlan.sample(clips, shot=shot, recording=np.arange(84), **how)
    assert (alone.support == plain.support).all()


def test_group_disjoint_needs_enough_recordings():
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(6)])
    how = {"way": 5, "query": 1, "episodes": 5, "seed": 0, "purpose": "test"}
    with pytest.raises(ProtocolError, match="too few clips of other recordings for shot=4"):
        EpisodePlan.sample(clips, shot=4, recording=np.arange(30) // 3, **how)


def test_a_plan_of_the_most_and_longest_class_names_can_be_read_back(tmp_path):
    names = [f"{number:05d}" + "é" * 295 for number in range(10**4)]
    clips = ClipList.of([(name, f"{name[:5]}_{i}") for name in names for i in range(2)])
    plan = EpisodePlan.sample(clips, way=2, shot=1, query=1, episodes=2, seed=0, purpose="test")
    plan.save(tmp_path / "plan.npz")
    assert EpisodePlan.load(tmp_path / "plan.npz").names == tuple(sorted(names))


# Recordings --------------------------------------------------------------------------------------------------------------------

CLIPS = 81  # of `clip_list`
PAIRS = np.arange(CLIPS) // 2


def test_recordings_change_neither_hashes_nor_episodes():
    plain, recorded = sample(), sample().with_recordings(PAIRS)
    assert (recorded.digest, recorded.realised, recorded.header) == (plain.digest, plain.realised, plain.header)
    assert (recorded.query == plain.query).all()
    assert (plain.recordings, plain.recordings_digest) == (None, None)
    assert (recorded.recordings.dtype, recorded.recordings.tolist()) == (np.int32, PAIRS.tolist())
    assert recorded.nbytes == plain.nbytes + 4 * CLIPS
    assert recorded.recordings_digest == hashlib.sha256(struct.pack(f"<{CLIPS}q", *PAIRS.tolist())).hexdigest()
    assert recorded.with_recordings(None).recordings is None


def test_the_digest_of_recordings_is_that_of_the_header_of_group_disjoint_episodes():
    plan = sample(recording=PAIRS)
    assert plan.header["recordings"] == plan.recordings_digest == digest_of_recordings(PAIRS)
    assert plan.recordings.tolist() == PAIRS.tolist()
    assert digest_of_recordings(PAIRS) != digest_of_recordings(PAIRS[::-1])


def test_recordings_are_stored_where_they_are_known(tmp_path):
    plain, recorded, path = sample(), sample().with_recordings(PAIRS), tmp_path / "plan.npz"
    recorded.save(path)
    loaded = EpisodePlan.load(path)
    assert (loaded.recordings.tolist(), loaded.recordings_digest) == (PAIRS.tolist(), recorded.recordings_digest)
    assert stored_recordings(path).tolist() == PAIRS.tolist()
    assert (plan_sizes(path).recorded, stored_names(path)) == (CLIPS, plain.names)
    plain.save(path)
    first = path.read_bytes()
    with np.load(path) as file:
        assert "recordings" not in file.files
    assert (EpisodePlan.load(path).recordings, stored_recordings(path), plan_sizes(path).recorded) == (None, None, None)
    recorded.with_recordings(None).save(path)
    assert path.read_bytes() == first


def test_sizes_and_names_are_read_without_recordings(tmp_path, monkeypatch):
    read: list[str] = []
    unpack = ArrayFile.read
    monkeypatch.setattr(ArrayFile, "read", lambda self, name, dtype: read.append(name) or unpack(self, name, dtype))
    sample().with_recordings(PAIRS).save(tmp_path / "plan.npz")
    assert plan_sizes(tmp_path / "plan.npz").recorded == CLIPS
    stored_names(tmp_path / "plan.npz")
    assert read == ["names"]


WRONG = {
    "below zero": PAIRS - 1,
    "too large": PAIRS + 50,
    "of too few clips": PAIRS[:40],
    "of none": PAIRS[:0],
    "a table": PAIRS[:, None],
    "fractions": PAIRS / 2,
}


@pytest.mark.parametrize("kind", WRONG)
def test_numbers_that_are_no_recordings_are_refused(tmp_path, kind):
    with pytest.raises(ProtocolError, match="Recordings must be numbers from 0 to clips - 1"):
        sample().with_recordings(WRONG[kind])
    numbers = WRONG[kind] if kind == "fractions" else WRONG[kind].astype(np.int32)
    replace(sample(), recordings=numbers).save(tmp_path / "plan.npz")
    with pytest.raises(ResultError, match=r"recordings in .* are not those of its clips|recordings (holds|unpacks)"):
        EpisodePlan.load(tmp_path / "plan.npz")


def test_recordings_other_than_those_that_the_episodes_were_drawn_by_are_refused(tmp_path):
    replace(sample(recording=PAIRS), recordings=PAIRS[::-1].astype(np.int32)).save(tmp_path / "plan.npz")
    with pytest.raises(ResultError, match="are not those of its clips"):
        EpisodePlan.load(tmp_path / "plan.npz")
