"""`fsar-bench show`: what is printed of a result, and that the command which it prints gives the same cell."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from stores import make_plan, predictions, store

from fsar_bench.cli.show import show_command
from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError
from fsar_bench.results.command import command_of
from fsar_bench.results.record import Result

LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"
PLAN = make_plan(episodes=60)


@pytest.mark.skipif(not (LEADERBOARDS / "results").is_dir(), reason="the results of the repository are not here")
def test_commands_of_all_results_of_the_repository_resolve_to_the_same_cells():
    records = sorted(LEADERBOARDS.glob("results/*/*/*/result.json"))
    assert len(records) > 50
    for path in records:
        result = Result.model_validate_json(path.read_bytes())
        command = command_of(result, {})
        assert command.problem == "", path
        _, _, *pairs = shlex.split(str(command))
        *row, cell = resolve([*pairs, "controls=false"]).cells
        assert cell.hash == result.config_hash
        assert len(row) == (result.protocol.frames_as != "as_is")  # a control is run beside its row


def test_a_command_names_what_differs_from_the_defaults_alone(run_tiny, tiny):
    (stored,) = run_tiny(
        "otam_frozen", controls=False, episodes=30, shot=2, frames=4, template="a {}, moving", method={"scale": 2.0}
    )
    command = command_of(stored.result, {"dataset": str(tiny)})
    assert command.problem == ""
    settings = dict(pair.split("=", 1) for pair in command.pairs)
    assert settings == {
        "methods": "otam_frozen", "dataset": str(tiny), "method.scale": "2.0", "episodes": "30", "shot": "2", "frames": "4",
        "template": "a {}, moving", "backbone": "tiny_clip",
    }  # fmt: skip
    assert "'template=a {}, moving'" in str(command)  # quoted for a shell
    assert command_of(stored.result, {}).problem.startswith("This machine lacks something: Unknown dataset 'tiny'.")
    table = json.loads(tiny.with_suffix(".json").read_text())
    tiny.with_suffix(".json").write_text(json.dumps(table, indent=2))
    problem = command_of(stored.result, {"dataset": str(tiny)}).problem
    assert problem.startswith("On this machine it is another cell (")
    assert problem.endswith("the annotation has another content.")


def test_it_shows_the_whole_record_and_where_the_training_is(run_tiny, fsar, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (stored,) = run_tiny("otam", controls=False, episodes=30)
    result = stored.result
    code, out, err = fsar("show", "otam", f"dataset={tiny}")
    assert (code, err) == (0, "")
    lines = {line[:11].strip(): line[11:].strip() for line in out.splitlines() if line[:1].strip()}
    assert out.splitlines()[0] == result.cell.label.row == "OTAM"
    assert out.splitlines()[1] == f"fsar-bench run methods=otam dataset={tiny} episodes=30 backbone=tiny_clip"
    assert "It resolves to the same cell on this machine." in out
    assert lines["hash"] == result.config_hash
    assert lines["accuracy"] == f"{result.metrics.accuracy:.2f} %"
    assert lines["± episodes"].startswith(f"{result.metrics.interval95:.2f} ")
    assert lines["parameters"] == f"{result.parameters.trainable:,} trained of {result.parameters.total:,}"
    assert result.backbone.weights[:16] in lines["weights"]
    assert result.data.fingerprint[:16] in lines["list"]
    assert result.frames.reader in lines["frames"]
    assert "8 episodes, 5-way 1-shot" in out
    assert f"otam-training-{result.training_key[:8]}: best.safetensors, " in out
    assert "torch" in lines["packages"]
    code, out, _ = fsar("show", str(stored.folder / "result.json"), "work_dir=elsewhere")
    assert code == 0
    assert "not on this machine (elsewhere/tiny/otam-training-" in out


def test_a_result_is_found_by_all_its_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    folder = store(tmp_path, "one", predictions(PLAN, 0.9, 0), PLAN, title="First")
    for seed in (1, 2):
        store(tmp_path, "two", predictions(PLAN, 0.7, seed), PLAN, title=f"Second {seed}", config={"x": seed})
    for name in ("one", "First", folder.name, folder.name.removeprefix("one-"), str(folder), f"{folder}/result.json"):
        assert show_command(name, [f"out={tmp_path}"]) == 0
        assert capsys.readouterr().out.startswith("First\n")
    monkeypatch.chdir(folder)
    assert show_command(".", []) == 0
    assert show_command("one", [f"out={tmp_path}", "dataset=toy", "shot=1"]) == 0
    with pytest.raises(ConfigError, match=r"'two' names 2 results: .*Name one by its hash or folder"):
        show_command("two", [f"out={tmp_path}"])
    with pytest.raises(ConfigError, match=r"No result in .* is called 'on'\. Did you mean 'one'"):
        show_command("on", [f"out={tmp_path}"])
    with pytest.raises(ConfigError, match=r"No result in .* is called 'one'"):
        show_command("one", [f"out={tmp_path}", "shot=5"])
    with pytest.raises(ConfigError, match=r"There is no result 'one': .* leaderboards has no results/ folder"):
        show_command("one", [])
    with pytest.raises(ConfigError, match=r"Unknown key 'datset'\. Did you mean 'dataset'"):
        show_command("one", ["datset=toy"])


def test_submitted_predictions_have_no_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    folder = store(tmp_path, "theirs", predictions(PLAN, 0.9, 0), PLAN, submitted=True)
    (tmp_path / "plans").rename(tmp_path / "elsewhere")
    assert show_command(str(folder), []) == 0
    out = capsys.readouterr().out
    assert "none: the predictions were submitted" in out
    assert "fsar-bench run" not in out
    assert "± clips      unknown: The episode plan" in out


@pytest.mark.parametrize(("name", "shown"), [("zero_shot", True), ("one", False)])
def test_a_method_that_ignores_the_supports_is_told(tmp_path, capsys, monkeypatch, name, shown):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    assert show_command(str(store(tmp_path, name, predictions(PLAN, 0.9, 0), PLAN)), []) == 0
    assert ("ignores the supports" in capsys.readouterr().out) is shown


def test_it_imports_nothing_heavy(tmp_path, monkeypatch):
    folder = store(tmp_path, "one", predictions(PLAN, 0.9, 0), PLAN)
    code = (
        f"import sys; sys.argv = ['fsar-bench', 'show', {str(folder)!r}]\n"
        "from fsar_bench.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'open_clip', 'mmaction', 'decord', 'av', 'torchvision', 'timm'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "HEAVY [] 0" in done.stdout, done.stdout + done.stderr
