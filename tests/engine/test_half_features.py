"""features=float16: half the memory, nearly the same scores, and a row of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fsar_bench.config.resolve import resolve
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.memory import Room, Shelf
from fsar_bench.errors import ProtocolError
from fsar_bench.method import VideoFeatures
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.command import command_of


def kept(room: Room, **tensors: torch.Tensor) -> VideoFeatures:
    clips = len(next(iter(tensors.values())))
    shelf = Shelf(clips, room)
    shelf.put(VideoFeatures(**{name: tensor[: clips // 2] for name, tensor in tensors.items()}), clips // 2)
    shelf.put(VideoFeatures(**{name: tensor[clips // 2 :] for name, tensor in tensors.items()}), clips - clips // 2)
    return shelf.features()


@pytest.mark.parametrize("left", [None, 10])
def test_a_bank_takes_half_the_memory_and_gives_float32(tmp_path, left):
    frames, numbers = torch.randn(6, 4, 8), torch.arange(6)
    whole = kept(Room(), frames=frames, numbers=numbers)
    room = Room(left, tmp_path, torch.device("cpu"), is_half=True)
    half = kept(room, frames=frames, numbers=numbers)
    assert half.frames.nbytes * 2 == whole.frames.nbytes
    assert half.numbers.dtype == torch.int64
    bank = FeatureBank(np.arange(6), half, half, 0.0, room, is_mapped=left is not None)
    plan = EpisodePlan.__new__(EpisodePlan)
    vars(plan).update(support=np.array([[[0], [1]]]), query=np.array([[[2, 3], [4, 5]]]))
    support, query = bank.episodes(plan, slice(0, 1))
    for features, rows in ((support, [0, 1]), (query, [2, 3, 4, 5])):
        assert features.frames.dtype == torch.float32
        assert torch.equal(features.frames.reshape(-1, 4, 8), frames[rows].half().float())
    norms = bank.indexed(lambda videos: VideoFeatures(frames=videos.frames, norm=1e5 * videos.frames.norm(dim=-1)))
    indexed, _ = norms.episodes(plan, slice(0, 1))
    assert torch.equal(indexed.norm.reshape(-1, 4), 1e5 * frames[:2].half().float().norm(dim=-1))  # not rounded
    assert torch.equal(indexed.frames, support.frames)
    assert norms.support.frames.dtype == torch.half


def test_values_that_float16_cannot_hold_are_refused():
    with pytest.raises(ProtocolError, match=r"features=float16 cannot hold 'frames': its largest value is 7e\+04"):
        kept(Room(is_half=True), frames=torch.full((2, 3), 7e4))


def test_it_is_a_setting_of_the_row_and_changes_no_other_hash():
    pairs = ["methods=otam,clip_fsar", "controls=false"]
    plain, same, half = (resolve([*pairs, *more]).cells for more in ([], ["features=float32"], ["features=float16"]))
    assert [cell.hash for cell in plain] == [cell.hash for cell in same]
    assert {cell.hash for cell in plain}.isdisjoint(cell.hash for cell in half)
    assert [cell.label.row for cell in half] == [f"{cell.label.row} (features=float16)" for cell in plain]
    assert "features" not in plain[0].identity.model_dump(mode="json")["protocol"]


def test_results_are_near_and_the_record_says_it(run_tiny, tmp_path):
    settings = {"controls": False, "episodes": 200}
    whole, half = (run_tiny("otam_frozen", features=kind, **settings)[0] for kind in ("float32", "float16"))
    assert np.mean(whole.predictions() == half.predictions()) > 0.97
    record = json.loads((half.folder / "result.json").read_text())
    assert record["backbone"]["precision"] == "float32, features kept in float16"
    assert whole.result.backbone.precision == "float32"
    assert whole.folder != half.folder
    table = next((tmp_path / "leaderboards").glob("*.md")).read_text()
    assert "features=float16" in table
    command = command_of(half.result, {"dataset": str(tmp_path / "tiny.py")})
    assert "features=float16" in command.pairs
    assert not command.problem
