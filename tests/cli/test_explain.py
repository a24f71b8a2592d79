"""`fsar-bench explain`: the episode of the plan, the scores that were stored, and what matchers say they matched."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stores import make_plan

from fsar_bench.cli.explain import explain_command
from fsar_bench.errors import ConfigError, FsarBenchError, ResultError
from fsar_bench.explain.drawing import draw_query, page
from fsar_bench.explain.episode import Explained, Matched, cell_of, explain
from fsar_bench.matching import build_matcher
from fsar_bench.matching.matcher import influence
from fsar_bench.matching.otam import otam
from fsar_bench.results import store as results

T, C = 6, 12


def frames(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, C, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["OTAM", "BiMHM", "MatchingNetwork", "TRX"])
def test_alignments_are_of_frames_and_not_negative(kind):
    torch.manual_seed(0)
    found = build_matcher({"type": kind}, C).eval().alignment(frames(0, T), frames(1, 2, T))
    assert found.distance.shape == found.weight.shape == (2, T, T)
    assert (found.weight >= -1e-6).all()
    assert found.weight.sum() > 0
    assert torch.isfinite(found.weight).all()


def test_otam_aligns_a_video_with_itself_along_the_diagonal():
    video = torch.eye(T, C)
    found = build_matcher({"type": "OTAM", "smoothing": 0.01}, C).alignment(video, video[None])
    assert torch.allclose(found.weight[0], 2 * torch.eye(T), atol=1e-3)  # one path each way
    distance = torch.rand(T, T, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matcher = build_matcher({"type": "OTAM", "bidirectional": False}, C)
    step = 1e-6
    moved = distance.clone()
    moved[2, 3] += step
    slope = (otam(moved, matcher.smoothing) - otam(distance, matcher.smoothing)) / step
    assert influence(lambda d: otam(d, matcher.smoothing), distance)[2, 3].item() == pytest.approx(
        slope.item(), abs=1e-4
    )


def test_bi_mhm_marks_nearest_frames():
    query, support = torch.eye(3, C), torch.eye(3, C)[[1, 1, 2]]
    found = build_matcher({"type": "BiMHM"}, C).alignment(query, support[None])
    assert found.weight[0, 2, 2] == 2  # nearest both ways
    assert found.weight[0].sum() == 6  # three frames each way


def test_trx_attention_sums_to_one_and_whole_video_matchers_have_none():
    torch.manual_seed(0)
    found = build_matcher({"type": "TRX"}, C).eval().alignment(frames(0, T), frames(1, 3, T))
    assert found.weight.sum().item() == pytest.approx(1, abs=1e-5)
    assert build_matcher({"type": "CosinePrototype"}, C).alignment(frames(0, T), frames(1, 3, T)) is None


def test_command_draws_what_was_stored(command, tiny):
    run = (
        "run",
        "methods=otam_frozen,zero_shot",
        f"dataset={tiny}",
        "episodes=30",
        "controls=false",
        "shot=2",
        "frames=4",
    )
    done = command(*run)
    assert done.returncode == 0, done.stderr
    folders = {p.name.split("-")[0]: p for p in (command.folder / "leaderboards" / "results").glob("*/*/*")}
    for name, extra in (("otam_frozen", ()), ("zero_shot", ("--query", "3"))):
        done = command("explain", str(folders[name]), f"dataset={tiny}", "--episode", "7", *extra)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # else a prediction differs from the stored one
        queries = range(5) if not extra else [3]
        stored = results.read(folders[name]).predictions()[7]
        assert done.stdout.count("query ") == len(queries)
        for j in queries:
            picture = command.folder / "explained" / f"{folders[name].name}-episode7-query{j}.png"
            assert min(Image.open(picture).size) > 300
            line = next(line for line in done.stdout.splitlines() if line.startswith(f"query {j},"))
            assert (": right" in line) == (stored[j] == j)
        html = (command.folder / "explained" / f"{folders[name].name}-episode7.html").read_text()
        assert html.count("data:image/png") == len(queries)
        assert not re.search(r"(src|href)=\"http", html)
    assert (
        "OTAM: dots show" in (command.folder / "explained" / f"{folders['otam_frozen'].name}-episode7.html").read_text()
    )
    for pairs, how, message in (
        ([], {"episode": 30}, "episodes 0 to 29"),
        ([], {"query": 9}, "queries 0 to 4"),
        (["method.x=1"], {}, "has no key"),
        (["frames=8"], {}, "do not give its config hash"),
    ):
        with pytest.raises(FsarBenchError, match=message):
            explain_command(folders["otam_frozen"], [f"dataset={tiny}", *pairs], **{"episode": 0, "query": None, **how})
    with pytest.raises(FsarBenchError, match="cannot be read"):
        explain_command(Path("nowhere"), [], episode=0, query=None)


def test_every_committed_setting_is_found_again():
    """The records of this repository alone give back the cells that made them."""
    root = Path(__file__).parents[2] / "leaderboards" / "results"
    found = results.read_all(root)
    assert len(found) > 70
    for stored in found[::5]:
        cell, _ = cell_of(stored.result, [])
        assert cell["hash"] == stored.result.config_hash


def toy(K: int, matched: bool) -> Explained:
    rng = np.random.RandomState(0)
    N, Q = 3, 3
    weights = [
        [Matched("OTAM", "share", rng.rand(N, 1, 4, 4), rng.rand(N, 1, 4, 4))] if matched else [] for _ in range(Q)
    ]
    return Explained(
        4, ["<b>one</b>", "two $5^{ and $6", "three"], np.arange(3), np.array([0, 2, 2]),
        {"total": rng.rand(Q, N), "text": np.zeros((Q, N))}, rng.randint(0, 256, (N, K, 4, 16, 16, 3), np.uint8),
        rng.randint(0, 256, (Q, 4, 16, 16, 3), np.uint8), weights,
    )  # fmt: skip


@pytest.mark.parametrize(("K", "matched"), [(1, True), (3, True), (2, False)])
def test_pictures_have_the_same_bytes_again_and_pages_no_markup(K, matched):
    found = toy(K, matched)
    picture = draw_query(found, 1, "Title")
    assert picture == draw_query(found, 1, "Title")
    text = page(found, "A & B", {1: picture})
    assert "<b>one</b>" not in text
    assert "&lt;b&gt;one" in text
    assert "query 1: two $5^{ and $6, taken for three" in text


def test_other_episodes_than_those_of_the_result_are_not_explained():
    test = SimpleNamespace(plan=make_plan(episodes=3))
    with pytest.raises(ConfigError, match="episodes 0 to 2"):
        explain(None, test, 3, test.plan.realised)
    with pytest.raises(ResultError, match="other clips are missing here"):
        explain(None, test, 0, "0" * 64)
