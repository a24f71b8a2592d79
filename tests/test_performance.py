"""The tool of `make benchmark`: its floors by hand, its fits on known curves, and that it runs."""

from __future__ import annotations

import math

import pytest
import torch

from tools.performance import growth, page, starting
from tools.performance.floors import FLOORS, Product, Sizes, Work, hyrsm, otam, prototype, trx
from tools.performance.growth import Curve, slope
from tools.performance.heads import HEADS, Scene, built, naive, timed_heads
from tools.performance.machine import Rates
from tools.performance.page import Measured, write
from tools.performance.points import Point
from tools.performance.starting import Taken

ONE = Sizes(way=2, shot=1, query=1, frames=2, width=3)  # small enough to count by hand
CPU = torch.device("cpu")


def test_floors_of_frames_by_hand():
    cosines = 2 * (2 * 2) * 3 * (2 * 1 * 2)  # 2 Q T C N K T
    assert FLOORS["bi_mhm"](ONE).operations == cosines == 96
    assert FLOORS["bi_mhm"](ONE).functions == 0
    assert FLOORS["bi_mhm"](ONE).bytes == 4 * (4 * 2 * 3) + 4 * 4  # 4 videos of 2 x 3 numbers, 2 x 2 scores
    # An alignment of 2 x 2 frames: 2 steps of 2 functions, then 2 exponentials and a logarithm; 4 pairs in 2 directions.
    assert otam(ONE).functions == 4 * 2 * (2 * 2 + 2 + 1) == 56
    assert otam(ONE).operations == cosines
    assert prototype(ONE).operations == 2 * 2 * 3 * 2
    assert prototype(ONE).bytes == 4 * (4 * 3 + 4)


def test_the_recursion_has_as_many_functions_as_otam_calls(monkeypatch):
    """Counted in the matcher itself: elements of logaddexp twice, and those of logsumexp with its logarithm."""
    from fsar_bench.matching.otam import OTAM

    s, counted = Sizes(way=3, shot=2, query=2, frames=5, width=4), []
    logaddexp, logsumexp = torch.logaddexp, torch.logsumexp
    monkeypatch.setattr(
        torch, "logaddexp", lambda a, b: counted.append(2 * max(a.numel(), b.numel())) or logaddexp(a, b)
    )
    monkeypatch.setattr(
        torch, "logsumexp", lambda x, dim: counted.append(x.numel() + x.numel() // x.shape[dim]) or logsumexp(x, dim)
    )
    OTAM()(torch.rand(1, s.queries, s.frames, s.width), torch.rand(1, s.way, s.shot, s.frames, s.width))
    assert sum(counted) == otam(s).functions


def test_floor_of_trx_by_hand():
    s = Sizes(way=2, shot=1, query=1, frames=3, width=4)
    work = trx(s, (2,), out=5)
    rows, tuples = 6, 3
    keys = 2 * (2 * 3) * 4 * (2 * 2 * rows)  # frames of width 4, less than rows of width 5
    norms = 2 * 2 * (2 * tuples) * rows * 5  # the mean of 6 rows is cheaper by its 5 numbers than by products of rows
    assert work.operations == 2 * keys + norms == 3024
    assert work.functions == 2 * 2 * tuples * tuples
    support, query = 2 * (2 * rows) * 4 + 2 * tuples + rows * rows, 3 * 4 + tuples
    assert work.kept == (2 * support + 2 * query) // 4
    wide = trx(Sizes(way=2, shot=1, query=1, frames=3, width=9), (2,), out=8)
    assert wide.operations == 2 * (2 * (2 * rows) * 8 * (2 * rows)) + 2 * 2 * (2 * tuples) * rows * rows
    assert wide.kept == (2 * (2 * rows * 8 + 2 * tuples + rows * rows) + 2 * (2 * rows * 8 + tuples)) // 4
    several = trx(Sizes(way=2, shot=4, query=1, frames=3, width=4), (2,), out=5)
    assert several.products[-1] == Product(2, 6, 24, 5)
    both = trx(s, (2, 3), out=5)
    assert both.operations == work.operations + trx(s, (3,), out=5).operations


def test_floor_of_hyrsm_is_mostly_one_layer_on_the_videos_of_every_task():
    s = Sizes()
    layer = 2 * (5 * 6) * 512 * 512
    assert sum(p.operations for p in hyrsm(s).products if p.is_shared) == layer
    sums = 2 * (5 * 6) * (8 * 6) * 512  # of the outputs of 8 heads of 6 videos
    assert layer + sums < hyrsm(s).operations < 1.4 * layer


@pytest.mark.parametrize("name", FLOORS)
def test_floors_are_below_what_the_plain_form_multiplies(name):
    """Products that torch counts in a naive episode: more than the floor has, which none of our forms may undercut."""
    from torch.utils.flop_counter import FlopCounterMode

    sizes = Sizes(width=256)
    scene = Scene.of(sizes, 1, CPU, classes=6, clips=3)
    method = built(name, sizes, CPU)
    bank = scene.bank(method)
    with FlopCounterMode(display=False) as counter:
        naive(method, bank, scene, scene.plan)
    counted, least = counter.get_total_flops(), FLOORS[name](sizes).operations
    assert 0 < least <= 1.01 * counted, (least, counted)


def test_every_head_has_a_floor():
    assert list(HEADS) == list(FLOORS)


def test_a_floor_is_the_longer_of_moving_and_computing():
    rates = Rates(CPU, copy=1e9, fresh=1e9, exponentials=1e8, squares={}, _products={Product(1, 2, 3, 4): 1e6})
    work = Work((Product(1, 2, 3, 4),), functions=100, kept=10, sizes=ONE)
    floor = rates.seconds(work)
    assert floor.products == pytest.approx(48 / 1e6)
    assert floor.functions == pytest.approx(1e-6)
    assert floor.bytes == pytest.approx(4 * (4 * 10 + 4) / 1e9)
    assert floor.seconds == pytest.approx(48e-6 + 1e-6)
    slow = Rates(CPU, copy=1e3, fresh=1e3, exponentials=1e8, squares={}, _products=rates._products)
    assert slow.seconds(work).seconds == pytest.approx(0.176)


def test_slopes_of_known_curves():
    assert slope({10: 2.0, 100: 20.0, 1000: 200.0}) == pytest.approx(1)
    assert slope({2: 4.0, 4: 16.0}) == pytest.approx(2)
    assert slope({1: 5.0, 10: 5.0, 100: 50.0, 1000: 500.0}) == pytest.approx(1)  # a fixed cost hides the first ones
    assert math.isnan(slope({10: 1.0, 100: 0.0}))


def test_points_are_measured_in_processes_of_their_own(cache):
    point = growth.in_a_process(growth.from_bank, "prototype", Sizes(width=64), 50, "cpu", threads=1, clips=400)
    assert list(point.seconds) == ["drawing", "scoring"]
    assert all(seconds > 0 for seconds in point.seconds.values())
    features = 24 * 400 * 8 * 64 * 4
    assert features < point.memory < 5 * features


def test_the_whole_path_has_all_stages(cache, tmp_path):
    point = growth.whole_path("prototype_frozen", 30, str(tmp_path), "cpu", threads=1)
    assert list(point.seconds) == ["drawing", "reading clips", "scoring", "writing", "statistics"]
    assert (tmp_path / "prototype_frozen-30" / "results").is_dir()


def test_heads_are_timed_and_agree_with_the_naive_loop():
    scene = Scene.of(Sizes(width=64), 60, CPU, classes=6, clips=5)
    timed = list(timed_heads(scene, CPU, quick=True))
    assert [t.name for t in timed] == list(HEADS)
    for t in timed:
        assert min(t.batched, t.single, t.naive, t.index) > 0
        assert t.difference < 1e-4, t.name


def test_the_page_has_every_table_and_says_what_was_not_run(tmp_path):
    rates = Rates(CPU, copy=1e10, fresh=1e9, exponentials=1e9, squares={64: 5e10})
    rates._products.update({p: 1e10 for name in FLOORS for p in FLOORS[name](Sizes()).products})
    heads = list(timed_heads(Scene.of(Sizes(), 60, CPU, classes=6, clips=3), CPU, quick=True))
    points = {n: Point({"drawing": n / 1e3, "scoring": n / 1e2}, {"drawing": n, "scoring": 2 * n}) for n in (100, 1000)}
    curves = [Curve("prototype_frozen", "episodes", points), Curve("otam", "shots", points)]
    jobs = [("jobs", Taken("`jobs=1`", 10.0), Taken("`jobs=2`", 6.0))]
    jobs += [("devices", Taken("`devices=1`", reason="no key"), Taken("`devices=2`", reason="no key"))]
    machine = {"processor": "P", "torch": "2"}
    write(
        Measured(
            "make benchmark", machine, rates, heads, curves, [Taken("a cell", 0.5)], jobs, ["A GPU: there is none."]
        ),
        tmp_path / "page.md",
    )
    text = (tmp_path / "page.md").read_text()
    for name in HEADS:
        assert text.count(f"| {HEADS[name][0]} |") >= 2
    assert "| OTAM | shots | 100 to 1,000 | 1.10 to 11.00 | 1.00 | 0 to 0 | 1.00 |" in text
    assert "| `jobs=1`: 10.0 s | `jobs=2`: 6.0 s | 0.60 |" in text
    assert "| `devices=1` | `devices=2` | not measured here: no key |" in text
    assert "- A GPU: there is none." in text
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"growth_of_seconds.png", "growth_of_memory.png"}


def test_keys_that_this_version_lacks_are_told(monkeypatch):
    monkeypatch.setattr(starting, "PARALLEL", {"no_such_key": 2})
    ((key, one, two),) = starting.spread("cpu", 1, quick=False)
    assert key == "no_such_key"
    assert one.seconds is two.seconds is None
    assert one.reason == "this version has no key no_such_key="


@pytest.mark.slow
def test_the_tool_runs(tmp_path, monkeypatch, cache):
    from tools.performance import __main__ as tool

    monkeypatch.setattr("sys.argv", ["performance", "--quick", "--device", "cpu", "--page", str(tmp_path / "page.md")])
    tool.main()
    text = (tmp_path / "page.md").read_text()
    for section in (
        "Machine",
        "Scoring, and its floor",
        "Growth",
        "Commands",
        "Several jobs, several ranks",
        "Not run",
    ):
        assert f"\n## {section}\n" in text
    assert page.TITLES["trx"] in text
