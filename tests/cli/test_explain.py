"""`fsar-bench explain`: the episode of the plan, the scores that were stored, and what matchers say they matched."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stores import make_plan

from fsar_bench.cli.explain import explain_command
from fsar_bench.errors import ResultError
from fsar_bench.explain.drawing import draw_query, page
from fsar_bench.explain.episode import Explained, Matched, explain
from fsar_bench.matching import build_matcher
from fsar_bench.matching.matcher import influence
from fsar_bench.matching.otam import otam

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


def test_the_command_draws_what_was_stored(run_tiny, fsar, tmp_path):
    stored = {
        s.result.name: s for s in run_tiny(["otam_frozen", "zero_shot"], episodes=30, controls=False, shot=2, frames=4)
    }
    for name, extra in (("otam_frozen", ()), ("zero_shot", ("--query", "3"))):
        folder = stored[name].folder
        code, out, err = fsar("explain", str(folder), "--episode", "7", *extra)
        assert (code, err) == (0, "")  # else a prediction differs from the stored one
        queries = range(5) if not extra else [3]
        predicted = stored[name].predictions()[7]
        assert out.count("query ") == len(queries)
        for j in queries:
            picture = tmp_path / "explained" / f"{folder.name}-episode7-query{j}.png"
            assert min(Image.open(picture).size) > 300
            line = next(line for line in out.splitlines() if line.startswith(f"query {j},"))
            assert (": right" in line) == (predicted[j] == j)
        html = (tmp_path / "explained" / f"{folder.name}-episode7.html").read_text()
        assert html.count("data:image/png") == len(queries)
        assert not re.search(r"(src|href)=\"http", html)
    name = stored["otam_frozen"].folder.name
    assert "OTAM: dots show" in (tmp_path / "explained" / f"{name}-episode7.html").read_text()
    for arguments, message in (
        (["--episode", "30"], "episodes 0 to 29"),
        (["--query", "9"], "queries 0 to 4"),
        (["frames=8"], "Unknown key 'frames'"),
    ):
        code, _, err = fsar("explain", str(stored["otam_frozen"].folder), *arguments)
        assert (code, message in err) == (1, True)
    assert "is called 'nowhere'" in fsar("explain", "nowhere")[2]


def test_a_result_is_named_from_inside_its_folder_or_by_name(run_tiny, fsar, tmp_path, monkeypatch, capsys):
    results = run_tiny("prototype_frozen", episodes=30, controls=False, frames=4, shot=[1, 2])
    (stored,) = results.where(shot=1)
    digest = stored.result.config_hash[:8]
    assert fsar("explain", digest, "-q", "0")[0] == 0  # found in ./leaderboards
    code, _, err = fsar("explain", "prototype_frozen")
    assert (code, f"'prototype_frozen' names 2 results: {digest} (" in err) == (1, True)
    monkeypatch.chdir(stored.folder)
    for name in (".", "result.json", f"../{stored.folder.name}/"):
        assert explain_command(name, [f"out={tmp_path / 'here'}"], episode=0, query=0) == 0
        assert f"{stored.folder.name}-episode0-query0.png" in capsys.readouterr().out


def test_a_trained_method_is_explained_with_its_trained_weights(run_tiny, fsar, tiny):
    (stored,) = run_tiny("otam", episodes=30, controls=False)
    code, out, err = fsar("explain", str(stored.folder), "--episode", "3", "workers=1")
    assert (code, err) == (0, "")
    assert out.count("query ") == 5
    assert "Name the right one with dataset=" in fsar("explain", str(stored.folder), "work_dir=./elsewhere")[2]
    code, _, err = fsar("explain", str(stored.folder), "work_dir=./elsewhere", f"dataset={tiny}")
    assert code == 1
    assert "The trained weights of OTAM are not in elsewhere/" in err


def test_a_record_alone_runs_no_code(run_tiny, fsar, tmp_path):
    """A custom method is only imported from a config that the user names; a changed file is named."""
    (tmp_path / "custom_code.py").write_text(
        "from fsar_bench.methods.zero_shot import ZeroShot\nfrom fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module(force=True)\nclass Custom(ZeroShot):\n    pass\n"
    )
    (tmp_path / "custom.py").write_text('custom_imports = ["custom_code"]\nmethod = dict(type="Custom")\n')
    (stored,) = run_tiny(str(tmp_path / "custom.py"), episodes=30, controls=False)
    error = fsar("explain", str(stored.folder))[2]
    assert (
        "uses the custom modules custom_code. Name the config that imports them, such as methods=./custom.py" in error
    )
    code, _, err = fsar("explain", str(stored.folder), f"methods={tmp_path / 'custom.py'}", "--query", "0")
    assert (code, err) == (0, "")
    (tmp_path / "other.py").write_text('custom_imports = ["os"]\nmethod = dict(type="Custom")\n')
    assert (
        "uses the custom modules custom_code"
        in fsar("explain", str(stored.folder), f"methods={tmp_path / 'other.py'}")[2]
    )
    (tmp_path / "custom_code.py").write_text("# changed\n" + (tmp_path / "custom_code.py").read_text())
    err = fsar("explain", str(stored.folder), f"methods={tmp_path / 'custom.py'}")[2]
    assert "module custom_code custom_code.py of custom has another content than when the result was made" in err


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
    assert "query 1: two $5^{ and $6, predicted as three" in text


def test_other_episodes_than_those_of_the_result_are_not_explained():
    run = SimpleNamespace(test=SimpleNamespace(plan=make_plan(episodes=3), split=None))
    with pytest.raises(ResultError, match="other clips are missing here"):
        explain(run, 0, "0" * 64)
