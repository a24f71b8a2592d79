"""Tuned settings: where they are, what they replace and what replaces them; files that are not what they claim are refused."""

from __future__ import annotations

import json

import pytest
from helpers import write_tuning

from fsar_bench.config.files import config_folder, names
from fsar_bench.config.resolve import resolve
from fsar_bench.config.search import parse_space
from fsar_bench.config.tuned import Trial, best_of, read_tuning
from fsar_bench.errors import ConfigError
from fsar_bench.results.command import command_of

LR = "train.optimizer.lr"
ACCURACIES = (None, 40.0, 60.0, 60.0, 50.0)


def cell_of(*pairs: str):
    (cell,) = resolve(["controls=false", *pairs]).cells
    return cell


@pytest.fixture
def tuned(tiny, tmp_path) -> str:
    """A dataset on which MA-CLIP is tuned."""
    write_tuning(tmp_path / "tuned", "ma_clip", {LR: 0.002, "method.alpha": 0.25, "method.prototype": "transformer"})
    return f"dataset={tiny}"


def test_tuned_settings_replace_those_of_configs_and_give_way_to_what_is_typed(tuned, tmp_path):
    cell = cell_of("methods=ma_clip", tuned)
    method, train = cell.identity.method, cell.identity.train
    assert (method["alpha"], method["prototype"], train.optimizer["lr"]) == (0.25, "transformer", 0.002)
    assert method["ffn_width"] == 64  # what the dataset's config says, and was not tuned
    assert train.optimizer["weight_decay"] == 0.05
    assert cell.label.tuned.values == {"method.alpha": "0.25", "method.prototype": "transformer", LR: "0.002"}
    assert cell.is_as_tuned
    assert cell.label.row == "MA-CLIP"

    typed = cell_of("methods=ma_clip", tuned, "method.alpha=0.5")
    assert (typed.identity.method["alpha"], typed.identity.method["prototype"]) == (0.5, "transformer")
    assert typed.label.tuned == cell.label.tuned
    assert not typed.is_as_tuned

    untuned = cell_of("methods=ma_clip", tuned, "tuned=none")
    assert untuned.label.tuned is None
    assert untuned.identity.train.optimizer["lr"] == 1e-4
    same = [f"{key}={text}" for key, text in cell.label.tuned.values.items()]
    assert cell_of("methods=ma_clip", tuned, "tuned=none", *same).hash == cell.hash  # values alone are hashed
    (tmp_path / "tuned" / "tiny" / "ma_clip.json").unlink()
    assert cell_of("methods=ma_clip", tuned) == untuned


def test_before_and_after_are_two_cells_of_one_command(tuned):
    after, before = resolve(["controls=false", "methods=ma_clip", tuned, "tuned=auto,none"]).cells
    assert (after.label.tuned is None, before.label.tuned is None) == (False, True)


def test_methods_without_a_tuning_and_published_recipes_stay_as_they_are(tuned, tmp_path):
    for name in ("otam", "otam_frozen"):
        cell = cell_of(f"methods={name}", tuned)
        assert cell.label.tuned is None
        assert cell == cell_of(f"methods={name}", tuned, "tuned=none")
    write_tuning(tmp_path / "other", "clip_fsar", {LR: 0.002}, dataset="hmdb51")
    official = cell_of("methods=clip_fsar", "dataset=hmdb51", "recipe=official", f"tuned={tmp_path / 'other'}")
    assert official.label.tuned is None
    assert cell_of("methods=clip_fsar", "dataset=hmdb51", f"tuned={tmp_path / 'other'}").label.tuned is not None


def test_a_matcher_of_the_users_choice_leaves_the_tuned_one_behind(tiny, tmp_path):
    write_tuning(tmp_path / "tuned", "otam", {"method.matcher.smoothing": 0.3})
    assert cell_of("methods=otam", f"dataset={tiny}").identity.method["matcher"]["smoothing"] == 0.3
    cell = cell_of("methods=otam", f"dataset={tiny}", "matcher=BiMHM")
    assert cell.identity.method["matcher"] == {"type": "BiMHM"}
    assert not cell.is_as_tuned


def test_a_dataset_that_inherits_a_config_inherits_no_tuning(tuned, tmp_path):
    (tmp_path / "child.py").write_text('_base_ = "./tiny.py"\ndataset = dict(name="child")\n')
    cell = cell_of("methods=ma_clip", f"dataset={tmp_path / 'child.py'}")
    assert cell.label.tuned is None
    assert cell.identity.method["ffn_width"] == 64
    base = config_folder("datasets") / "synthact.py"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "copy.py").write_text(f'_base_ = "{base}"\n')  # the name too is that of the base
    assert cell_of("methods=ma_clip", f"dataset={tmp_path / 'elsewhere' / 'copy.py'}").label.tuned is None


def test_a_custom_method_has_tunings_of_its_own(tuned, tmp_path):
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "ma_clip.py"
    mine.write_text(f'_base_ = "{names("methods")["ma_clip"]}"\n')
    assert cell_of(f"methods={mine}", tuned).label.tuned is None
    write_tuning(tmp_path / "mine" / "tuned", "ma_clip", {LR: 0.005})
    assert cell_of(f"methods={mine}", tuned).identity.train.optimizer["lr"] == 0.005


def test_another_backbone_takes_its_own_tuning_or_says_that_it_has_none(tuned, tmp_path):
    cell = cell_of("methods=ma_clip", tuned, "backbone=tiny_clip")
    assert (cell.identity.method["alpha"], cell.label.tuned.backbone, cell.is_as_tuned) == (
        0.25,
        "synthact_clip",
        False,
    )
    path = write_tuning(tmp_path / "tuned", "ma_clip", {"method.alpha": 0.75}, backbone="tiny_clip", trials=3)
    path.rename(path.with_name("ma_clip@tiny_clip.json"))
    cell = cell_of("methods=ma_clip", tuned, "backbone=tiny_clip")
    assert (cell.identity.method["alpha"], cell.label.tuned.trials, cell.is_as_tuned) == (0.75, 3, True)


def test_settings_of_the_training_dataset_hold_where_that_is_another_one(tuned, tmp_path):
    cell = cell_of(
        "methods=ma_clip", "dataset=synthact_scene", f"train_on={tuned.removeprefix('dataset=')}", "tuned=auto"
    )
    assert (cell.identity.method["alpha"], cell.is_as_tuned) == (0.25, True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"chosen": 0}, "trial 0 is chosen, which is not the first of the best"),
        ({"budget": {"trials": 3, "episodes": 8, "val_episodes": 20}}, "it has 2 trials, and a budget of 3"),
        (
            {"space": {"method.alpha": {"low": 0.5, "high": 1.0, "log": False}}},
            "trial 1 has method.alpha=0.25, outside",
        ),
        ({"space": {"method.beta": {"low": 0.0, "high": 1.0, "log": False}}}, "trial 0 has other keys than the space"),
        ({"surprise": 1}, "damaged (surprise=1: Extra inputs are not permitted)"),
        ({"method": "otam"}, "is the tuning of otam on tiny, not of ma_clip on tiny"),
        ({"schema_version": 2}, "schema_version=2"),
    ],
)
def test_files_that_are_not_what_tune_writes_are_refused(tiny, tmp_path, changes, text):
    path = write_tuning(tmp_path / "tuned", "ma_clip", {"method.alpha": 0.25})
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError) as error:
        cell_of("methods=ma_clip", f"dataset={tiny}")
    assert text in str(error.value)
    assert str(path) in str(error.value)
    assert cell_of("methods=ma_clip", f"dataset={tiny}", "tuned=none").label.tuned is None


@pytest.mark.parametrize("value", ['[{"type": "Hook"}]', "a b", {"type": "x"}, [1], "1e400"])
def test_values_of_a_file_are_numbers_and_words_alone(tiny, tmp_path, value):
    path = write_tuning(tmp_path / "tuned", "ma_clip", {"method.prototype": "none"})
    record = json.loads(path.read_text())
    record["space"]["method.prototype"]["choices"] = ["none", value]
    record["trials"][1]["values"]["method.prototype"] = value
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"damaged|values are numbers, words"):
        cell_of("methods=ma_clip", f"dataset={tiny}")


def test_a_tuning_that_no_longer_fits_its_method_says_so(tiny, tmp_path):
    path = write_tuning(tmp_path / "tuned", "ma_clip", {"method.alhpa": 0.25})
    with pytest.raises(
        ConfigError, match=r"tuned settings .*ma_clip.json do not fit: ma_clip has no key 'method.alhpa'"
    ):
        cell_of("methods=ma_clip", f"dataset={tiny}")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="pipe or device"):
        cell_of("methods=ma_clip", f"dataset={tiny}")
    with pytest.raises(ConfigError, match="tuned='nowhere' is no folder"):
        cell_of("methods=ma_clip", f"dataset={tiny}", "tuned=nowhere")


@pytest.mark.long
def test_the_command_of_a_result_repeats_it_with_and_without_the_tuning(tuned, tiny, tmp_path, run_tiny):
    (stored,) = run_tiny("ma_clip", controls=False, backbone="synthact_clip")
    result, places = stored.result, {"dataset": str(tiny)}
    assert "tuned" in json.loads((stored.folder / "result.json").read_text())["cell"]["label"]
    command = command_of(result, places)
    assert command.problem == ""
    assert not any(pair.startswith("tuned=") for pair in command.pairs)
    (tmp_path / "tuned" / "tiny" / "ma_clip.json").unlink()  # as on a machine that lacks it
    command = command_of(result, places)
    assert command.problem == ""
    assert "tuned=none" in command.pairs
    assert "method.alpha=0.25" in command.pairs
    write_tuning(tmp_path / "tuned", "ma_clip", {"method.alpha": 0.9})
    untuned = result.model_copy(update={"cell": cell_of("methods=ma_clip", tuned, "tuned=none")})
    assert "tuned=none" in command_of(untuned, places).pairs


def test_built_in_spaces_and_tunings_are_sound():
    from fsar_bench.engine.tuning.subject import subjects_of

    for dataset in ("synthact", "hmdb51"):
        asked = subjects_of({"methods": "all", "dataset": dataset})  # each space fits its method
        assert len(asked.subjects) >= 30
        assert all(1 <= len(subject.space) <= 4 for subject in asked.subjects)
        assert len({(subject.budget, subject.cell.identity.train.val_episodes) for subject in asked.subjects}) == 1
    for path in config_folder("tuned").glob("*/*.json"):
        tuning = read_tuning(path)
        assert (tuning.dataset, tuning.method) == (path.parent.name, path.stem.partition("@")[0])


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ({"lr": {"low": 1, "high": 2}}, "search['lr']: keys are those of run, such as 'method.alpha'"),
        ({"method.a": {"low": 0, "high": 1, "log": True}}, "low=0 must be above 0 with log=True"),
        ({"method.a": {"low": 0, "high": 1, "step": 1}}, "Unknown key 'step'"),
        ({"method.a": {"low": "1", "high": 2}}, "low"),
        ({"method.a": {"choices": [1, "[2]"]}}, "choices has '[2]': values are numbers, words, True, False or None"),
        ({"method.a": {"choices": [1, 1]}}, "choices has 1 twice"),
        ({"method.a": {"choices": [1]}}, "choices"),
        ({f"method.a{n}": {"low": 0, "high": 1} for n in range(9)}, "search has 9 keys: at most 8"),
    ],
)
def test_spaces_that_cannot_be_are_refused(search, text):
    with pytest.raises(ConfigError) as error:
        parse_space(search, "The config: ")
    assert text in str(error.value)
    assert str(error.value).startswith("The config: ")


def test_values_of_a_space_are_evenly_spread_and_inside():
    space = parse_space({"method.r": {"low": 1e-4, "high": 1e-2, "log": True}, "method.n": {"low": 1, "high": 4}}, "")
    places = [(n + 0.5) / 400 for n in range(400)]
    rates = [space["method.r"].at(place) for place in places]
    assert all(space["method.r"].holds(rate) for rate in rates)
    assert sum(rate < 1e-3 for rate in rates) == pytest.approx(200, abs=5)  # equal factors are equally likely
    counts = [space["method.n"].at(place) for place in places]
    assert {n: counts.count(n) for n in set(counts)} == {1: 100, 2: 100, 3: 100, 4: 100}
    assert not space["method.n"].holds(2.0)
    assert not space["method.n"].holds(True)


def test_the_first_of_equal_trials_is_chosen_and_none_that_diverged():
    """Of equals the earlier one: untuned settings stay where nothing is better, and a larger budget keeps its choice."""
    trials = [
        Trial(values={}, accuracy=a, curve=[(0, a)] if a is not None else [], training="0" * 64) for a in ACCURACIES
    ]
    assert best_of(trials) == 2
    assert best_of(trials[:2]) == 1
    assert best_of(trials[:1]) is None
