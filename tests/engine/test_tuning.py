"""Tuning: what is tried follows from space, seed and accuracies alone; kills, jobs and restarts change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from time import sleep

import pytest
from helpers import children

from fsar_bench.config.resolve import resolve
from fsar_bench.config.search import parse_space
from fsar_bench.config.tuned import Trial, read_tuning
from fsar_bench.data.dataset import is_split_closed
from fsar_bench.engine.tuning import proposals
from fsar_bench.engine.tuning import tune as tuning
from fsar_bench.engine.tuning.subject import subjects_of
from fsar_bench.engine.tuning.trial import Measured, measured, run_trial
from fsar_bench.engine.tuning.tune import complete, tune
from fsar_bench.errors import CellCrashedError, ConfigError, ProtocolError
from fsar_bench.io import digest, write_atomically
from fsar_bench.progress.events import silent
from fsar_bench.results.record import Environment
from fsar_bench.storage.sealed import seal_json

SHA = "0" * 64
HERE = Environment(device="cpu", threads=1, machine="m", python="3", packages={})
BEST = 0.3  # the place at which the toy's scores hold no noise
TOY = """
import torch
from torch import nn

from fsar_bench.layers import cosine_logits
from fsar_bench.method import METHODS, FewShotMethod, Scores, Traits


@METHODS.register_module(force=True)
class Toy(FewShotMethod):
    '''Cosine prototypes with a noise that grows with the distance of a place from 0.3: a trained method with a known optimum.'''

    role_free = True
    score_only = ("shown",)

    def __init__(self, backbone, place=0.9, shown=1.0, peeks=False, breaks=False):
        super().__init__(backbone)
        self.place, self.peeks, self.noise = place, peeks, float("nan") if breaks else 3.0
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=False)

    def prepare(self, class_text):
        if self.peeks:
            from fsar_bench.data.dataset import open_dataset
            open_dataset("synthact", "builtin:synthact").split("test")

    def score(self, support, query, class_text):
        cosine = cosine_logits(query.frames.mean(-2), support.frames.mean(-2).mean(2), self.factor)
        return Scores(cosine + self.noise * abs(self.place - 0.3) * torch.sin(1e4 * cosine.detach()))
"""
SEARCH = '{"method.place": dict(low=0.0, high=1.0)}'


@pytest.fixture
def toy(tiny, tmp_path, monkeypatch):
    """Settings of a tuning of the toy in three rounds: two, two and one trial."""
    monkeypatch.setattr(proposals, "EVEN", 2)
    monkeypatch.setattr(proposals, "ROUND", 2)
    code = f"toy_code_of_{tmp_path.name}"  # a process imports one module of a name
    (tmp_path / f"{code}.py").write_text(TOY)

    def settings(search: str = SEARCH, method: str = "", **changes: str) -> dict[str, str]:
        (tmp_path / "toy.py").write_text(
            f'custom_imports = ["{code}"]\nmethod = dict(type="Toy", place=0.9, shown=1.0, peeks=False, breaks=False{method})\n'
            f"train = dict(optimizer=dict(lr=1e-3))\nsearch = {search}\n"
        )
        return {
            "methods": str(tmp_path / "toy.py"), "dataset": str(tiny), "budget": "5", "workers": "1", "jobs": "1",
            "train.episodes": "2", "train.val_episodes": "100", "train.val_interval": "2", "checkpoint_seconds": "0",
            "work_dir": str(tmp_path / "work_dirs"), "out": str(tmp_path / "leaderboards"), **changes,
        }  # fmt: skip

    return settings


@pytest.fixture
def in_this_process(monkeypatch):
    """Trials are trained in this process: what is about processes has tests of its own."""

    def trial(keys, cell, options, progress):
        run_trial(cell, options, progress, tuned=keys)
        return measured(cell, options)

    monkeypatch.setattr(tuning, "trial_in_process", trial)


@pytest.fixture
def untrained(monkeypatch):
    """Trials give what a formula says, after a time that changes their order, and note it as a training would be noted."""

    def trial(keys, cell, options, progress):
        assert keys == ("method.place",)
        place = cell.identity.method["place"]
        sleep(0.05 * (hash(str(place)) % 3))
        accuracy = 100 - 100 * abs(place - BEST)
        found = Measured(training=digest(place), curve=[(0, 20.0), (2, accuracy)], seconds=1.0, environment=HERE)
        note = options.work_dir / cell.work_folder / "trial.json"
        write_atomically(note, seal_json(found.model_dump(mode="json"), cell.hash))
        return measured(cell, options)

    monkeypatch.setattr(tuning, "trial_in_process", trial)


def tuned(settings: dict[str, str], end=lambda *_: None, begin=lambda *_: silent):
    asked = subjects_of(settings)
    return list(tune(asked.subjects, asked.options, begin, end))


def repeating(path: Path) -> dict:
    """What of a file repeats: all but what was spent."""
    record = json.loads(path.read_text())
    assert len(record.pop("spent")["seconds"]) == len(record["trials"])
    return record


@pytest.mark.long
def test_the_best_place_of_a_toy_is_found_and_run_takes_it(toy, in_this_process, tmp_path, run_tiny):
    settings = toy()
    (outcome,) = tuned(settings)
    path = tmp_path / "tuned" / "tiny" / "toy.json"  # next to the config of the user's method
    found = read_tuning(path)
    assert outcome.tuning == found
    assert found.trials[0].values == {"method.place": 0.9}  # the untuned settings come first
    assert found.budget.trials == len(found.trials) == 5
    away = [abs(trial.values["method.place"] - BEST) for trial in found.trials]
    assert away.index(min(away)) == found.chosen
    assert found.trials[found.chosen].accuracy > found.trials[0].accuracy + 5
    assert [episodes for episodes, _ in found.trials[0].curve] == [0, 2]
    cell = resolve([f"methods={tmp_path / 'toy.py'}", f"dataset={settings['dataset']}"]).cells[0]
    assert cell.identity.method["place"] == found.values["method.place"]
    assert (cell.label.tuned.trials, cell.label.tuned.episodes, cell.is_as_tuned) == (5, 2, True)

    trained = {path.parent.name for path in (tmp_path / "work_dirs").rglob("finished.json")}
    same = {key: value for key, value in settings.items() if key.startswith("train.")}
    (stored,) = run_tiny(str(tmp_path / "toy.py"), backbone="synthact_clip", **same)
    assert f"toy-training-{stored.result.training_key[:8]}" in trained  # the training of the trial is that of the run
    assert {path.parent.name for path in (tmp_path / "work_dirs").rglob("finished.json")} == trained
    assert stored.result.training_key == found.trials[found.chosen].training
    label = json.loads((stored.folder / "result.json").read_text())["cell"]["label"]["tuned"]
    assert (label["trials"], label["episodes"]) == (5, 2)


@pytest.mark.parametrize("stop", [1, 2, 4])  # within a round, between two, before the last
def test_ctrl_c_and_a_restart_give_the_same_bytes(toy, untrained, tmp_path, stop):
    tuned(toy())
    path = tmp_path / "tuned" / "tiny" / "toy.json"
    expected = path.read_bytes()  # the formula takes the same seconds every time
    path.unlink()
    work_dir, ended = str(tmp_path / "stopped"), []

    def end(*_) -> None:
        ended.append(1)
        if len(ended) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(toy(work_dir=work_dir), end)
    assert not path.exists()
    assert len(list(Path(work_dir).rglob("trial.json"))) == stop
    states = []
    tuned(toy(work_dir=work_dir), lambda subject, number, outcome: states.append(outcome.state))
    assert states == ["reused"] * stop + ["done"] * (5 - stop)
    assert path.read_bytes() == expected


def test_several_jobs_and_other_methods_beside_it_change_no_byte(toy, untrained, tmp_path):
    tuned(toy())
    path = tmp_path / "tuned" / "tiny" / "toy.json"
    expected = path.read_bytes()
    path.unlink()
    tuned(toy(work_dir=str(tmp_path / "two"), jobs="2"))
    assert path.read_bytes() == expected
    settings = toy(work_dir=str(tmp_path / "both"), jobs="4")
    (tmp_path / "more.py").write_text((tmp_path / "toy.py").read_text())
    path.unlink()
    tuned({**settings, "methods": f"{tmp_path / 'more.py'},{settings['methods']}"})
    assert path.read_bytes() == expected
    assert read_tuning(path.with_name("more.json")).trials[1:] != read_tuning(path).trials[1:]  # a sequence of its own


def test_a_damaged_note_of_a_trial_is_made_again(toy, untrained, tmp_path):
    tuned(toy())
    path = tmp_path / "tuned" / "tiny" / "toy.json"
    expected = path.read_bytes()
    path.unlink()
    note = sorted((tmp_path / "work_dirs").rglob("trial.json"))[0]
    note.write_text(note.read_text().replace("20.0", "99.0"))
    states = []
    tuned(toy(), lambda subject, number, outcome: states.append(outcome.state))
    assert sorted(states) == ["done"] + ["reused"] * 4
    assert path.read_bytes() == expected


@pytest.mark.slow
def test_a_trial_that_is_killed_in_its_training_resumes(toy, tmp_path):
    """A real SIGKILL of the trial's process between two training episodes."""
    settings = toy(budget="2", **{"train.episodes": "4"})
    (outcome,) = tuned({**settings, "work_dir": str(tmp_path / "undisturbed")})
    expected = repeating(outcome.subject.file)
    outcome.subject.file.unlink()
    before = children()

    def kill(event) -> None:
        if event.stage == "training" and event.done == 3:
            (child,) = children(before)
            child.kill()

    (failed,) = tuned(settings, begin=lambda *_: kill)
    assert isinstance(failed.error, CellCrashedError)
    assert not outcome.subject.file.exists()
    tuned(settings)
    assert repeating(outcome.subject.file) == expected


def test_what_is_complete_is_reused_and_a_larger_budget_goes_on_from_it(toy, untrained):
    settings = toy(budget="2")
    (small,) = tuned(settings)
    begun: list[int] = []
    (again,) = tuned(settings, begin=lambda _, number: begun.append(number) or silent)
    assert again.is_reused
    assert begun == []
    assert again.tuning == small.tuning
    states = []
    (large,) = tuned({**settings, "budget": "3"}, lambda subject, number, outcome: states.append(outcome.state))
    assert states == ["reused", "reused", "done"]
    assert large.tuning.trials[:2] == small.tuning.trials
    (subject,) = subjects_of(toy('{"method.place": dict(low=0.1, high=1.0)}', budget="3")).subjects
    assert complete(subject) is None  # another space


def test_values_that_are_tried_twice_are_trained_once_and_cost_once(toy, untrained):
    begun = []
    (outcome,) = tuned(
        toy('{"method.place": dict(choices=[0.9, 0.2])}'), begin=lambda _, number: begun.append(number) or silent
    )
    assert sorted(begun) == [0, 1, 2, 3, 4]
    assert len({trial.training for trial in outcome.tuning.trials}) == 2
    assert sorted(outcome.tuning.spent.seconds) == [0, 0, 0, 1, 1]
    assert outcome.tuning.values == {"method.place": 0.2}


def test_the_test_split_cannot_be_opened_by_a_trial(toy, in_this_process):
    asked = subjects_of(toy())
    (subject,) = asked.subjects
    peeking = resolve([*(f"{k}={v}" for k, v in subject.settings.items()), "method.peeks=true"]).cells[0]
    with pytest.raises(ProtocolError, match=r"Something tried to open the 'test' split of 'synthact' while training"):
        run_trial(peeking, asked.options)
    assert measured(peeking, asked.options) is None
    assert not is_split_closed("test")


def test_a_training_that_diverges_is_a_trial_without_an_accuracy(toy, in_this_process):
    """With `breaks`, no score is a number."""
    asked = subjects_of(toy())
    (subject,) = asked.subjects
    cell = resolve([*(f"{k}={v}" for k, v in subject.settings.items()), "method.breaks=true"]).cells[0]
    run_trial(cell, asked.options)
    found = measured(cell, asked.options)
    assert (found.diverged, found.accuracy, found.curve) == (True, None, [])


def test_a_key_that_changes_the_score_alone_is_refused_by_its_name(toy, in_this_process):
    (outcome,) = tuned(toy('{"method.shown": dict(low=0.0, high=1.0)}', budget="2"))
    assert isinstance(outcome.error, ConfigError)
    assert "search['method.shown'] of toy changes the score alone" in str(outcome.error)


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("method.plaice", "low=0.0, high=1.0", ": the method has no such key. Did you mean 'method.place'"),
        (
            "method.place",
            "choices=['a', 'b']",
            ": 'a' is none of the numbers that it takes (the method's own value is 0.9).",
        ),
        ("method.peeks", "low=0, high=1", ": 0 is none of the true or false that it takes"),
        ("train.episodes", "low=1, high=9", ": it is the same for all trials and methods"),
        ("train.warmup", "low=0.1, high=1.5", " of toy cannot be 1.5: train.warmup=1.5 must be below 1."),
        ("train.crop", "choices=['center', 'centre']", " of toy cannot be centre: train.crop='centre' is unknown."),
        ("method.place", "low=1.0, high=0.0", ": low=1.0 must be below high=0.0."),
        ("method.place", "step=1", ": it needs dict(low=, high=)"),
    ],
)
def test_a_wrong_space_is_refused_with_its_key(toy, key, values, text):
    with pytest.raises(ConfigError) as error:
        subjects_of(toy(f'{{"{key}": dict({values})}}'))
    assert f"search[{key!r}]{text}" in str(error.value)


def test_methods_have_the_episodes_of_the_dataset_whatever_their_configs_say(tiny):
    asked = subjects_of({"methods": "otam,task_adapter,clip_fsar,otam_frozen", "dataset": str(tiny)})
    trains = [subject.cell.identity.train for subject in asked.subjects]
    assert {(train.episodes, train.val_episodes, train.val_interval, train.shot) for train in trains} == {(8, 20, 4, 1)}
    assert {subject.budget for subject in asked.subjects} == {asked.subjects[0].budget}
    assert asked.notes == ["not trained, left out: otam_frozen."]


# What is tried


def peak(values: dict) -> float:
    """A smooth accuracy with its maximum of 100 at a rate of 10^-3.5 and the word "b"."""
    import math

    return max(
        0.0, 100 - 15 * (math.log10(values["train.optimizer.lr"]) + 3.5) ** 2 - 20 * (values["method.kind"] != "b")
    )


def tried(budget: int, seed: int = 0, accuracy=peak) -> list[Trial]:
    search = {
        "train.optimizer.lr": {"low": 1e-6, "high": 1e-2, "log": True},
        "method.kind": {"choices": ["a", "b", "c"]},
    }
    space, trials = parse_space(search, ""), []
    for wanted in proposals.rounds(budget):
        untuned = {"train.optimizer.lr": 1e-5, "method.kind": "a"}
        for values in proposals.propose(space, untuned, trials, wanted, seed, "purpose"):
            assert all(space[key].holds(value) for key, value in values.items())
            found = accuracy(values)
            trials.append(
                Trial(values=values, accuracy=found, curve=[(0, found)] if found is not None else [], training=SHA)
            )
    return trials


def test_proposals_repeat_begin_with_those_of_a_smaller_budget_and_find_a_peak():
    trials = tried(24)
    assert trials == tried(24)
    assert trials[:10] == tried(10)
    assert trials != tried(24, seed=1)
    assert trials[0].values == {"train.optimizer.lr": 1e-5, "method.kind": "a"}
    even = [trial.accuracy for trial in trials[:8]]
    assert max(trial.accuracy for trial in trials) > max(95, max(even) - 1e-9)
    later = [trial.accuracy for trial in trials[8:]]
    assert sum(later) / len(later) > sum(even) / len(even)  # they look where it was good


def test_the_first_trials_cover_the_range_evenly():
    import math

    rates = sorted(math.log10(trial.values["train.optimizer.lr"]) for trial in tried(8)[1:])
    gaps = [b - a for a, b in zip([-6, *rates], [*rates, -2], strict=True)]
    assert max(gaps) < 1.1  # of a range of 4


def test_the_sampler_avoids_what_diverged():
    def accuracy(values):
        return None if values["train.optimizer.lr"] < 1e-4 else peak(values)

    trials = tried(24, accuracy=accuracy)
    diverged = [trial.accuracy is None for trial in trials]
    assert sum(diverged[8:]) / 16 < sum(diverged[:8]) / 8


def test_untuned_settings_outside_of_the_space_are_tried_and_change_no_proposal():
    space = parse_space({"method.a": {"low": 0.0, "high": 1.0}}, "")
    outside, inside = ({"method.a": 5.0}, {"method.a": 0.5})
    first = [proposals.propose(space, untuned, [], range(8), 0, "x") for untuned in (outside, inside)]
    assert first[0][0] == outside
    assert first[0][1:] == first[1][1:]
    trials = [Trial(values=values, accuracy=1.0, curve=[(0, 1.0)], training=SHA) for values in first[0]]
    assert len(proposals.propose(space, outside, trials, range(8, 12), 0, "x")) == 4
