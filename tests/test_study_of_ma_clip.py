"""tools.study: what it runs, the rules of its sentences, and a page that follows from results alone."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from stores import make_plan, predictions, store

from fsar_bench.config.cell import Cell
from fsar_bench.config.files import AblationConfig, load, names
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.errors import ConfigError
from fsar_bench.io import digest, to_json
from fsar_bench.results.predictions import measure, pack_predictions
from tools import SHORT
from tools.study import __main__ as study
from tools.study import words
from tools.study.design import (
    CLAIMS,
    CLIP_FSAR,
    GROUPS,
    KNOWING,
    MA_CLIP,
    NO_TEXT,
    ORDER,
    OTAM,
    PARTS,
    SCENE,
    SEEDS,
    STRICT,
    TABLES,
    TIMES,
    UNKNOWNS,
    Design,
    Group,
    Place,
    ablation,
)
from tools.study.measured import CURVES, Gap, Measured, significant
from tools.study.page import Notes, Page
from tools.study.words import BOARDS, Board, brings, published_gap, verdict

EPISODES = 200
SMALL = {"episodes": str(EPISODES)}
PUBLISHED = Path(__file__).parents[1] / "leaderboards" / "published.csv"
ON_ORDER = Board(ORDER, KNOWING)


@pytest.fixture(scope="module")
def design() -> Design:
    """The whole study, on few test episodes."""
    return Design(changes=SMALL)


# What is run


def test_published_figures_are_those_of_the_list():
    """The figures of the tables, against those that `leaderboards/published.csv` has with their sources."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["way"] == "5" and line["shot"] == "1"]
    known = {(line["method"], line["backbone"], line["dataset"]): float(line["accuracy"]) for line in lines}
    of_rows = {
        "table3": [f"MA-CLIP ablation: {part}" for part in ("no TMA, no TPCM", "TPCM only", "TMA only")] + ["MA-CLIP"],
        "table4": [
            "MA-CLIP ablation: TPCM only", "MA-CLIP ablation: fully fine-tuned visual encoder", "", "", "MA-CLIP",
        ],
        "table5": ["", "MA-CLIP"],
        "table6": ["", "", "MA-CLIP"],
        "table7": [
            "OTAM (CLIP visual fine-tuned)", "MA-CLIP (OTAM)", "Bi-MHM (CLIP visual)", "MA-CLIP (Bi-MHM)",
            "TRX (CLIP visual)", "MA-CLIP (TRX)",
        ],
        "table1_2": ["OTAM (CLIP visual fine-tuned)", "CLIP-FSAR", "MA-CLIP"],
    }  # fmt: skip
    compared = 0
    for table in TABLES:
        backbone = "ViT-B/16" if table == "table1_2" else "ViT-B/32"
        for dataset, figures in ablation(table).published.items():
            for method, figure in zip(of_rows[table], figures, strict=True):
                if method and figure is not None:
                    assert known[method, backbone, dataset] == figure, (table, dataset, method)
                    compared += 1
    assert compared == 8 + 6 + 2 + 1 + 12 + 9


def test_a_figure_is_needed_for_each_row():
    AblationConfig.of({"rows": ["otam", "ma_clip"], "published": {"X": [1.0, None]}})
    with pytest.raises(ConfigError, match="published has 1 figures of X for 2 rows"):
        AblationConfig.of({"rows": ["otam", "ma_clip"], "published": {"X": [1.0]}})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.table}: {claim.words}")
def test_claims_are_what_the_paper_reports(claim):
    gaps = [published_gap(claim, dataset) for dataset in ablation(claim.table).published]
    assert any(gap is not None for gap in gaps)
    assert all(gap > 0 for gap in gaps if gap is not None)


def test_every_table_of_the_paper_is_in_the_study():
    tables = {name for name in names("ablations") if name != "table7_imagenet"}  # needs weights that are not built in
    assert tables == set(TABLES)
    assert {claim.table for claim in CLAIMS} == tables
    for claim in CLAIMS:
        for number in (claim.better, claim.worse):
            assert Place(ablation(claim.table).rows[number], ORDER) in set(GROUPS[0].places())


def test_every_cell_is_one_that_can_be_typed(design):
    cells = design.cells()
    assert len({cell.hash for cell in cells}) == len(cells) > 150
    typed = [
        "methods=ma_clip",
        "method.joint=false",
        "dataset=synthact_scene",
        "controls=false",
        f"episodes={EPISODES}",
        *(f"{key}={value}" for key, value in SHORT.items()),
    ]
    assert resolve(typed).cells == [design.cell(Place("ma_clip method.joint=false", SCENE))]
    hashes = {cell.hash for cell in cells}
    assert (
        resolve([*typed[:3], *typed[3:], "train.seed=1"]).cells[0].hash not in hashes
    )  # one training is enough for it
    assert resolve([typed[0], *typed[2:], "train.seed=1"]).cells[0].hash in hashes


def test_settings_are_studied_on_val_alone(design):
    groups = [group for group in design.groups if group.title.startswith("settings")]
    for dataset in (ORDER, SCENE):
        rows = {row for group in groups if dataset in group.datasets for row in group.rows}
        assert {f"ma_clip {change}" for change in UNKNOWNS} < rows
    for group in groups:
        assert {cell.protocol.split for cell in design.cells_of(group)} == {"val"}
    others = {cell.protocol.split for group in design.groups if group not in groups for cell in design.cells_of(group)}
    assert others == {"test"}


def test_val_cells_share_the_training_of_the_test_cells(design):
    tested, chosen = (design.cell(Place(MA_CLIP, ORDER, split=split)) for split in ("test", "val"))
    assert tested.identity.train == chosen.identity.train
    assert tested.identity.method == chosen.identity.method
    assert tested.hash != chosen.hash


@pytest.mark.parametrize("dataset", [ORDER, SCENE])
def test_trainings_are_the_short_one_and_its_multiples(design, dataset):
    default = design.cell(Place(CLIP_FSAR, dataset)).identity.train
    assert (default.episodes, default.accumulate) == (100, 2)
    for times in TIMES[1:]:
        train = design.cell(Place(CLIP_FSAR, dataset, times=times)).identity.train
        assert train.episodes == times * default.episodes
        assert train.val_interval % default.accumulate == 0
        assert train.episodes // train.val_interval <= max(TIMES)
        same = {"episodes", "val_interval"}
        assert train.model_dump(exclude=same) == default.model_dump(exclude=same)
    assert max(TIMES) == 8


def test_a_change_to_the_default_is_the_default():
    """Its cell keeps the label of the default: the study has no cell that only says what holds anyway."""
    alpha = Design(changes=SMALL).cell(Place(MA_CLIP, ORDER)).identity.method["alpha"]
    rows = (MA_CLIP, f"ma_clip method.alpha={alpha}")
    (cell,) = Design(groups=(Group("x", rows, (ORDER,)),), changes=SMALL).cells()
    assert cell == Design(changes=SMALL).cell(Place(MA_CLIP, ORDER))


def test_the_start_of_text_layers_is_a_key_of_the_study_alone(design):
    plain, changed = (design.cell(Place(row, ORDER)) for row in (MA_CLIP, "ma_clip method.text_start=projection"))
    assert changed.identity.method == {**plain.identity.method, "text_start": "projection"}
    assert changed.identity.train == plain.identity.train  # as tuned
    assert "text_start" not in load("methods", "ma_clip").values["method"]  # its hashes stay


def test_a_backbone_that_is_not_there_has_no_cells():
    backbone = "one_that_is_not_there"
    design = Design(groups=(Group("x", (MA_CLIP,), (ORDER,), backbone),), changes=SMALL)
    assert not design.can_run(design.groups[0])
    assert design.cells() == []


# The rules


@pytest.mark.parametrize(
    ("points", "width", "word"),
    [(2.0, 1.0, "holds"), (-2.0, 1.0, "contradicted"), (0.9, 1.0, "cannot be told"), (5.0, None, "cannot be told")],
)
def test_verdicts(points, width, word):
    assert verdict(Gap(points, width, 0.5)) == word


def test_a_difference_that_is_not_measured_has_no_verdict():
    assert verdict(None) == "not measured"


def test_what_something_brings_in_words():
    assert brings(Gap(2.0, 1.0, 0.0)) == "brings +2.0 ± 1.0"
    assert brings(Gap(-2.0, 1.0, 0.0)) == "costs 2.0 ± 1.0"
    assert brings(Gap(-0.5, 1.0, 0.3)) == "changes nothing that can be told (-0.5 ± 1.0)"


def test_many_settings_are_corrected_for_their_number():
    gaps = [Gap(1.0, 0.9, 0.03), *[Gap(0.0, 0.9, 1.0)] * 3]
    assert significant(gaps[:1]) == [True]
    assert significant(gaps) == [False] * 4
    assert significant([]) == []


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ({1: Gap(-3.0, 1.0, 0), 8: Gap(3.0, 1.0, 0)}, "which is better depends on the training."),
        ({1: Gap(0.5, 1.0, 0), 8: Gap(3.0, 1.0, 0)}, "MA-CLIP is better wherever the difference can be told."),
        ({1: Gap(-3.0, 1.0, 0), 8: Gap(0.0, 1.0, 0)}, "OTAM is better wherever the difference can be told."),
        ({1: Gap(0.0, 1.0, 0), 8: Gap(0.0, 1.0, 0)}, "no difference can be told at any length."),
    ],
)
def test_who_is_better_after_which_training(gaps, expected):
    assert words._place_of_rival(OTAM, ORDER, gaps).endswith(expected)


# A page from made-up results


def store_cell(root: Path, cell: Cell, accuracy: float, seed: int) -> None:
    """Write a made-up result of a cell: right with a probability that differs by clip."""
    split, way = cell.protocol.split, cell.protocol.way
    plan = make_plan(classes=8, clips=20, way=way, episodes=cell.protocol.episodes, purpose=split)
    template = store(root / "template", "m", predictions(plan, 0.5, 0), plan, train={})
    guess = predictions(plan, accuracy, seed)
    packed = pack_predictions(guess, None)
    record = json.loads((template / "result.json").read_bytes())
    record |= {
        "cell": cell.model_dump(mode="json"),
        "config_hash": cell.hash,
        "training_key": digest([cell.identity.model_dump(mode="json")["train"], cell.name]),
        "metrics": measure(guess, plan.labels, None).model_dump(mode="json"),
        "predictions": hashlib.sha256(packed).hexdigest(),
    }
    folder = root / "results" / cell.folder
    folder.mkdir(parents=True)
    for name, data in (
        ("predictions.npz", packed), ("cost.json", (template / "cost.json").read_bytes()), ("result.json", to_json(record)),
    ):  # fmt: skip
        (folder / name).write_bytes(data)
    shutil.copytree(root / "template" / "plans", root / "plans", dirs_exist_ok=True)
    shutil.rmtree(root / "template")


ACCURACIES = {  # on order; the others have 0.6
    MA_CLIP: 0.8,
    NO_TEXT: 0.6,
    OTAM: 0.9,  # better than MA-CLIP: contradicts table 7
    "ma_clip method.prototype=none": 0.4,
    "ma_clip method.joint=false": 0.8,
}


@pytest.fixture(scope="module")
def measured(design, tmp_path_factory) -> Measured:
    """Some rows on order and scene, three trainings of the default, one other setting, and two lengths of training."""
    root = tmp_path_factory.mktemp("store")
    places = [Place(row, ORDER) for row in (*ACCURACIES, CLIP_FSAR, "ma_clip method.temporal=false")]
    places += [Place(row, SCENE) for row in (MA_CLIP, CLIP_FSAR)]
    places += [Place(row, ORDER, split="val") for row in (MA_CLIP, "ma_clip method.temperature=100")]
    places += [Place(row, ORDER, times=8) for row in (MA_CLIP, CLIP_FSAR)]
    for number, place in enumerate(places):
        seeds = (0, 1, 2) if place == Place(MA_CLIP, ORDER) else (0,)
        accuracy = ACCURACIES.get(place.row, 0.6) if place.dataset == ORDER else 0.6
        for seed in seeds:
            store_cell(root, design.cell(place, seed), accuracy, 100 + 10 * number + seed)
    key = Measured(design, root)._stored[design.cell(places[-2]).hash].result.training_key
    (root / CURVES).mkdir()
    (root / CURVES / f"{key}.csv").write_text("episodes,val_accuracy\n0,50.0\n40,55.0\n80,60.0\n")
    return Measured(design, root)


@pytest.fixture
def page(measured) -> Page:
    return Page(measured, Notes("", {}), "ma_clip")


def test_accuracies_are_those_of_the_results(measured):
    cells = [measured.design.cell(Place(MA_CLIP, ORDER), seed) for seed in SEEDS]
    of_seeds = [measured._stored[cell.hash].result.metrics.accuracy for cell in cells]
    whole = measured.accuracy(Place(MA_CLIP, ORDER))
    assert whole.trainings == len(of_seeds) == 3
    assert whole.percent == pytest.approx(np.mean(of_seeds))
    assert measured.accuracy(Place(OTAM, ORDER)).trainings == 1
    assert measured.accuracy(Place("trx", ORDER)) is None
    gap = measured.gap(Place(MA_CLIP, ORDER), Place(OTAM, ORDER))
    assert gap.points == pytest.approx(whole.percent - measured.accuracy(Place(OTAM, ORDER)).percent)
    assert gap.sign == -1
    assert measured.gap(Place(MA_CLIP, ORDER), Place("trx", ORDER)) is None
    assert set(measured.of_checkpoints) == {(SCENE, "test"), (ORDER, "val")}  # no row of theirs has several trainings
    default = measured.accuracy(Place(CLIP_FSAR, ORDER)).episodes
    assert measured.accuracy(Place(CLIP_FSAR, ORDER, times=8)).episodes == 8 * default > 0


def test_differences_of_differences(measured):
    a, b, c = (Place(row, ORDER) for row in (MA_CLIP, OTAM, NO_TEXT))
    same = measured.gap_of_gaps((a, b), (a, b))
    assert (same.points, same.width) == pytest.approx((0, 0), abs=1e-6)
    one, two = measured.gap(a, b), measured.gap_of_gaps((a, b), (b, a))
    assert two.points == pytest.approx(2 * one.points)
    assert two.width == pytest.approx(2 * one.width)
    both, against = measured.gap_of_gaps((a, b), (c, b)), measured.gap(a, c)  # b cancels
    assert both.points == pytest.approx(against.points)
    assert both.width == pytest.approx(against.width, rel=0.3)  # other degrees of freedom
    assert measured.gap_of_gaps((a, b), (a, Place("trx", ORDER))) is None


def test_verdicts_on_the_page_follow_from_the_results(page):
    lines = page.text.splitlines()

    def line(start: str) -> str:
        return next(line for line in lines if line.startswith(start))

    assert "contradicted" in line("| MA-CLIP is better than OTAM |")
    assert "| +11.7 |" in line("| MA-CLIP is better than OTAM |")
    assert "holds" in line("| the prototype module helps on top of the adapters |")
    assert "cannot be told" in line("| the joint adapter helps on top of both |")
    counted = line("**On order**, ")
    numbers = [int(word) for word in re.findall(r"\d+", counted)]
    assert numbers[0] == sum(numbers[1:]) > 3
    holds = [text for text in lines if text.startswith("- holds:")]
    assert "the prototype module helps on top of the adapters" in holds[0]
    assert "MA-CLIP is better than OTAM" not in holds[0]
    assert any(text.startswith("- contradicted: MA-CLIP is better than OTAM") for text in lines)
    assert any("all text brings +" in text for text in lines)
    assert any(
        text.startswith("- MA-CLIP trains 0.10 M parameters, 100 % of the 0.10 M of CLIP-FSAR;") for text in lines
    )
    assert "`method.temperature=100`" in page.text


def test_what_is_missing_is_said(page, design):
    text = page.text
    done, count = page.measured.progress(design.groups[0])
    assert 0 < done < count
    assert f"| {done} of {count} | {count - done} missing |" in text
    assert f"{len(page.measured)} of {len(design.cells())} cells are stored" in text
    if STRICT not in names("backbones"):
        assert f"there is no backbone `{STRICT}` yet" in text


def test_an_empty_store_gives_a_page_that_says_so(design, tmp_path):
    page = Page(Measured(design, tmp_path), Notes("", {}), "ma_clip")
    assert f"0 of {len(design.cells())} cells are stored" in page.text
    assert "Nothing of it is stored yet." in page.text
    page.write(tmp_path / "ma_clip.md")
    assert page.stale(tmp_path / "ma_clip.md") == []


def test_the_same_results_give_the_same_bytes_and_a_check_sees_changes(page, measured, tmp_path):
    path = tmp_path / "ma_clip.md"
    page.write(path)
    assert set(page.figures) == {"parts.png", "episodes.png", "parameters.png", "settings.png"}
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*.*"))}
    again = Page(Measured(measured.design, measured._store), Notes("", {}), "ma_clip")
    assert again.stale(path) == []
    for name in ("parts.png", "episodes.png"):
        (tmp_path / "ma_clip" / name).unlink()
    again.write(path)
    assert {file: file.read_bytes() for file in before} == before
    path.write_text(path.read_text() + "by hand\n")
    (tmp_path / "ma_clip" / "parts.png").write_bytes((tmp_path / "ma_clip" / "settings.png").read_bytes())
    (tmp_path / "ma_clip" / "old.png").write_bytes(b"")
    assert again.stale(path) == ["ma_clip.md", "ma_clip/parts.png", "ma_clip/old.png"]
    again.write(path)
    assert again.stale(path) == []


def test_val_curves_are_drawn_where_they_are_stored(page, measured):
    assert measured.curve(Place(MA_CLIP, ORDER, times=8)) == [(0, 50.0), (40, 55.0), (80, 60.0)]
    assert measured.curve(Place(OTAM, ORDER)) == []
    (panel,) = page.figures["episodes.png"].panels
    assert [line.title for line in panel.lines] == ["MA-CLIP", "CLIP-FSAR"]
    assert list(panel.lines[0].x) == [
        measured.accuracy(Place(MA_CLIP, ORDER, times=times)).episodes for times in (1, 8)
    ]
    assert panel.lines[0].curve == [(40, 55.0), (80, 60.0)]
    assert panel.lines[1].curve == []


def test_notes_end_their_sections_and_tell_of_which_results_they_are(page, measured, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text(f"results: {measured.digest}\n\n## What each part brings\nThe joint adapter is idle.\n")
    text = Page(measured, Notes.read(notes), "ma_clip").text
    assert "\n*Reading*: The joint adapter is idle.\n\n## Text, with" in text
    notes.write_text(notes.read_text().replace(measured.digest, "0" * 12))
    assert "*Reading (of other results, 000000000000)*: The joint" in Page(measured, Notes.read(notes), "ma_clip").text
    notes.write_text(f"results: {measured.digest}\n\n## Parts\nNothing.\n")
    with pytest.raises(
        ConfigError, match=r"section 'Parts', which the page lacks\. Its sections are: What was measured"
    ):
        _ = Page(measured, Notes.read(notes), "ma_clip").text
    notes.write_text("## What each part brings\nThe joint adapter is idle.\n")
    with pytest.raises(ConfigError, match="must begin with 'results: DIGEST'"):
        Notes.read(notes)
    assert Notes.read(tmp_path / "none.md") == Notes("", {})


def test_results_of_other_settings_are_not_those_of_the_study(measured):
    groups = (Group("x", (MA_CLIP, OTAM), (ORDER,)),)
    same, other = (
        Measured(Design(groups, {**SMALL, **more}), measured._store) for more in ({}, {"train.episodes": "80"})
    )
    assert len(same) == 2
    assert len(other) == 0


# The command


def test_the_page_is_written_and_checked_by_the_command(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "Design", lambda changes: measured.design)
    monkeypatch.setattr(study, "NOTES", tmp_path / "none.md")
    where = ["--store", str(measured._store), "--page", str(tmp_path / "page.md")]
    assert study.main(["page", "--check", *where]) == 1
    assert "stale: page.md" in capsys.readouterr().err
    assert study.main(["page", *where]) == 0
    assert study.main(["page", "--check", *where]) == 0
    assert "![parts](page/parts.png)" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "out=here"], "out=here has no effect: say --store FOLDER."),
        (["run", "job=2"], "job= is no option of a run. Did you mean 'jobs'?"),
        (["run", "jobs=none"], "jobs"),
        (["run", "--group", "tabels"], "No group has 'tabels' in its title. There are: tables of the paper,"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, tmp_path, capsys):
    assert study.main([*arguments, "--store", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_the_plan_counts_each_cell_once(tmp_path, monkeypatch, capsys):
    groups = (Group("first", (MA_CLIP, OTAM), (ORDER,)), Group("second", (MA_CLIP, CLIP_FSAR), (ORDER,)))
    monkeypatch.setattr(study, "Design", lambda changes: Design(groups, SMALL))
    assert study.main(["plan", "--store", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" to run")[0] for line in lines[1:-1]] == ["first: 2 cells, 2", "second: 1 cells, 1"]


def test_curves_of_trainings_are_kept_by_their_keys(design, tmp_path):
    options = RunOptions(out=tmp_path / "store", work_dir=tmp_path / "work")
    cell, key = design.cell(Place(MA_CLIP, ORDER)), "ab" * 32
    for each in (None, key):  # nothing was trained; a training of another machine, whose curve is not here
        study._keep_curve(cell, each, options)
    assert not options.out.exists()
    folder = options.work_dir / cell.training_folder(key)
    folder.mkdir(parents=True)
    (folder / "curve.csv").write_text("episodes,val_accuracy\n0,50.0\n")
    study._keep_curve(cell, key, options)
    assert [(path.name, path.read_text()) for path in (options.out / CURVES).iterdir()] == [
        (f"{key}.csv", "episodes,val_accuracy\n0,50.0\n")
    ]


@pytest.mark.slow
def test_a_run_fills_the_store_and_a_second_one_finds_nothing_to_do(tmp_path, monkeypatch, capsys):
    changes = {**study.QUICK, "episodes": "20", "train.episodes": "2"}
    design = Design(groups=(Group("x", (MA_CLIP,), (SCENE,)),), changes=changes)
    monkeypatch.setattr(study, "Design", lambda changes: design)
    arguments = ["run", "jobs=1", f"work_dir={tmp_path / 'work'}", "--store", str(tmp_path / "store")]
    assert study.main(arguments) == 0
    place = Place(MA_CLIP, SCENE)
    measured = Measured(design, tmp_path / "store")
    assert measured.accuracy(place).trainings == 1
    assert [episodes for episodes, _ in measured.curve(place)] == [0, 2]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "store" / "results").rglob("*.*")}
    assert study.main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert {board.dataset for board in BOARDS} >= {ORDER, SCENE}
    assert set(PARTS) > {NO_TEXT}
