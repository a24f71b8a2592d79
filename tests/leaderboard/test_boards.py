"""Boards and tables: golden files of a mini store, what is ranked together, seeds, markers, published figures."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from leaderboard.make_store import GOLDEN, STORE, make, outputs
from leaderboard.reference import SlowRow, slow_covariance, slow_difference, slow_freedom
from rich.console import Console
from scipy import stats
from stores import make_plan, predictions, store

from fsar_bench.cli.leaderboard import leaderboard_command, show
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard import tables
from fsar_bench.leaderboard.exports import TEX_MARK, records
from fsar_bench.leaderboard.files import read_boards
from fsar_bench.leaderboard.intervals import interval, seed_interval
from fsar_bench.leaderboard.jackknife import jackknife, jackknife_over_clips
from fsar_bench.leaderboard.outcomes import PairOutcomes
from fsar_bench.leaderboard.page import page_data
from fsar_bench.leaderboard.places import Places
from fsar_bench.leaderboard.published import in_order, read_published, shipped, verdicts
from fsar_bench.leaderboard.ranks import adjusted
from fsar_bench.plan import _digest
from fsar_bench.results.plans import checked_plan
from fsar_bench.results.store import Stored, read, read_all

PLAN = make_plan()


@pytest.fixture(autouse=True)
def fresh_statistics(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))


def add(root: Path, name: str, accuracy: float, seed: int = 0, plan=PLAN, **how) -> Path:
    return store(root, name, predictions(plan, accuracy, seed), plan, **how)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_golden_files(name):
    """`python tests/leaderboard/make_store.py` writes them again; look at what changed before you commit it."""
    assert outputs(STORE)[name] == (GOLDEN / name).read_text()


def test_the_mini_store_is_what_its_script_makes(tmp_path):
    make(tmp_path)
    made, kept = ({p.relative_to(r): p.read_bytes() for p in r.rglob("*.json")} for r in (tmp_path, STORE))
    kept = {path: data for path, data in kept.items() if path.parts[0] == "results"}
    made = {path: data for path, data in made.items() if path.parts[0] == "results"}
    assert made == kept


def test_the_same_bytes_from_the_cache_and_again(tmp_path):
    first = outputs(STORE)
    assert any((tmp_path / "cache" / "statistics" / "boards").iterdir())
    assert outputs(STORE) == first
    for path in (tmp_path / "cache" / "statistics").rglob("*.json"):
        path.write_text('{"rows": 3')
    assert outputs(STORE) == first


def test_seeds_are_one_row(tmp_path, capsys):
    folders = [
        add(tmp_path, "m", 0.8, seed, train={"episodes": 5, **({"seed": seed} if seed else {})}) for seed in (0, 1, 2)
    ]
    add(tmp_path, "m", 0.8, 3, train={"episodes": 6})  # another training is another row
    (board,) = read_boards(tmp_path)
    row = next(row for row in board.rows if len(row.seeds) == 3)
    numbers = board.entries[board.rows.index(row)].statistics
    accuracies = [s.result.metrics.accuracy for s in row.seeds]
    assert len(folders) == len(set(folders)) == 3
    assert len(board.rows) == 2
    assert numbers.accuracy == pytest.approx(np.mean(accuracies), abs=1e-4)
    assert numbers.seeds == pytest.approx(seed_interval(np.array(accuracies)), abs=1e-4)
    frame = tables.frame(board)
    assert frame["seeds"].tolist()[:2] == [str(len(r.seeds)) for r in board.rows]
    show(Console(width=160), [board], set())
    assert "± seeds" in capsys.readouterr().out
    assert row.right().max() <= 1
    assert set(np.unique(np.round(3 * row.right()))) <= {0, 1, 2, 3}


def test_rows_of_other_episodes_or_clips_are_never_ranked_together(tmp_path):
    add(tmp_path, "a", 0.9)
    add(tmp_path, "b", 0.8, plan=make_plan(seed=1))
    add(tmp_path, "c", 0.7, fingerprint="1" * 64)  # the same list, other files
    titles = [[row.title for row in board.rows] for board in read_boards(tmp_path)]
    assert titles in (
        [["a"], ["c"], ["b"]],
        [["b"], ["a"], ["c"]],
    )
    page = outputs(tmp_path)["toy-2way_1shot.md"]
    assert "## Board 2 of 3" in page
    assert "Not ranked with board 1: " in page
    assert "the content of the clips differ" in page or "plan differ" in page


def test_transductive_rows_stand_apart(tmp_path):
    """They see the queries of an episode together, whether they ran here or were submitted."""
    add(tmp_path, "alone", 0.7)
    add(tmp_path, "together", 0.9, 1, transductive=True)
    add(tmp_path, "other", 0.6, 2, submitted=True)
    add(tmp_path, "others", 0.8, 3, submitted=True, transductive=True)
    boards = read_boards(tmp_path)
    assert [sorted(row.result.name for row in board.rows) for board in boards] == [
        ["alone", "other"],
        ["others", "together"],
    ]
    assert boards[1].title == boards[0].title + ", transductive"
    files = outputs(tmp_path)
    assert "Not ranked with board 1: these rows are transductive" in files["toy-2way_1shot.md"]
    assert "toy 2w1s transd." in files["README.md"]
    (tmp_path / "alone").mkdir()
    add(tmp_path / "alone", "other", 0.6, 2)
    add(tmp_path / "alone", "others", 0.8, 3, submitted=True, transductive=True)  # joins no board of the others
    assert [len(board) for board in read_boards(tmp_path / "alone")] == [1, 1]


def test_incomplete_rows_share_the_plan_and_are_compared_on_all_episodes(tmp_path):
    short = make_plan(missing=frozenset({"c0_03", "c4_07"}))
    assert (short.digest, short.realised == PLAN.realised) == (PLAN.digest, False)
    add(tmp_path, "whole", 0.95)
    add(tmp_path, "gaps", 0.4, plan=short, coverage=70 / 72, fingerprint="1" * 64)
    (board,) = read_boards(tmp_path)
    assert [row.title for row in board.rows] == ["whole", "gaps"]
    assert board.p[0, 1] < 0.05
    assert tables.frame(board)["coverage %"].tolist()[:2] == ["100", "97.22"]
    assert "Coverage 97.22 %" in board.note


def test_a_plan_has_the_recordings_that_its_record_names(tmp_path):
    numbers = np.arange(72) // 3
    known, unknown = (
        read(add(tmp_path, name, 0.9, plan=PLAN.with_recordings(r))) for name, r in (("known", numbers), ("not", None))
    )
    assert checked_plan(known).recordings.tolist() == numbers.tolist()
    assert checked_plan(unknown).recordings is None
    for stored, other in ((known, None), (known, numbers[::-1].copy()), (unknown, numbers)):
        right = stored.plan_file.read_bytes()
        PLAN.with_recordings(other).save(stored.plan_file)
        with pytest.raises(ResultError, match="is not the plan that"):
            checked_plan(stored)
        stored.plan_file.write_bytes(right)


def test_clips_that_only_the_counts_of_a_list_know_need_no_recordings(tmp_path):
    folder = add(tmp_path, "m", 0.9, plan=PLAN.with_recordings(np.arange(72) // 3))
    for clips, fits in ((80, True), (71, False)):
        record = json.loads((folder / "result.json").read_text())
        record["data"]["clips"] = clips
        (folder / "result.json").write_text(json.dumps(record))
        if fits:
            assert len(checked_plan(read(folder)).recordings) == 72
        else:
            with pytest.raises(ResultError, match="is not the plan that"):
                checked_plan(read(folder))


def test_trainings_with_other_recordings_are_other_rows(tmp_path):
    for seed, numbers in enumerate((np.arange(72), np.arange(72) // 3)):
        train = {"episodes": 5, **({"seed": seed} if seed else {})}
        add(tmp_path, "m", 0.8, seed, plan=PLAN.with_recordings(numbers), train=train)
    (board,) = read_boards(tmp_path)
    assert [len(row.seeds) for row in board.rows] == [1, 1]
    assert {len(np.unique(board.plan(row).recordings)) for row in board.rows} == {72, 24}


def test_ranks_and_p_values_are_those_of_the_statistics(tmp_path):
    for seed, (name, accuracy) in enumerate([("a", 0.95), ("b", 0.93), ("c", 0.5)]):
        add(tmp_path, name, accuracy, seed)
    (board,) = read_boards(tmp_path)
    assert [e.statistics.rank for e in board.entries] == [(1, 2), (1, 2), (3, 3)]
    assert [e.statistics.may_be_best for e in board.entries] == [True, True, False]
    right = np.stack([row.right() for row in board.rows])
    uncertainty, accuracy = (
        jackknife_over_clips(right, classes=PLAN.classes, support=PLAN.support, query=PLAN.query),
        100 * right.mean((1, 2)),
    )
    raw = np.array(
        [[uncertainty.difference(a, b).p_value(accuracy[a] - accuracy[b]) for b in range(3)] for a in range(3)]
    )
    assert board.p == pytest.approx(adjusted(raw), rel=1e-3)
    for place, entry in enumerate(board.entries):
        error, freedom = uncertainty.errors_of_rows[place], uncertainty.degrees_of_freedom[place, place]
        low, high = interval(accuracy[place], error, freedom, len(PLAN.used_clips))
        found = entry.statistics.clips
        assert (found.below, found.above) == pytest.approx((accuracy[place] - low, high - accuracy[place]), abs=1e-4)
    bold = [line for line in tables.markdown(board).splitlines() if "**" in line]
    assert len(bold) == 2


def test_recordings_are_the_units_of_intervals_and_tests(tmp_path):
    recordings = np.arange(72) % 40  # most span two classes
    known, unknown = make_plan(episodes=200, recordings=recordings), make_plan(episodes=200)
    for seed, (accuracy, plan) in enumerate([(0.75, known), (0.6, known), (0.5, unknown)]):
        add(tmp_path, f"m{seed}", accuracy, seed, plan=plan)
    (board,) = read_boards(tmp_path)  # also the row that does not know them
    slow = [SlowRow(row.right(), known, units=recordings) for row in board.rows]
    for entry, row in zip(board.entries, slow, strict=True):
        covariance, _, over_episodes = slow_covariance(row, row)
        error = max(covariance, over_episodes) ** 0.5
        assert entry.statistics.clips.half == pytest.approx(stats.t.ppf(0.975, slow_freedom(row)) * error, abs=1e-3)
    error, freedom = slow_difference(slow[0], slow[1])
    t = (board.rows[0].accuracy - board.rows[1].accuracy) / error
    raw = board.reader.compare([0, 1]).overall.p_values(np.array([row.accuracy for row in board.rows[:2]]))
    assert raw[0, 1] == pytest.approx(2 * stats.t.sf(t, freedom))
    assert (board.statistics.clips, board.statistics.recordings) == (72, 40)
    files = outputs(tmp_path)
    assert "± clips, by recording" in files["toy-2way_1shot.md"]
    assert "The 72 clips that appear are of 40 recordings" in files["toy-2way_1shot.md"]
    assert "over clips, by recording," in files["toy-2way_1shot.tex"]
    show(console := Console(width=200, record=True, file=io.StringIO()), [board], set())
    assert "± clips, by recording" in console.export_text()


def test_recordings_that_rows_disagree_on_are_joined(tmp_path):
    for seed, size in enumerate((2, 3)):
        add(tmp_path, f"m{seed}", 0.8, seed, plan=make_plan(episodes=100, recordings=np.arange(72) // size))
    (board,) = read_boards(tmp_path)
    pairs = {(first, second) for first, second in zip(board.units, np.arange(72) // 6, strict=True)}
    assert len(pairs) == len(set(board.units)) == 12  # clips 0 to 5 are connected, and so on
    assert "are of 12 recordings, whose clips vary together, and rows differ in which" in board.note


def test_one_recording_a_class_gives_no_interval_and_says_why(tmp_path):
    for seed, accuracy in enumerate((0.95, 0.4)):
        add(tmp_path, f"m{seed}", accuracy, seed, plan=make_plan(recordings=np.arange(72) // 12))
    (board,) = read_boards(tmp_path)
    found = [(e.statistics.clips, e.statistics.rank, e.statistics.is_first) for e in board.entries]
    assert found == [(None, (1, 2), False)] * 2
    assert "All clips of some class are of one recording: no intervals over clips" in board.note
    few = tmp_path / "few"
    add(few, "m", 0.9, plan=make_plan(recordings=np.arange(72) // 4))
    assert "Some classes have only 3 recordings: intervals over clips are rough" in read_boards(few)[0].note


def test_a_row_whose_clips_have_no_recording_on_the_board_is_named(tmp_path):
    known, larger = make_plan(recordings=np.arange(72) // 2), make_plan()
    query = larger.query.copy()
    query[0, 0, 0] = 500
    forged = replace(larger, query=query)
    forged = replace(forged, realised=_digest(forged.header, forged.classes, forged.support, forged.query))
    add(tmp_path, "a", 0.9, plan=known)
    add(tmp_path, "b", 0.8, 1, plan=forged)
    with pytest.raises(
        ResultError, match="cannot be compared with other rows of its plan: they hold clips whose recordings"
    ):
        outputs(tmp_path)


def test_pair_accuracies_on_some_of_the_plans_alone(tmp_path):
    """Submitted predictions have no outcomes of pairs; here theirs is the only row of its plan."""
    add(tmp_path, "here", 0.8, pairs=True)
    short = make_plan(missing=frozenset({"c0_03", "c4_07"}))
    add(tmp_path, "there", 0.7, 1, plan=short, coverage=70 / 72, fingerprint="1" * 64, submitted=True)
    (board,) = read_boards(tmp_path)
    assert {e.row.title: e.statistics.pairs is None for e in board.entries} == {
        "here": False,
        "there (submitted)": True,
    }


@pytest.mark.parametrize("how", [{}, {"shot": 2}, {"way": 3, "episodes": 90}, {"query": 2}])
def test_rows_at_100_and_at_0_percent_mirror_each_other(tmp_path, how):
    """What rounding leaves of their variances decides nothing."""
    plan = make_plan(**how)
    add(tmp_path, "all", 2.0, plan=plan)
    add(tmp_path, "none", -2.0, plan=plan)
    (board,) = read_boards(tmp_path)
    best, worst = (entry.statistics for entry in board.entries)
    assert (best.accuracy, worst.accuracy) == (100, 0)
    assert best.clips.below == pytest.approx(worst.clips.above)
    assert (best.clips.above, worst.clips.below) == (0, 0)
    assert best.clips.below < 10
    assert board.p[0, 1] == 0
    assert [entry.statistics.rank for entry in board.entries] == [(1, 1), (2, 2)]


def test_every_clip_a_recording_is_said_by_nothing(tmp_path):
    add(tmp_path, "m", 0.8, plan=make_plan(recordings=np.arange(72)))
    (board,) = read_boards(tmp_path)
    assert (board.by_recording, board.units_note) == (False, "")


def test_the_interval_of_pair_accuracies_is_that_of_the_queries_that_count(tmp_path, monkeypatch):
    """Of all queries, it is the interval over clips; of some, that of their deviations over their share."""
    add(tmp_path, "m", 0.6, plan=make_plan(episodes=200), pairs=True)
    (board,) = read_boards(tmp_path)
    (entry,) = board.entries
    assert entry.row.pair_accuracy == pytest.approx(entry.statistics.accuracy, abs=1e-4)
    assert entry.statistics.pairs == pytest.approx(entry.statistics.clips.half, abs=1e-4)
    plan, rng = make_plan(episodes=200), np.random.default_rng(1)
    outcome = rng.choice([0, 1, 1, 2, 255], (1, 200, 2)).astype(np.uint8)
    counted = outcome[0] != 255
    wins = np.where(outcome[0] == 2, 0.5, outcome[0] == 1)
    monkeypatch.setattr(Stored, "pairs", lambda stored: outcome[0])
    pairs = PairOutcomes.of(board.rows)
    found = jackknife(pairs, Places.of([plan]))
    slow = SlowRow(np.where(counted, wins - wins[counted].mean(), 0.0), plan)
    covariance, _, over_episodes = slow_covariance(slow, slow)
    assert found.clips[0, 0] == pytest.approx(max(covariance, over_episodes))
    assert pairs.counted.tolist() == [counted.mean()]


def test_rows_that_share_no_episode_are_compared_on_all_and_by_the_tables_difference(tmp_path):
    halves = [frozenset(f"c{c}_{i:02d}" for c in range(6) for i in half) for half in (range(6), range(6, 12))]
    plans = [make_plan(episodes=200, missing=half) for half in halves]
    assert not np.intersect1d(plans[0].used_clips, plans[1].used_clips).size
    for seed, (plan, accuracy) in enumerate(zip(plans, (0.8, 0.7), strict=True)):
        add(tmp_path, f"m{seed}", accuracy, seed, plan=plan, coverage=0.5, fingerprint=str(seed) * 64)
    (board,) = read_boards(tmp_path)
    slow = [SlowRow(row.right(), board.plan(row)) for row in board.rows]
    error, freedom = slow_difference(*slow)
    t = (board.rows[0].accuracy - board.rows[1].accuracy) / error
    assert board.p[0, 1] == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-3)
    assert board.gap(0, 1).difference == board.rows[0].accuracy - board.rows[1].accuracy
    assert board.gap(0, 1).half_width == pytest.approx(stats.t.ppf(0.975, freedom) * error, abs=1e-4)


@pytest.mark.parametrize(
    ("clips", "sentence"), [(2, "Too few clips per class"), (3, "Some classes have only 3 clips"), (4, "")]
)
def test_the_note_names_too_few_clips(tmp_path, clips, sentence):
    plan = make_plan(clips=clips)
    for seed, accuracy in enumerate((0.95, 0.4)):
        add(tmp_path, f"m{seed}", accuracy, seed, plan=plan)
    (board,) = read_boards(tmp_path)
    assert sentence in board.note
    assert ("clips per class" in board.note or "have only" in board.note) == bool(sentence)
    if clips == 2:
        assert [(e.statistics.clips, e.statistics.rank) for e in board.entries] == [(None, (1, 2))] * 2


def test_a_changed_plan_file_is_seen_behind_the_cache(tmp_path):
    folder = add(tmp_path, "a", 0.9)
    assert outputs(tmp_path)
    plan = next((tmp_path / "plans").iterdir())
    plan.write_bytes(plan.read_bytes()[:-10])
    with pytest.raises(ResultError, match="cannot be read"):
        outputs(tmp_path)
    assert folder.is_dir()


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    add(tmp_path, "a", 0.9)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "file" / "below"))
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0


def test_markdown_has_neither_links_nor_pictures(tmp_path):
    add(tmp_path, "a", 0.9, title="![x](y.png) [z](javascript:1) `c` \\|")
    assert r"!\[x\](y.png) \[z\](javascript:1) \`c\` \\\|" in outputs(tmp_path)["toy-2way_1shot.md"]


def test_brackets_on_the_screen_are_text(tmp_path, capsys):
    add(tmp_path, "a", 0.9, title="a [/b] c")
    show(Console(width=120), read_boards(tmp_path), set())
    assert "a [/b] c" in capsys.readouterr().out


def test_nothing_is_significant_on_one_episode(tmp_path):
    plan = make_plan(episodes=1)
    for seed, accuracy in enumerate((1.0, 0.0)):
        add(tmp_path, f"m{seed}", accuracy, seed, plan=plan)
    (board,) = read_boards(tmp_path)
    assert [(e.statistics.rank, e.statistics.episodes, e.statistics.clips) for e in board.entries] == [
        ((1, 2), None, None)
    ] * 2
    assert outputs(tmp_path)["toy-2way_1shot.md"].count("**") == 0  # nothing is told from chance


def test_hand_written_text_survives_and_lost_markers_are_named(tmp_path):
    add(tmp_path, "a", 0.9)
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0
    page = tmp_path / "toy-2way_1shot.md"
    page.write_text(f"# By hand\n\n{page.read_text()}\nBelow.\n")
    add(tmp_path, "b", 0.8, 1)
    assert leaderboard_command([f"out={tmp_path}"], check=True) == 1
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0
    assert leaderboard_command([f"out={tmp_path}"], check=True) == 0
    text = page.read_text()
    assert text.startswith("# By hand\n\n<!-- fsar-bench:begin")
    assert text.endswith("<!-- fsar-bench:end -->\n\nBelow.\n")
    assert text.count("fsar-bench:begin") == 1
    assert "| b " in text
    readme = tmp_path / "README.md"
    readme.write_text("# My own\n")
    leaderboard_command([f"out={tmp_path}"], check=False)
    assert readme.read_text().startswith("# My own\n\n<!-- fsar-bench:begin")
    page.write_text(text.replace(tables.END, ""))
    with pytest.raises(ResultError, match="has lost one of its markers"):
        leaderboard_command([f"out={tmp_path}"], check=False)


def test_tables_whose_results_are_gone_go_too(tmp_path):
    add(tmp_path, "a", 0.9)
    gone = [add(tmp_path, "b", 0.8, plan=make_plan(shot=shot)) for shot in (2, 3)]
    leaderboard_command([f"out={tmp_path}"], check=False)
    kept = tmp_path / "toy-2way_3shot.md"
    kept.write_text(kept.read_text() + "\nBy hand.\n")
    foreign = tmp_path / "my-2way_9shot.md"
    foreign.write_text("no generated table\n")
    for folder in gone:
        shutil.rmtree(folder)
    assert leaderboard_command([f"out={tmp_path}"], check=True) == 1
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0
    assert not list(tmp_path.glob("toy-2way_2shot.*"))
    assert kept.read_text() == "By hand.\n"
    assert foreign.read_text() == "no generated table\n"
    (tmp_path / "toy-2way_2shot.tex").write_text(f"{TEX_MARK}\n")
    assert leaderboard_command([f"out={tmp_path}"], check=True) == 1


def test_a_page_that_is_no_text_is_named(tmp_path):
    add(tmp_path, "a", 0.9)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match=r"README\.md cannot be read"):
        leaderboard_command([f"out={tmp_path}"], check=False)


def test_texts_are_escaped(tmp_path):
    add(tmp_path, "a", 0.9, title="50 % & more_of {it} | $x$ #1")
    files = outputs(tmp_path)
    assert r"50 \% \& more\_of \{it\} | \$x\$ \#1" in files["toy-2way_1shot.tex"]
    assert r"more_of {it} \| \$x\$ \#1" in files["toy-2way_1shot.md"]


def test_csv_and_json_hold_the_same(tmp_path):
    files = outputs(STORE)
    rows = list(csv.DictReader(files["leaderboard.csv"].splitlines()))
    data = [row for board in json.loads(files["leaderboard.json"]) for row in board["rows"]]
    assert len(rows) == len(data) == 11
    for flat, nested in zip(rows, data, strict=True):
        assert float(flat["accuracy"]) == nested["accuracy"]
        assert flat["config_hashes"].split() == nested["config_hashes"]
    assert {row["seeds"] for row in rows} == {"1", "2"}


def test_published_figures_are_whole_and_compared_where_the_setting_is_the_same(tmp_path):
    published = read_published(tmp_path)
    tables_of_the_paper = [p for p in published if re.fullmatch(r"arXiv 2308.01532v1 Table [12]", p.source)]
    assert len(tables_of_the_paper) == 176
    assert sum(not p.cited for p in tables_of_the_paper) == 30
    assert not [p for p in published if p.source.startswith(("SECONDARY", "TERTIARY"))]
    plan = make_plan(way=5)
    for name, backbone in (("ma_clip", "vit_b_16"), ("ma_clip", "vit_b_32"), ("strm", "vit_b_16")):
        add(tmp_path, name, 0.8, plan=plan, dataset="hmdb51", backbone=backbone, title=name.upper())
    add(
        tmp_path,
        "ma_clip",
        0.7,
        plan=plan,
        dataset="hmdb51",
        backbone="vit_b_16",
        title="MA-CLIP",
        changed={"method.alpha": "0.9"},
    )
    weights = {"pretrained": "ViT-B-16.pt", "activation": "quick_gelu"}
    add(tmp_path, "ma_clip", 0.6, 1, plan=plan, dataset="hmdb51", backbone="vit_b_16", title="MA-CLIP", changed=weights)
    add(tmp_path, "ma_clip", 0.6, 2, plan=plan, dataset="hmdb51", backbone="vit_b_16", config={"x": 1}, submitted=True)
    (board,) = read_boards(tmp_path)
    compared = verdicts(board, published)
    with_weights = "MA-CLIP (activation=quick_gelu, pretrained=ViT-B-16.pt)"
    assert sorted(v.entry.row.title for v in compared) == [with_weights, "MA_CLIP", "MA_CLIP"]
    assert {(v.entry.result.backbone_name, v.published.accuracy) for v in compared} == {
        ("vit_b_16", 83.4),
        ("vit_b_32", 77.3),
    }
    for v in compared:  # nothing was trained: 1.96 standard errors of both samplings of episodes
        assert v.is_reproduced == (abs(v.difference) <= v.half_width)
        theirs = v.entry.statistics.episodes * np.sqrt(40 / 10_000)
        assert v.half_width == pytest.approx(np.hypot(v.entry.statistics.episodes, theirs))


def test_a_figure_is_reproduced_within_the_errors_of_episodes_and_trainings(tmp_path):
    plan, how = make_plan(way=5), {"dataset": "hmdb51", "backbone": "vit_b_16", "title": "MA-CLIP"}
    for seed in (0, 1, 2):
        add(tmp_path, "ma_clip", 0.8, seed, plan=plan, train={"episodes": 5, "seed": seed}, **how)
    (verdict,) = verdicts(read_boards(tmp_path)[0], read_published(tmp_path))
    accuracies = [seed.result.metrics.accuracy for seed in verdict.entry.row.seeds]
    over_episodes = (verdict.entry.statistics.episodes / 1.96) ** 2
    of_one = np.mean([(seed.result.metrics.interval95 / 1.96) ** 2 for seed in verdict.entry.row.seeds])
    of_both = over_episodes + of_one * 40 / 10_000
    expected = stats.t.ppf(0.975, 2) * np.sqrt(of_both + np.var(accuracies, ddof=1) * 4 / 3)
    assert verdict.half_width == pytest.approx(expected)
    assert verdict.is_reproduced == (abs(np.mean(accuracies) - 83.4) <= expected)
    printed = replace(verdict, published=verdict.published.model_copy(update={"interval": 0.5}))
    over_both = over_episodes + (0.5 / 1.96) ** 2
    expected = stats.t.ppf(0.975, 2) * np.sqrt(over_both + np.var(accuracies, ddof=1) * 4 / 3)
    assert printed.half_width == pytest.approx(expected)


def test_two_trainings_are_too_few_for_a_verdict(tmp_path):
    plan, how = make_plan(way=5), {"dataset": "hmdb51", "backbone": "vit_b_16", "title": "MA-CLIP"}
    for seed in (0, 1):
        add(tmp_path, "ma_clip", 0.8, seed, plan=plan, train={"episodes": 5, "seed": seed}, **how)
    (verdict,) = verdicts(read_boards(tmp_path)[0], read_published(tmp_path))
    assert (verdict.trainings, verdict.is_reproduced) == (2, None)
    assert verdict.half_width > 0


def test_no_row_is_bold_on_few_episodes(tmp_path):
    for episodes, is_first in ((29, False), (30, True)):
        add(tmp_path / str(episodes), "m", 2.0, plan=make_plan(episodes=episodes))
        ((entry,),) = (board.entries for board in read_boards(tmp_path / str(episodes)))
        assert entry.statistics.clips is not None
        assert entry.statistics.rank == (1, 1)
        assert entry.statistics.is_first is is_first


def test_one_training_gives_a_difference_and_no_verdict(tmp_path):
    plan, how = make_plan(way=5), {"dataset": "hmdb51", "backbone": "vit_b_16", "title": "MA-CLIP"}
    add(tmp_path, "ma_clip", 0.8, plan=plan, train={"episodes": 5}, **how)
    (board,) = read_boards(tmp_path)
    (verdict,) = verdicts(board, read_published(tmp_path))
    assert verdict.is_reproduced is None
    page = re.sub(" +", " ", outputs(tmp_path)["hmdb51-5way_1shot.md"])
    assert f"| {verdict.difference:+.2f} | {verdict.half_width:.2f} | 1 | – |" in page
    assert "this board ranks checkpoints, not methods" in page
    assert re.search(r"\| 1\\\* \| yes \| MA-CLIP", page)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.replace(",no,", ",perhaps,"), "line 2 cannot be read"),
        (lambda line: line.replace(",73.3,", ",much,"), "line 2 cannot be read"),
        (
            lambda line: line.replace(",73.3,", ",733,"),
            "line 2 cannot be read: accuracy='733' is too large: at most 100",
        ),
        (lambda line: line + ",extra", "line 2 cannot be read"),
    ],
)
def test_damaged_published_figures_are_named(tmp_path, change, message):
    lines = shipped().read_text().splitlines()
    (tmp_path / "published.csv").write_text("\n".join([lines[0], change(lines[1]), *lines[2:]]))
    with pytest.raises(ResultError, match=message):
        read_published(tmp_path)


def with_flags(figure, accuracy: float, *flags: str):
    return figure.model_copy(update={"accuracy": accuracy, "flags": flags})


def test_flags_of_published_figures_are_read_and_validated(tmp_path):
    header, line, *_ = shipped().read_text().splitlines()
    place = header.split(",").index("flags")

    def read(flags: str):
        cells = next(csv.reader([line]))
        cells[place] = flags
        text = io.StringIO()
        csv.writer(text).writerows([header.split(","), cells])
        (tmp_path / "published.csv").write_text(text.getvalue())
        (figure,) = read_published(tmp_path)
        return figure.flags

    assert read("") == ()
    assert read("leak") == ("leak",)
    assert read("transductive;selected on test") == read("transductive ; selected on test")
    assert read("transductive; selected on test") == ("transductive", "selected on test")
    with pytest.raises(
        ResultError, match=r"line 2 cannot be read.*'leek' is unknown. Did you mean 'leak'.*unknown list"
    ):
        read("transductive; leek")
    with pytest.raises(ResultError, match="twice"):
        read("leak; leak")
    (tmp_path / "published.csv").write_text("\n".join(part.rpartition(",")[0] for part in (header, line)))
    assert place == header.count(",")  # it is the last column: files without it can be read
    assert read_published(tmp_path)[0].flags == ()


def test_flagged_figures_are_never_ranked_with_clean_ones(tmp_path):
    figure = next(p for p in read_published(tmp_path) if p.our_method == "ma_clip" and p.our_dataset == "hmdb51")
    figures = [
        with_flags(figure, 50),
        with_flags(figure, 99, "leak", "transductive"),
        with_flags(figure, 60),
        with_flags(figure, 70, "unknown list"),
    ]
    assert [p.accuracy for p in in_order(figures)] == [60, 50, 99, 70]
    add(tmp_path, "ma_clip", 0.8, plan=make_plan(way=5), dataset="hmdb51", backbone=figure.our_backbone)
    boards = read_boards(tmp_path)
    page = tables.page(boards, figures)
    measured, _, literature = page.partition("\n## Published\n")
    assert "leak, transductive" in measured
    for text in (literature, tables.published_page(figures)):
        clean, flagged = re.sub(" +", " ", text).rsplit("\nFlagged", 1)
        assert re.findall(r"\| (\d+\.\d) \|", clean) == ["60.0", "50.0"]
        assert re.findall(r"\| (\d+\.\d \| [a-z, ]+) \|", flagged) == [
            "99.0 | leak, transductive",
            "70.0 | unknown list",
        ]
    (board,) = page_data(boards, figures)["boards"]
    assert [p["flags"] for p in board["published"]] == ["", "", "leak, transductive", "unknown list"]
    (row,) = board["rows"]
    assert row["published"]["flags"] == ""  # a figure without flags is preferred for the column
    (alone,) = page_data(boards, figures[1:2])["boards"]
    assert alone["rows"][0]["published"]["flags"] == "leak, transductive"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path):
    body = (GOLDEN / "toy-2way_1shot.tex").read_text()
    (tmp_path / "x.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
        + body
        + "\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_memory_is_that_of_the_gpu_where_there_was_one(tmp_path):
    add(tmp_path, "host", 0.9, cost={"memory": {"host": 1234.5}})
    add(tmp_path, "gpu", 0.8, 1, cost={"memory": {"host": 900.0, "device": 4768.0}})
    add(tmp_path, "unknown", 0.7, 2, cost={"memory": None})
    seeds = [{"episodes": 5, "seed": seed} for seed in (1, 2)]
    for seed, train in enumerate(seeds):
        add(tmp_path, "trained", 0.6, 3 + seed, train=train, cost={"memory": {"host": 1.0, "device": 1000.0 + seed}})
    (board,) = read_boards(tmp_path)
    by_method = {record["method"]: record["memory_mb"] for record in records([board])}
    assert by_method == {"host": 1234.5, "gpu": 4768.0, "unknown": None, "trained": 1000.5}
    frame = tables.frame(board).set_index("method")["memory GB"]
    assert frame[["host", "gpu", "unknown", "trained"]].tolist() == ["1.2", "4.8", "–", "1.0"]


def test_submitted_predictions_are_ranked_on_the_board_of_their_plan(tmp_path):
    """They share episodes with the other rows, but frames, crops and training are those of another code base."""
    add(tmp_path, "here", 0.95)
    add(tmp_path, "other", 0.6, 1, reader="cv2 4", fingerprint="1" * 64, submitted=True, train={"episodes": 9})
    add(tmp_path, "elsewhere", 0.9, 2, plan=make_plan(seed=1), submitted=True)  # a plan that nobody ran here
    shared, alone = sorted(read_boards(tmp_path), key=len, reverse=True)
    assert [(row.title, row.train_seconds, row.videos_per_second, row.memory_mb) for row in shared.rows] == [
        ("here", None, 36.0, 1234.5),
        ("other (submitted)", None, None, None),
    ]
    assert [entry.statistics.rank for entry in shared.entries] == [(1, 1), (2, 2)]
    right = np.stack([row.right() for row in shared.rows])
    error = jackknife_over_clips(right, classes=PLAN.classes, support=PLAN.support, query=PLAN.query).difference(0, 1)
    assert shared.p[0, 1] == pytest.approx(error.p_value(100 * (right[0].mean() - right[1].mean())), rel=1e-3)
    assert "reader r 1.0." in shared.note
    assert [row.title for row in alone.rows] == ["elsewhere (submitted)"]
    page = outputs(tmp_path)["toy-2way_1shot.md"]
    assert tables.LEGEND_SUBMITTED.strip() in page
    rows = list(csv.DictReader(outputs(tmp_path)["leaderboard.csv"].splitlines()))
    assert {row["method"]: row["submitted"] for row in rows} == {"here": "False", "other": "True", "elsewhere": "True"}
    assert tables.LEGEND_SUBMITTED.strip() not in outputs(STORE)["toy-2way_2shot.md"]


def test_submitted_predictions_join_the_board_that_they_have_most_in_common_with(tmp_path):
    add(tmp_path, "a", 0.95)
    add(tmp_path, "b", 0.9, 1, reader="r 2.0")
    add(tmp_path, "other", 0.9, 2, reader="r 2.0", submitted=True)
    assert sorted([row.result.name for row in board.rows] for board in read_boards(tmp_path)) == [["a"], ["b", "other"]]


def test_rows_share_a_line_only_if_the_seed_of_the_training_alone_differs(tmp_path):
    train = {"episodes": 5}
    add(tmp_path, "m", 0.8, 0, train=train)
    add(tmp_path, "m", 0.8, 1, train={**train, "seed": 1})
    add(tmp_path, "m", 0.8, 2, train={**train, "seed": 2}, changed={"method.alpha": "0.3"})
    add(tmp_path, "m", 0.8, 3, train={"episodes": 5, "warmup": 0.1, "seed": 3})
    (board,) = read_boards(tmp_path)
    assert sorted((row.title.split(" [")[0], len(row.seeds)) for row in board.rows) == [
        ("m", 1),
        ("m", 2),
        ("m (method.alpha=0.3)", 1),
    ]
    same = [row for row in board.rows if row.title.startswith("m [")]  # nothing else tells these apart
    assert [row.title for row in same] == [f"m [{row.result.config_hash[:8]}]" for row in same]
    assert len(same) == 2


def test_nothing_of_a_store_is_skipped():
    assert len(read_all(STORE / "results")) == 12


def test_rows_of_another_split_are_marked_and_stand_apart(tmp_path, capsys):
    """A row of hmdb51 whose setting the literature has, once on test and once, higher, on val."""
    how = {"dataset": "hmdb51", "synthetic": False, "backbone": "vit_b_16"}
    tested, val = PLAN, make_plan(purpose="val")
    add(tmp_path, "ours", 0.6, **how)
    add(tmp_path, "ours", 0.9, plan=val, **how)
    boards = {board.first.protocol.split: board for board in read_boards(tmp_path)}
    assert {split: len(board) for split, board in boards.items()} == {"test": 1, "val": 1}
    assert boards["val"].title == boards["test"].title + ", val split (not test)"
    assert boards["val"].page == "hmdb51-val_split-2way_1shot"
    leaderboard_command([f"out={tmp_path}"], check=False)
    page = (tmp_path / f"{boards['val'].page}.md").read_text()
    assert page.splitlines()[1].endswith("val split (not test)")
    assert "Measured on the val split, not on test: no result of a benchmark, and not comparable with any." in page
    assert "not test" not in (tmp_path / "hmdb51-2way_1shot.md").read_text()
    index = (tmp_path / "README.md").read_text()
    real, others = index.split("## Not on the test split")
    assert "hmdb51 2w1s" in real
    assert "hmdb51 val 2w1s" not in real
    assert "hmdb51 val 2w1s" in others
    with (tmp_path / "leaderboard.csv").open() as file:
        assert {row["plan"]: row["split"] for row in csv.DictReader(file)} == {tested.digest: "test", val.digest: "val"}
    published = read_published(tmp_path)
    figure = next(each for each in published if each.dataset == "HMDB51")
    for split, board in boards.items():
        p = figure.model_copy(update={"way": 2, "shot": 1})
        assert p.page_of(board.first) is (split == "test")
        own = p.model_copy(update={"our_method": "ours", "our_backbone": "vit_b_16", "our_dataset": "hmdb51"})
        assert len(verdicts(board, [own])) == (split == "test")
    show(Console(width=200), list(boards.values()), set())
    assert "val split (not test)" in capsys.readouterr().out
