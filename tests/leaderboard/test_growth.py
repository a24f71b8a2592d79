"""Many rows, boards and episodes: what is left out of tables, and that nothing is computed otherwise than of few."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from leaderboard.reference import holm_of_pairs, pairwise_p_values, ranks_of
from rich.console import Console
from stores import fill, make_plan, predictions, store

from fsar_bench.cli.leaderboard import show, telling
from fsar_bench.leaderboard import boards, outcomes, page, ranking, tables
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.leaderboard.files import generated_files, read_boards
from fsar_bench.leaderboard.jackknife import jackknife
from fsar_bench.leaderboard.outcomes import Outcomes
from fsar_bench.leaderboard.places import Places
from fsar_bench.progress.events import Event, listening

PLAN = make_plan(episodes=120)
ROWS = 14


@pytest.fixture(autouse=True)
def fresh_statistics(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))


def limit(monkeypatch, rows: int) -> None:
    """Let boards compare fewer rows in pairs, and read the others in small groups."""
    for module in (ranking, boards):
        monkeypatch.setattr(module, "MOST_COMPARED", rows)
    monkeypatch.setattr(ranking, "_AT_A_TIME", 3)


def mixed(root: Path) -> None:
    """Rows on complete data, on two incomplete copies, and on a half that shares no episodes, some with several seeds."""
    plans = [
        PLAN,
        make_plan(episodes=120, missing=frozenset({"c0_03"})),
        make_plan(episodes=120, missing=frozenset({"c1_04", "c2_05"})),
        make_plan(episodes=120, missing=frozenset(f"c{c}_{i:02d}" for c in range(6) for i in range(6))),
    ]
    for number in range(ROWS):
        plan = plans[number % 4]
        how = {"coverage": 1 - (number % 4) / 9, "fingerprint": str(number % 4) * 64}
        accuracy = 0.99 - 0.03 * number
        if number % 5 == 1:
            for seed in (0, 1, 2):
                train = {"episodes": 5, "seed": seed}
                store(root, f"m{number}", predictions(plan, accuracy, number + 20 * seed), plan, train=train, **how)
        else:
            store(root, f"m{number}", predictions(plan, accuracy, number), plan, **how)


@pytest.mark.parametrize("most", [200, 5])
def test_p_values_are_those_of_all_pairs(tmp_path, monkeypatch, most):
    limit(monkeypatch, most)
    mixed(tmp_path)
    (board,) = read_boards(tmp_path)
    assert len(board) == ROWS
    assert len({row.realised for row in board.rows}) == 4
    raw = pairwise_p_values(board.rows, [board.plan(row) for row in board.rows])
    count, left = min(most, ROWS), np.ones((ROWS, ROWS), bool)
    left[:count, :count] = left[0] = left[:, 0] = False
    tested = np.where(left, 1.0, raw)  # the others count as not significant
    expected = holm_of_pairs(tested)
    assert board.p.shape == (count, count)
    assert board.p == pytest.approx(expected[:count, :count], rel=1e-3)
    entries = board.entries
    assert [e.statistics.p_against_best for e in entries] == pytest.approx(expected[0].tolist(), rel=1e-3)
    accuracy = np.array([row.accuracy for row in board.rows])
    if most > ROWS:
        assert [e.statistics.rank for e in entries] == ranks_of(accuracy, expected)
        return
    worse = int((expected[0, count:] < 0.05).sum())
    assert 0 < worse < ROWS - count
    early = [(best, worst + ROWS - count) for best, worst in ranks_of(accuracy[:count], expected[:count, :count])]
    early[0] = (early[0][0], early[0][1] - worse)
    late = [(1 + int(p < 0.05), ROWS) for p in expected[0, count:]]
    assert [e.statistics.rank for e in entries] == early + late


def test_the_limit_changes_no_interval(tmp_path, monkeypatch):
    mixed(tmp_path)
    (whole,) = read_boards(tmp_path)
    kept = [e.statistics for e in whole.entries]
    limit(monkeypatch, 4)
    (board,) = read_boards(tmp_path)
    for one, other in zip(kept, (e.statistics for e in board.entries), strict=True):
        same = {"rank": (1, 1), "p_against_best": 1.0, "may_be_best": True}
        assert one.model_copy(update=same) == other.model_copy(update=same)


def test_a_row_far_down_that_ties_with_the_best_may_be_the_first(tmp_path, monkeypatch):
    limit(monkeypatch, 2)
    for number in range(4):
        store(tmp_path, f"m{number}", predictions(PLAN, 0.9, number), PLAN)
    store(tmp_path, "low", predictions(PLAN, 0.2, 9), PLAN)
    (board,) = read_boards(tmp_path)
    ranks = [(1, 4), (1, 5), (1, 5), (1, 5), (2, 5)]
    assert [e.statistics.rank for e in board.entries] == ranks
    assert [e.statistics.may_be_best for e in board.entries] == [True] * 4 + [False]
    assert "The 2 most accurate of 5 rows are compared in pairs" in board.note
    rows = list(csv.DictReader(dict_of(tmp_path)["leaderboard.csv"].splitlines()))
    assert [(int(row["rank_best"]), int(row["rank_worst"])) for row in rows] == ranks
    rows = json.loads(dict_of(tmp_path)["leaderboard.json"])[0]["rows"]
    assert [(row["rank_best"], row["rank_worst"]) for row in rows] == ranks
    assert re.search(r"\| +2–5 +\| +\| low", dict_of(tmp_path)["toy-2way_1shot.md"])
    assert "\n2--5 & low" in dict_of(tmp_path)["toy-2way_1shot.tex"]


def dict_of(root: Path) -> dict[str, str]:
    return {path.name: text for path, text in generated_files(root, read_boards(root))}


def test_blocks_of_episodes_and_classes_give_what_all_at_once_give(monkeypatch):
    rng = np.random.default_rng(0)
    plan = make_plan(7, 30, way=3, shot=2, query=3, episodes=400)
    seeds = [rng.random((count, 400, 9)) < 0.6 for count in (1, 3, 1, 2)]
    packed = Outcomes(tuple(np.packbits(of_row, axis=2) for of_row in seeds), 9)
    right = np.stack([of_row.mean(0) for of_row in seeds])
    assert (packed[:, slice(10, 30)] == right[:, 10:30]).all()
    short = make_plan(7, 30, way=3, shot=2, query=3, episodes=400, missing=frozenset({"c0_03", "c4_07"}))
    places, of_row = Places.of([plan, short], np.arange(210) // 3), np.array([0, 1, 1, 0])
    whole = jackknife(right, places, of_row)
    monkeypatch.setattr(outcomes, "BLOCK", 4 * 9 * 37)
    monkeypatch.setattr("fsar_bench.leaderboard.jackknife._CHUNK", 300)
    for each in (right, packed):
        parts = jackknife(each, places, of_row)
        for name in ("episodes", "clips", "degrees_of_freedom"):
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)


@pytest.mark.parametrize("factor", [1, 10**7])
def test_places_number_what_appears(factor):
    """Also where numbers are too large for a table."""
    plan = make_plan(9, 8, way=3, shot=2, query=2, episodes=50)
    numbered = {name: factor * getattr(plan, name).astype(np.int64) for name in ("support", "query")}
    places = Places.of([SimpleNamespace(classes=plan.classes, **numbered)])
    clips = np.concatenate([plan.support, plan.query], 2)
    for number, of_class in enumerate(np.unique(plan.classes)):
        held = np.nonzero(plan.classes == of_class)
        used, expected = np.unique(clips[held], return_inverse=True)
        assert places.of_class[number].count.tolist() == [len(used)]
        assert all((a == b).all() for a, b in zip(places.where(number, slice(0, 50)), held, strict=True))
        assert (places.clips[0][held] == expected.reshape(-1, 4)).all()


def test_memory_does_not_grow_with_rows_times_episodes(tmp_path, monkeypatch):
    """300 rows of 4,000 episodes are 48 MB as float64; bits, and numbers of some episodes, are less."""
    plan = make_plan(10, 30, way=5, episodes=4000)
    fill(tmp_path, 300, plan)
    (board,) = read_boards(tmp_path)
    monkeypatch.setattr(outcomes, "BLOCK", 2**17)
    tracemalloc.start()
    try:
        ranking.rank_rows(ranking.Reader(board.rows, lambda row: plan, None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24e6


def test_plans_in_memory_are_bounded(tmp_path, monkeypatch):
    mixed(tmp_path)
    monkeypatch.setattr(boards, "_PLAN_BYTES", 1)
    (board,) = read_boards(tmp_path)
    assert len(board.entries) == ROWS
    assert len(board._plans) == 1
    assert board.plan(board.rows[0]).realised == board.rows[0].realised


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """Nine rows, where tables show six, the page five, and the screen three."""
    monkeypatch.setattr(tables, "SHOWN", 6)
    monkeypatch.setattr("fsar_bench.leaderboard.exports.SHOWN", 6)
    monkeypatch.setattr(page, "SHOWN", 5)
    monkeypatch.setattr("fsar_bench.cli.leaderboard.SHOWN", 3)
    fill(tmp_path, 9, PLAN)
    return tmp_path


def test_tables_show_the_best_rows_and_name_the_file_of_all(large):
    texts = dict_of(large)
    assert len(list(csv.DictReader(texts["leaderboard.csv"].splitlines()))) == 9
    assert len(json.loads(texts["leaderboard.json"])[0]["rows"]) == 9
    sentence = "The 6 most accurate of 9 rows are shown; leaderboard.csv has all of them."
    for name, row in (("toy-2way_1shot.md", r"\| M\d"), ("toy-2way_1shot.tex", r"& M\d")):
        assert len(re.findall(row, texts[name])) == 6
        assert sentence in texts[name]
    (board,) = read_boards(large)
    html = board._repr_html_()
    assert sentence in html
    assert html.count("<tr") == 8  # the head, six rows, chance


def test_the_page_shows_the_best_rows_and_few_confusions(large, monkeypatch):
    monkeypatch.setattr(page, "CONFUSIONS", 2 * 36 + 35)
    (board,) = page.page_data(read_boards(large), [])["boards"]
    assert len(board["rows"]) == len(board["p"]) == len(board["p"][0]) == 5
    assert [row["confusion"] is not None for row in board["rows"]] == [True, True, False, False, False]
    assert "The 5 most accurate of 9 rows are shown; leaderboard.csv has all of them." in board["note"]
    assert "Confusions are those of the first 2 rows." in board["note"]


def test_the_best_rows_of_all_boards_have_confusions_first(tmp_path, monkeypatch):
    for seed, count in enumerate((3, 1, 2)):
        fill(tmp_path, count, make_plan(episodes=40, seed=seed))
    all_boards = read_boards(tmp_path)
    sizes = [len(board) for board in all_boards]
    monkeypatch.setattr(page, "CONFUSIONS", 36 * 4)
    counts = page.confusion_counts(all_boards)
    assert sum(counts) == 4
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_the_screen_shows_the_best_rows_and_those_of_the_run(large, capsys):
    (board,) = read_boards(large)
    show(Console(width=120), [board], {board.rows[7].result.config_hash})
    shown = capsys.readouterr().out
    titles = re.findall(r"\bM\d", shown)
    assert titles == [board.rows[place].title for place in (0, 1, 2, 7)]
    assert "5 more rows: see its page." in " ".join(shown.split())


def test_notebooks_show_some_results(large, monkeypatch):
    monkeypatch.setattr("fsar_bench.leaderboard.collection.SHOWN", 4)
    assert load_results(large)._repr_html_().count("<tr") == 6  # the head, four rows and the gap


def test_the_overview_of_many_boards_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "OVERVIEW_BOARDS", 2)
    monkeypatch.setattr(tables, "OVERVIEW_METHODS", 3)
    for seed, count in enumerate((1, 3, 5)):
        fill(tmp_path, count, make_plan(episodes=40, seed=seed))
    index = dict_of(tmp_path)["README.md"]
    head = next(line for line in index.splitlines() if line.startswith("| method"))
    assert "toy 2w1s seed 1" in head
    assert "toy 2w1s seed 2" in head
    assert head.count("toy") == 2
    assert "Columns are the 2 of 3 boards that have the most rows; means are over all." in index
    assert "3 of 5 rows are shown; leaderboard.csv has all of them." in index
    assert len(re.findall(r"^\| M\d", index, re.M)) == 3
    assert len(re.findall(r"^- \[Toy", index, re.M)) == 3  # the list has every board


def test_boards_of_one_name_are_numbered(tmp_path):
    for reader in ("a 1", "b 1", "c 1"):
        store(tmp_path, "m", predictions(PLAN, 0.9, 0), PLAN, reader=reader)
    other = make_plan(episodes=120, seed=1)
    store(tmp_path, "m", predictions(other, 0.9, 0), other)
    assert sorted(tables._short_names(read_boards(tmp_path))) == [
        "toy 2w1s",
        "toy 2w1s #2",
        "toy 2w1s #3",
        "toy 2w1s seed 1",
    ]


def test_reading_and_comparing_tell_how_far_they_are(tmp_path):
    fill(tmp_path, 5, PLAN)
    events: list[Event] = []
    with listening(events.append):
        (board,) = read_boards(tmp_path)
        assert len(board.entries) == 5
    assert [(e.done, e.total) for e in events if e.stage == "reading results"] == [(n, 5) for n in range(1, 6)]
    assert [(e.done, e.total) for e in events if e.stage == "comparing rows"] == [(5, 5)]


def test_a_status_line_is_for_terminals(tmp_path, capsys):
    fill(tmp_path, 5, PLAN)
    with telling(Console(force_terminal=True, width=80)):
        read_boards(tmp_path)
    assert re.search(r"reading results", capsys.readouterr().out)
    with telling(Console(width=80)):
        read_boards(tmp_path)
    assert capsys.readouterr().out == ""
