"""The command line: quick, light, clear about mistakes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers import with_slow_ones

from fsar_bench.config.cards import card, unspecified
from fsar_bench.config.files import names
from fsar_bench.config.settings import Choices, RunOptions
from fsar_bench.engine.contract import cells_to_check, make_tester

HEAVY = "{'torch', 'open_clip', 'mmaction', 'decord', 'av', 'torchvision', 'timm'}"


def python(code: str, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["leaderboard"], ["list"], ["list", "methods", "--verbose"], ["--version"]],
)
def test_light_verbs_import_nothing_heavy(tmp_path, arguments):
    (tmp_path / "leaderboards" / "results").mkdir(parents=True)
    code = (
        f"import sys; sys.argv = ['fsar-bench', *{arguments!r}]\n"
        "from fsar_bench.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        f"print('HEAVY', sorted({HEAVY} & set(sys.modules)), code)"
    )
    out = python(code, tmp_path)
    assert "HEAVY [] 0" in out.stdout, out.stdout + out.stderr


def test_help_shows_an_example_and_every_key_with_its_default(fsar, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fsar("run", "--help")
    assert code == 0
    assert "fsar-bench run methods=ma_clip,clip_fsar" in out
    for model in (Choices, RunOptions):
        for name, field in model.model_fields.items():
            assert f"{name}=" in out
            assert field.description.split()[0] in out
    assert "way=5: classes per episode (N)" in out
    assert "decode_timeout=60.0: " in out


def test_list_describes_everything(fsar):
    code, out, _ = fsar("list")
    assert code == 0
    for name in ("ma_clip", "clip_fsar", "otam_frozen", "synthact_order", "vit_b_16", "BiMHM", "standard"):
        assert name in out
    assert "(synthetic" in fsar("list", "datasets")[1]


def test_list_methods_shows_certainty_and_systems_without_a_specification(fsar, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    out = fsar("list", "methods")[1]
    methods, others = out.split("no public specification")
    lines = {line.split()[0]: line for line in methods.splitlines()[1:] if line.strip()}
    assert set(lines) == set(names("methods"))
    for name, line in lines.items():
        assert re.match(rf"{name} +{card(name).certainty} +\S", line), line
    systems = unspecified()
    assert {"GgHM", "HCL", "ITANet (alignment)", "MTFAN", "MVP-Shot"} == {system.title for system in systems}
    for system in systems:
        line = next(line for line in others.splitlines() if line.startswith(system.title))
        assert system.paper in line
        assert f"Missing: {system.missing}." in line
    assert systems[0].known in fsar("list", "methods", "--verbose")[1].split("no public specification")[1]
    assert "no public specification" not in fsar("list", "datasets")[1]


def test_every_method_says_how_certain_its_specification_is():
    for name in names("methods"):
        assert card(name).certainty in ("code run", "code read", "declared"), name


def test_list_keys_shows_the_values_of_a_method(fsar, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = fsar("list", "keys", "ma_clip")
    line = next(line for line in out.splitlines() if line.startswith("method.alpha "))
    assert line.split()[1:3] == ["number", "0.5"]
    assert "weight of the text terms" in line
    line = next(line for line in out.splitlines() if line.startswith("train.episodes "))
    assert line.split()[1:5] == ["whole", "number", "20000", "training"]
    assert "train." not in fsar("list", "keys", "zero_shot")[1]
    assert "Unknown method 'ma_clop'" in fsar("list", "keys", "ma_clop")[2]


def test_cards_say_what_is_followed_and_what_is_not():
    for name in names("methods"):
        one = card(name)
        assert one.title
        assert one.paper
        assert one.fields.get("Followed"), f"the card of {name} does not say what it follows"
    clip_fsar = card("clip_fsar")
    assert clip_fsar.source.name == "clip_fsar.py"
    assert "the checkpoint is chosen on test" in clip_fsar.fields["Official recipe"]
    assert "Unknown" not in clip_fsar.fields["Differs"]
    assert card("otam").source.name == "metric.py"


def test_verbose_list_shows_cards_and_headers(fsar, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    methods = fsar("list", "methods", "--verbose")[1]
    assert "Followed: the official code (tobyperrett/trx)" in methods
    assert "Certainty: code run" in methods
    assert "class STRM in methods/strm.py" in methods
    assert "methods=ablations/table4" in fsar("list", "ablations", "--verbose")[1]


SOUND = """
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.registry import METHODS

@METHODS.register_module()
class Mine(MetricMethod):
    pass
"""
UNSOUND = SOUND.replace(
    "    pass",
    "    def score(self, support, query, class_text):\n        return super().score(support[:, :, :1], query, class_text)",
)


@pytest.mark.parametrize(("code", "returncode"), [(SOUND, 0), (UNSOUND, 1)])
def test_check_tests_a_custom_method(command, code, returncode):
    """In a process of its own: both versions have the same module name."""
    (command.folder / "mine_code.py").write_text(code)
    (command.folder / "mine.py").write_text(
        'custom_imports = ["mine_code"]\nmethod = dict(type="Mine", matcher=dict(type="OTAM"), tune="none", scale=1.0)\n'
    )
    done = command("check", "./mine.py", "method.scale=2", COLUMNS="200")
    assert done.returncode == returncode, done.stdout + done.stderr
    assert ("✗ order of shots changes nothing: " in done.stdout) == bool(returncode)
    assert "✓ evaluation is deterministic" in done.stdout


def broken(name: str, *settings: str) -> list[tuple[str, str]]:
    """Properties that do not hold, with what was seen."""
    outcomes = [o for cell in cells_to_check(name, list(settings)) for o in make_tester(cell).run()]
    assert len(outcomes) % 24 == 0
    return [(o.name, o.reason) for o in outcomes if o.state == "broken"]


@pytest.mark.parametrize("name", with_slow_ones(names("methods")))
def test_builtin_methods_keep_the_contract(name):
    assert broken(name) == []


@pytest.mark.parametrize(
    "matcher", ["OTAM", "BiMHM", "TRX", "CosinePrototype", "MeanCosine", "EuclideanPrototype", "MatchingNetwork"]
)
@pytest.mark.parametrize("name", ["ma_clip", pytest.param("clip_fsar", marks=pytest.mark.slow)])
def test_every_matcher_serves_inside_the_clip_methods(name, matcher):
    assert broken(name, f"matcher={matcher}") == []


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("clip_fsar", "method.mode=ensemble"),
        ("clip_fsar", "method.mode=text"),
        ("clip_fsar", "method.merge_before=true"),
        ("ma_clip", "method.prototype=multimodal_transformer"),
        ("ma_clip", "method.temporal=false"),
        ("ma_clip", "method.support_branch=spatiotemporal"),
        ("ma_clip", "method.text_features=after method.s2t_classes=train"),
        ("ma_clip", "matcher=TRX method.matcher.cardinalities=[2]"),
        ("ma_clip", "method.multimodal=false method.temporal=false method.joint=false method.predict_alpha=1"),
        ("ablations/table3", ""),
        ("tip_adapter", "method.alpha=0"),
        ("tip_adapter", "method.weights=val"),
        ("molo", "matcher=OTAM"),
        ("trx", "method.matcher.cardinalities=[1],[2],[4]"),
        ("strm", "method.second_head=fixed"),
        ("protonet", "matcher=MeanCosine"),
        pytest.param("otam", "backbone=tiny_resnet frames=2", marks=pytest.mark.slow),
        pytest.param("hyrsm", "backbone=tiny_resnet frames=2", marks=pytest.mark.slow),
        pytest.param("strm", "backbone=tiny_resnet frames=2", marks=pytest.mark.slow),
    ],
)
def test_variants_keep_the_contract(name, setting):
    assert broken(name, *setting.split()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "methods=ma_clop"], "Did you mean 'ma_clip'"),
        (["run", "methods=ma_clip", "dataset=synthakt"], "Did you mean 'synthact'"),
        (["run", "methods=ma_clip", "backbone=vit_b_17"], "Did you mean 'vit_b_16'"),
        (["run", "methods=ma_clip", "datset=synthact"], "Did you mean 'dataset'"),
        (["run", "methods=ma_clip", "method.alhpa=0.5"], "Did you mean 'method.alpha'"),
        (["run", "methods=ma_clip", "shot=one"], "shot='one' must be a whole number"),
        (["run", "methods=ma_clip", "method.alpha=half"], "method.alpha='half' must be a number"),
        (["run", "methods=ma_clip", "overwrite=1"], "must be true or false"),
        (["run", "methods=ma_clip", "method.matcher=OTAM"], "method.matcher.smoothing"),
        (["run", "methods=ma_clip", "way=1"], "way=1 is too small"),
        (["run", "methods=ma_clip", "episodes=0"], "episodes=0 is too small"),
        (["run", "methods=zero_shot", "matcher=OTAM"], "none of these methods has a matcher (zero_shot)"),
        (["run", "methods=./nothing.py"], "nothing.py does not exist"),
        (["run", "methods="], "Which methods?"),
        (["run", "ma_clip"], "form key=value"),
        (["run", "methods=ma_clip", "methods=otam"], "given twice"),
        (["run", "methods=otam", "out=file/below"], "cannot be written"),
        (["list", "metods"], "Did you mean 'methods'"),
        (["check"], "Which methods?"),
        (["check", "otam", "shot=1,x"], "shot='x' must be a whole number"),
        (["leaderboard", "out=nowhere"], "has no results/ folder"),
        (["leaderboard", "dataset=x"], "Unknown key 'dataset'"),
    ],
)
def test_mistakes_get_one_clear_line(fsar, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    code, out, err = fsar(*arguments)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err + out


def test_a_mistake_ends_the_process_with_exit_code_1(command):
    done = command("run", "methods=ma_clop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Unknown method 'ma_clop'. Did you mean 'ma_clip'")


def test_ctrl_c_before_a_verb_begins_is_no_traceback(fsar, monkeypatch):
    def interrupted(**_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fsar_bench.cli.main.app", interrupted)
    code, _, err = fsar("run", "methods=otam")
    assert (code, err.strip()) == (130, "Interrupted.")
