"""Results: what is written, what is refused, and how results of other machines are merged."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stores import make_plan, predictions, store

from fsar_bench import plan as episodes
from fsar_bench.cli.compare import compare_command
from fsar_bench.cli.leaderboard import leaderboard_command
from fsar_bench.cli.results import merge_command
from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ResultError
from fsar_bench.io import digest
from fsar_bench.leaderboard import merge as merging
from fsar_bench.leaderboard.merge import merge_results
from fsar_bench.plan import EpisodePlan
from fsar_bench.results import predictions as codec
from fsar_bench.results import store as results
from fsar_bench.results.metrics import pair_outcomes
from fsar_bench.results.plans import checked_plan

PLAN = make_plan()
RECORDED = PLAN.with_recordings(np.arange(72) // 3)
RECORDED_DATA = {"recordings": RECORDED.recordings_digest, "clips": 72}
COMMITTED = Path(__file__).parents[1] / "leaderboards" / "results"


def add(root: Path, name: str = "one", accuracy: float = 0.8, seed: int = 0, **how) -> Path:
    """A store with one result; returns the result's folder."""
    return store(root, name, predictions(PLAN, accuracy, seed), PLAN, pairs=True, **how)


def test_pair_outcomes_by_hand():
    class Plan:
        classes = np.array([[0, 1, 2], [2, 3, 0]])
        labels = np.array([0, 1, 2])

    total = np.zeros((2, 3, 3))
    total[0, 0] = [2, 1, 5]  # class 0 against its reverse 1: above
    total[0, 1] = [3, 1, 0]  # class 1 against its reverse 0: below
    total[1, 0] = [1, 1, 0]  # class 2 against its reverse 3: equal
    total[1, 1] = [0, 4, 0]
    outcome = pair_outcomes(total, Plan, (1, 0, 3, 2))
    assert outcome.tolist() == [[1, 0, 255], [2, 1, 255]]
    assert pair_outcomes(total, Plan, (-1, -1, -1, -1)) is None


def test_round_trip(tmp_path):
    folder = add(tmp_path)
    stored = results.read(folder)
    assert stored.result.metrics.accuracy == pytest.approx(100 * (stored.predictions() == PLAN.labels).mean())
    assert stored.right().mean() == pytest.approx(stored.result.metrics.accuracy / 100)
    assert (stored.cost.seconds.score, stored.cost.seconds.train) == (0.5, None)
    assert folder == tmp_path / "results" / stored.result.folder
    assert stored.plan_file.is_file()


def edit(change):
    """A tampering that changes the record."""

    def tamper(folder: Path) -> None:
        record = json.loads((folder / "result.json").read_text())
        change(record)
        (folder / "result.json").write_text(json.dumps(record))

    return tamper


def edit_identity(change):
    """A tampering that changes the cell, with its right hash and folder."""

    def tamper(folder: Path) -> None:
        record = json.loads((folder / "result.json").read_text())
        change(record["cell"]["identity"])
        record["config_hash"] = digest(record["cell"]["identity"])
        (folder / "result.json").write_text(json.dumps(record))
        folder.rename(folder.with_name(f"one-{record['config_hash'][:8]}"))

    return tamper


def rehashed(content: bytes):
    """A tampering that puts other predictions in place, with their right hash."""

    def tamper(folder: Path) -> None:
        (folder / "predictions.npz").write_bytes(content)
        edit(lambda r: r.update(predictions=hashlib.sha256(content).hexdigest()))(folder)

    return tamper


def packed(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    """An npz of a few kB that unpacks to ten MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("prediction.npy", bytes(10**7))
    return buffer.getvalue()


def moved(folder: Path) -> None:
    shutil.move(folder, folder.with_name("one-00000000"))


def other_plan(folder: Path) -> None:
    make_plan(seed=1).save(results.read(folder).plan_file)


def no_plan(folder: Path) -> None:
    results.read(folder).plan_file.unlink()


def cut_plan(folder: Path) -> None:
    path = results.read(folder).plan_file
    path.write_bytes(path.read_bytes()[:200])


def other_numbers(change):
    """A plan of other arrays, with the hash of what they are cast to."""

    def tamper(folder: Path) -> None:
        path = results.read(folder).plan_file
        with np.load(path) as opened:
            arrays = {name: opened[name] for name in opened.files}
        np.savez_compressed(path, **(arrays | change(arrays)))

    return tamper


def recorded_as(numbers: np.ndarray | None):
    """A record that names the recordings of `RECORDED`, and at the place of its plan one with other recordings."""

    def tamper(folder: Path) -> None:
        edit(lambda r: r["data"].update(RECORDED_DATA))(folder)
        PLAN.with_recordings(numbers).save(results.read(folder).plan_file)

    return tamper


def linked_plan(folder: Path) -> None:
    path = results.read(folder).plan_file
    path.rename(folder.parents[3] / "plan.npz")
    path.symlink_to(folder.parents[3] / "plan.npz")


def linked(folder: Path) -> None:
    shutil.copy(folder / "cost.json", folder.parents[3] / "elsewhere.json")
    (folder / "cost.json").unlink()
    os.symlink(folder.parents[3] / "elsewhere.json", folder / "cost.json")


def identity(record: dict) -> dict:
    return record["cell"]["identity"]


def label(record: dict) -> dict:
    return record["cell"]["label"]


GOOD, BAD = np.zeros((40, 2), np.uint8), np.full((40, 2), 9, np.uint8)
TAMPERED = {
    "edited accuracy": (
        edit(lambda r: r["metrics"].update(accuracy=99.0)),
        "claims metrics that its predictions do not give",
    ),
    "edited interval": (
        edit(lambda r: r["metrics"].update(interval95=0.01)),
        "claims metrics that its predictions do not give",
    ),
    "edited pair accuracy": (
        edit(lambda r: r["metrics"].update(pair_accuracy=100.0)),
        "claims metrics that its predictions do not",
    ),
    "NaN": (edit(lambda r: r["metrics"].update(accuracy=float("nan"))), "it holds NaN"),
    "huge number": (edit(lambda r: r["parameters"].update(total=10**40)), "damaged: parameters.total"),
    "more episodes than predictions": (
        edit_identity(lambda i: i["protocol"].update(episodes=10**5)),
        "is damaged .prediction holds uint8|is not the plan that",
    ),
    "more episodes than any plan": (
        edit_identity(lambda i: i["protocol"].update(episodes=10**8)),
        "damaged: cell.identity.protocol: .*make a plan of 400,000,000 clips",
    ),
    "other schema": (edit(lambda r: r.update(schema_version=1)), "schema version 1"),
    "no schema": (edit(lambda r: r.pop("schema_version")), "schema version None"),
    "path in the method": (edit(lambda r: identity(r).update(name="../../x")), "damaged: cell.identity.name"),
    "path in the dataset": (
        edit(lambda r: identity(r)["dataset"].update(name="..")),
        "damaged: cell.identity.dataset.name",
    ),
    "markup in the title": (
        edit(lambda r: label(r).update(title="<script>alert(1)</script>")),
        "damaged: cell.label.title",
    ),
    "markup in a changed setting": (
        edit(lambda r: label(r).update(changed={"method.x": "<b>"})),
        "damaged: cell.label.changed.method.x",
    ),
    "line break in the paper": (edit(lambda r: label(r).update(paper="a\nb")), "damaged: cell.label.paper"),
    "other method": (edit(lambda r: identity(r).update(name="other")), "its cell has the hash .*, not"),
    "other method with its hash": (edit_identity(lambda i: i.update(name="other")), "not its own folder"),
    "other hash": (edit(lambda r: r.update(config_hash="1" * 64)), "its cell has the hash .*, not 11111111"),
    "wrong hash of predictions": (
        edit(lambda r: r.update(predictions="0" * 64)),
        "not the file that result.json names",
    ),
    "unknown field": (edit(lambda r: r.update(extra=1)), "damaged: extra"),
    "missing field": (edit(lambda r: r.pop("traits")), "damaged: traits"),
    "plan that is no hash": (edit(lambda r: r["episodes"].update(plan="xyz")), "damaged: episodes.plan"),
    "wrong type": (edit(lambda r: identity(r)["protocol"].update(way="many")), "damaged: cell.identity.protocol.way"),
    "NaN in a config": (edit(lambda r: identity(r)["method"].update(x=float("nan"))), "it holds NaN"),
    "a seed that is no number": (
        edit(lambda r: identity(r).update(train={"seed": [1]})),
        "damaged: cell.identity.train.seed",
    ),
    "classes beyond measure": (edit(lambda r: r["data"].update(classes=10**13)), "damaged: data.classes"),
    "not an object": (lambda folder: (folder / "result.json").write_text("[1]"), "damaged"),
    "not JSON": (lambda folder: (folder / "result.json").write_text("{"), r"result\.json is damaged"),
    "endless nesting": (lambda folder: (folder / "result.json").write_text("[" * 100_000), r"result\.json is damaged"),
    "a huge record": (lambda folder: (folder / "result.json").write_text(" " * 2**23), "it has 8388608 bytes"),
    "no predictions": (lambda folder: (folder / "predictions.npz").unlink(), "predictions.npz cannot be read"),
    "cut predictions": (
        lambda folder: (folder / "predictions.npz").write_bytes(b"PK"),
        "not the file that result.json names",
    ),
    "labels that do not exist": (rehashed(packed(prediction=BAD)), "predicts the label 9 of 2 classes"),
    "predictions of another type": (
        rehashed(packed(prediction=BAD.astype(float))),
        "unpacks to more than|holds float64",
    ),
    "pickled predictions": (rehashed(packed(prediction=np.array([{}], object))), "is damaged"),
    "a bomb": (rehashed(bomb()), "unpacks to more than"),
    "no cost": (lambda folder: (folder / "cost.json").unlink(), r"cost\.json cannot be read"),
    "cost that is no object": (lambda folder: (folder / "cost.json").write_text("3"), r"cost\.json is damaged"),
    "cost beyond measure": (
        lambda folder: (folder / "cost.json").write_text('{"videos": 1%s}' % ("0" * 30)),
        "damaged: videos",
    ),
    "cost below zero": (
        lambda folder: (folder / "cost.json").write_text('{"seconds": {"train": -1}}'),
        "damaged: seconds.train",
    ),
    "outcomes of pairs that do not exist": (
        rehashed(packed(prediction=GOOD, pair=GOOD + 7)),
        "pair outcomes that do not exist",
    ),
    "no pair at all": (rehashed(packed(prediction=GOOD, pair=GOOD + 255)), "pair outcomes that do not exist"),
    "a pipe": (lambda folder: (folder / "cost.json").unlink() or os.mkfifo(folder / "cost.json"), "it is no file"),
    "moved": (moved, "not its own folder"),
}
OF_PLANS = {
    "no plan": (no_plan, "The episode plan .* is missing"),
    "cut plan": (cut_plan, "cannot be read"),
    "another plan": (other_plan, "is not the plan that"),
    "numbers that wrap round": (
        other_numbers(lambda a: {"support": a["support"].astype(np.int64) + 2**32}),
        "support unpacks to more|support holds int64",
    ),
    "fractions": (other_numbers(lambda a: {"support": a["support"].astype(float)}), "support holds float64"),
    "another shape": (other_numbers(lambda a: {"classes": a["classes"].ravel()}), "not int32 in 2 dimensions"),
    "another number of ways": (other_numbers(lambda a: {"classes": a["classes"][:, :1]}), "arrays are no plan"),
    "another seed": (edit_identity(lambda i: i["protocol"].update(seed=7)), "is not the plan that"),
    "another list": (edit(lambda r: r["data"].update(list_hash="1" * 64)), "is not the plan that"),
    "fewer classes": (edit(lambda r: r["data"].update(classes=3)), "is not the plan that"),
    "no plan with recordings": (
        edit(lambda r: r["data"].update(RECORDED_DATA)),
        "The episode plan .* is missing",
    ),
    "no recordings in the plan": (recorded_as(None), "is not the plan that"),
    "other recordings": (recorded_as(np.arange(72) // 4), "is not the plan that"),
    "recordings that the record does not name": (
        lambda folder: RECORDED.save(results.read(folder).plan_file),
        "is not the plan that",
    ),
    "claims complete data": (edit(lambda r: r["episodes"].update(plan="1" * 64)), "is not the plan that"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampered_results_are_refused(tmp_path, kind):
    tamper, message = TAMPERED[kind]
    tamper(add(tmp_path))
    with pytest.raises(ResultError, match=message) as caught:
        results.read_all(tmp_path / "results")
    assert "\n" not in str(caught.value)


LINKS = {"a link": (linked, "is or holds a link"), "a linked plan": (linked_plan, "is or holds a link")}


@pytest.mark.parametrize("kind", [*TAMPERED, *OF_PLANS, *LINKS])
def test_merging_a_tampered_store_changes_nothing_and_names_it(tmp_path, capsys, kind):
    tamper, message = {**TAMPERED, **OF_PLANS, **LINKS}[kind]
    add(tmp_path / "here", "local")
    assert leaderboard_command([f"out={tmp_path / 'here'}"], check=False) == 0
    later = make_plan(shot=2)
    store(tmp_path / "there", "sound", predictions(later, 0.7, 1), later)
    tamper(add(tmp_path / "there"))
    before = contents(tmp_path / "here")
    capsys.readouterr()
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 1
    assert contents(tmp_path / "here") == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert "nothing was merged" in lines[1]
    with pytest.raises(ResultError, match=message):
        raise ResultError(lines[0])


def forged(change) -> EpisodePlan:
    """A plan that claims to be a realisation of `PLAN` on incomplete data, with a right hash."""
    arrays = {name: getattr(PLAN, name).copy() for name in ("classes", "support", "query")}
    change(arrays)
    realised = episodes._digest(PLAN.header, *arrays.values())
    return replace(PLAN, **arrays, replaced=3, realised=realised)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["query"].__setitem__(slice(None), a["support"]), "has a clip twice in one episode"),
        (lambda a: a["query"].__setitem__(0, a["query"][0][::-1]), "is not a realisation of the plan"),
        (lambda a: a["classes"].__setitem__(0, a["classes"][0][::-1]), "is not a realisation of the plan"),
    ],
)
@pytest.mark.parametrize("kept", [PLAN, RECORDED], ids=["recordings unknown", "recordings known"])
def test_forged_episodes_on_incomplete_data_are_not_merged(tmp_path, capsys, change, message, kept):
    store(tmp_path / "here", "local", predictions(PLAN, 0.8, 0), kept)
    plan = forged(change)
    store(
        tmp_path / "there",
        "cheat",
        np.tile(PLAN.labels, (40, 1)).astype(np.uint8),
        plan,
        coverage=0.9,
        fingerprint="1" * 64,
    )
    before = contents(tmp_path / "here")
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 1
    assert message in capsys.readouterr().err
    assert contents(tmp_path / "here") == before


def test_results_that_break_the_tables_are_not_merged(tmp_path, capsys, monkeypatch):
    """Whatever the checks do not foresee shows before anything is written."""
    add(tmp_path / "here", "local")
    add(tmp_path / "there", "theirs", 0.7)
    before = contents(tmp_path / "here")

    def broken(*_: object) -> dict:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(merging, "page_data", broken)
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 1
    assert "The tables cannot be made with these results (ZeroDivisionError" in capsys.readouterr().err
    assert contents(tmp_path / "here") == before


def test_merge_replaces_missing_and_damaged_plans(tmp_path):
    folder = add(tmp_path / "here", "local")
    add(tmp_path / "there", "local")
    path = results.read(folder).plan_file
    for spoil in (path.unlink, lambda: path.write_bytes(b"x")):
        spoil()
        assert merge_command([tmp_path / "there"], tmp_path / "here") == 0
        assert EpisodePlan.load(path).realised == PLAN.realised


def add_recorded(root: Path, name: str = "one", plan: EpisodePlan = RECORDED) -> Path:
    return store(root, name, predictions(plan, 0.8, 0), plan, pairs=True)


def test_the_file_of_a_plan_is_named_by_its_recordings_as_well(tmp_path):
    other = PLAN.with_recordings(np.arange(72) // 4)
    for number, plan in enumerate((PLAN, RECORDED, other)):
        add_recorded(tmp_path, f"m{number}", plan)
    names = {path.name for path in (tmp_path / "plans").iterdir()}
    begin = PLAN.realised[:16]
    assert names == {
        f"{begin}.npz",
        f"{begin}-{RECORDED.recordings_digest[:16]}.npz",
        f"{begin}-{other.recordings_digest[:16]}.npz",
    }
    stored = {each.result.name: each for each in results.read_all(tmp_path / "results")}
    assert {each.plan_file.name for each in stored.values()} == names
    assert checked_plan(stored["m1"]).recordings.tolist() == RECORDED.recordings.tolist()
    assert checked_plan(stored["m0"]).recordings is None
    record = json.loads((stored["m0"].folder / "result.json").read_text())
    assert "recordings" not in record["data"]  # as records were before they could know them


def test_merge_copies_plans_with_their_recordings(tmp_path):
    add(tmp_path / "here", "local")
    add_recorded(tmp_path / "there", "theirs")
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 0
    theirs = next(each for each in results.read_all(tmp_path / "here" / "results") if each.result.name == "theirs")
    assert checked_plan(theirs).recordings_digest == RECORDED.recordings_digest
    assert len(list((tmp_path / "here" / "plans").iterdir())) == 2


def test_a_plan_of_the_same_name_with_other_recordings_is_not_kept(tmp_path, capsys):
    folder = add_recorded(tmp_path / "here", "local")
    add_recorded(tmp_path / "there", "theirs")
    PLAN.with_recordings(np.arange(72) // 4).save(results.read(folder).plan_file)
    before = contents(tmp_path / "here")
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 1
    assert "has other recordings than the same episodes in" in capsys.readouterr().err
    assert contents(tmp_path / "here") == before


def test_compare_needs_the_recordings_of_the_record(tmp_path):
    for name in ("a", "b"):
        folder = add_recorded(tmp_path, name)
    PLAN.with_recordings(np.arange(72) // 4).save(results.read(folder).plan_file)
    with pytest.raises(ResultError, match="is not the plan that"):
        compare_command("a", "b", [f"out={tmp_path}"])


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["no plan", "cut plan", "another plan"])
def test_leaderboards_need_the_plan(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    tamper, message = OF_PLANS[kind]
    tamper(add(tmp_path))
    with pytest.raises(ResultError, match=message):
        leaderboard_command([f"out={tmp_path}"], check=False)


def test_merge_copies_what_is_new_and_knows_duplicates(tmp_path, capsys):
    add(tmp_path / "here", "local")
    add(tmp_path / "a", "theirs", 0.7)
    add(tmp_path / "b", "local")
    later = make_plan(shot=2)
    store(tmp_path / "b", "theirs", predictions(later, 0.7, 1), later)
    assert merge_command([tmp_path / "a", tmp_path / "b"], tmp_path / "here") == 0
    assert "2 results merged, 1 were there already" in capsys.readouterr().out
    assert len(results.read_all(tmp_path / "here" / "results")) == 3
    assert "theirs" in (tmp_path / "here" / "toy-2way_2shot.md").read_text()
    assert merge_command([tmp_path / "a"], tmp_path / "here") == 0
    assert "0 results merged, 1 were there already" in capsys.readouterr().out


def test_a_merge_tells_what_it_did(tmp_path):
    add(tmp_path / "here", "local")
    new = add(tmp_path / "there", "theirs", 0.7)
    add(tmp_path / "there", "local")
    outcome = merge_results([tmp_path / "there"], tmp_path / "here")
    assert (outcome.problems, [stored.folder for stored in outcome.taken], outcome.duplicates) == ([], [new], 1)
    assert not list((tmp_path / "here").glob("*.md"))  # the verb writes the tables
    (new / "cost.json").unlink()
    shutil.rmtree(tmp_path / "here" / "results" / new.relative_to(tmp_path / "there" / "results"))
    outcome = merge_results([tmp_path / "there"], tmp_path / "here")
    assert (len(outcome.problems), outcome.taken) == (1, [])
    assert len(results.read_all(tmp_path / "here" / "results")) == 1


def test_merge_names_conflicts_and_empty_folders(tmp_path, capsys):
    add(tmp_path / "here", "local")
    add(tmp_path / "there", "local", 0.3, seed=5)
    assert merge_command([tmp_path / "there"], tmp_path / "here") == 1
    error = capsys.readouterr().err
    assert "have the same config hash and differ (metrics.accuracy" in error
    (tmp_path / "empty" / "results").mkdir(parents=True)
    assert merge_command([tmp_path / "empty", tmp_path / "nowhere"], tmp_path / "here") == 1
    error = capsys.readouterr().err
    assert "holds no results" in error
    assert "nowhere has no results/ folder" in error


@pytest.mark.parametrize("name", ["result.json", "predictions.npz", "cost.json"])
def test_cut_files_are_refused_and_tables_stay(tmp_path, name):
    folder = add(tmp_path)
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0
    before = (tmp_path / "toy-2way_1shot.md").read_bytes()
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ResultError, match=name.replace(".", r"\.")):
        leaderboard_command([f"out={tmp_path}"], check=False)
    assert (tmp_path / "toy-2way_1shot.md").read_bytes() == before


def test_results_are_checked_again_only_when_they_change(tmp_path, monkeypatch):
    folder, calls = add(tmp_path), []
    measure = results.measure
    monkeypatch.setattr(results, "measure", lambda *given: calls.append(1) or measure(*given))
    for _ in range(3):
        results.read_all(tmp_path / "results", tmp_path / "cache")
    assert len(calls) == 1
    edit(lambda r: r["metrics"].update(accuracy=99.0))(folder)
    with pytest.raises(ResultError, match="claims metrics"):
        results.read_all(tmp_path / "results", tmp_path / "cache")
    (tmp_path / "cache" / "verified.json").write_text("{")
    with pytest.raises(ResultError, match="claims metrics"):
        results.read_all(tmp_path / "results", tmp_path / "cache")


def test_predictions_have_the_same_bytes_again():
    prediction = np.random.RandomState(0).randint(0, 5, (100, 5)).astype(np.uint8)
    assert codec.pack_predictions(prediction, None) == codec.pack_predictions(prediction.copy(), None)


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in COMMITTED.glob("*/*/*/result.json")), ids=lambda p: p.name
)
def test_every_committed_result_resolves_again_to_its_own_hash(folder):
    """From the settings that its label and protocol tell, as a user would type them."""
    result = results.read(folder).result
    p, changed, train = result.protocol, result.cell.label.changed, result.cell.identity.train
    settings = {
        "methods": result.name,
        "dataset": result.dataset,
        "protocol": result.cell.label.protocol,
        "backbone": result.backbone_name,
        "way": p.way,
        "shot": p.shot,
        "query": p.query,
        "episodes": p.episodes,
        "seed": p.seed,
        "frames": p.frames,
        "template": p.template,
        "reader": result.cell.identity.reader,
        "controls": False,
        **({} if p.frames_as == "as_is" else {"frames_as": p.frames_as}),
        **({"train.seed": train.seed} if train and train.seed else {}),
        **changed,
    }
    *row, cell = resolve(settings).cells
    assert [each.protocol.frames_as for each in row] == ["as_is"] * (p.frames_as != "as_is")
    assert cell.hash == result.config_hash
    assert cell == result.cell
    *_, from_text = resolve(
        [f"{key}={str(value).lower() if value is False else value}" for key, value in settings.items()]
    ).cells
    assert from_text.hash == result.config_hash


def test_the_committed_results_are_all_there():
    results = [path.read_text() for path in COMMITTED.glob("*/*/*/result.json")]
    assert sum('"frames_as"' not in result for result in results) >= 316
    assert sum('"frames_as"' in result for result in results) >= 46
