"""`fsar-bench check`: faults of the user's code are named with their line, and one fault hides no other component."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import with_slow_ones

import fsar_bench
from fsar_bench.backbones.backbone import Backbone
from fsar_bench.config.files import names
from fsar_bench.engine.contract import cells_to_check, make_tester
from fsar_bench.errors import ConfigError
from fsar_bench.matching import BiMHM
from fsar_bench.method import Scores, Traits
from fsar_bench.methods.metric import MetricMethod

BLIND_UNTIL_TRAINED = {"arn", "task_adapter"}
COPIES = "a query equal to a support scores its class highest"


@pytest.mark.parametrize("name", with_slow_ones(names("methods")))
def test_an_inverted_copy_of_a_builtin_method_is_caught(name):
    (cell,) = cells_to_check(name, [])
    tester = make_tester(cell)
    build = tester.build

    def inverted():
        method = build()
        kind = type(method)

        def score(self, *arguments):
            scores = kind.score(self, *arguments)
            return Scores(-scores.total, scores.parts)

        method.__class__ = type("Inverted", (kind,), {"score": score})
        return method

    tester.build = inverted
    if tester.check(COPIES).state != "broken":  # an untrained network may be blind to copies
        assert make_tester(cell).check(COPIES).state == "skipped"
        assert name in BLIND_UNTIL_TRAINED


METHOD = """
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.registry import METHODS

@METHODS.register_module(force=True)
class {name}(MetricMethod):
    def __init__(self, backbone, matcher, scale, tune):
        super().__init__(backbone, matcher=matcher, scale=scale, tune=tune)
        {line}
"""
CONFIG = 'custom_imports = ["{name}_code"]\nmethod = dict(type="{name}", matcher=dict(type="OTAM"), tune="none", scale=1.0)\n'


def write_method(folder: Path, name: str, line: str) -> Path:
    (folder / f"{name}_code.py").write_text(METHOD.format(name=name, line=line))
    (folder / f"{name}.py").write_text(CONFIG.format(name=name))
    return folder / f"{name}.py"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise RuntimeError('no such layer')", "RuntimeError: no such layer"),
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("[][3]", "IndexError: list index out of range"),
        ("self.layer = 3 + 'x'", "TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_any_exception_of_a_constructor_is_one_line_and_the_rest_is_checked(fsar, tmp_path, line, message, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = write_method(tmp_path, "Fails" + "".join(filter(str.isalpha, line))[:12], line)
    code, out, err = fsar("check", str(path), "prototype_frozen")
    assert (code, err) == (1, "")
    first, second = out.splitlines()
    assert first == f"✗ {path.stem} cannot be built: {message} ({path.stem}_code.py:9)"
    assert second.startswith("✓ prototype_frozen: ")


def test_backbones_and_matchers_are_checked_by_name_and_path(fsar, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fsar("check", "--backbone", "tiny_clip", "frames=2")
    assert code == 0
    assert "✓ tiny_clip frames=2: " in out
    assert "  ✓ texts have the width of frames" in out
    assert "✓ OTAM smoothing=0.5: " in fsar("check", "--matcher", "OTAM", "smoothing=0.5")[1]
    (tmp_path / "my_matchers.py").write_text(
        "from fsar_bench.matching import BiMHM\nfrom fsar_bench.registry import MATCHERS\n\n"
        "@MATCHERS.register_module(force=True)\nclass Sound(BiMHM):\n    pass\n\n"
        "@MATCHERS.register_module(force=True)\nclass Upside(BiMHM):\n"
        "    def forward(self, query, support):\n        return -super().forward(query, support)\n"
    )
    code, out, _ = fsar("check", "--matcher", "./my_matchers.py")
    assert code == 1
    assert "✓ Sound: " in out
    assert "✗ Upside: " in out
    assert "  ✗ a query equal to a support is nearest to its class: only 0 %" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--matcher"], "Which matchers? Say fsar-bench check --matcher NAME…"),
        (["--backbone"], "Which backbones? Say fsar-bench check --backbone NAME…"),
        (["--matcher", "OTEM"], "Unknown matcher 'OTEM'. Did you mean 'OTAM'"),
        (["--matcher", "OTAM", "smoothin=1"], "OTAM has no argument 'smoothin'. Did you mean 'smoothing'"),
        (["--matcher", "./nothing.py"], "nothing.py does not exist"),
        (["--matcher", "./empty.py"], "registers no matcher"),
        (["--backbone", "tiny_clop"], "Did you mean 'tiny_clip'"),
        (["--backbone", "tiny_clip", "crob=3"], "Did you mean 'crop'"),
        (["--backbone", "--matcher", "OTAM"], "exclude each other"),
    ],
)
def test_mistakes_get_one_clear_line(fsar, tmp_path, arguments, message):
    (tmp_path / "empty.py").write_text("")
    code, out, err = fsar("check", *arguments)
    assert (code, out) == (1, "")
    assert message in err


class Fails(MetricMethod):
    """Cannot be built."""

    def __init__(self, backbone, value=0):
        raise ValueError(f"value={value}")


class Traitless(MetricMethod):
    """Forgets what it declares."""

    def __init__(self, backbone):
        super().__init__(backbone, matcher={"type": "OTAM"})
        self.traits = None


class Far(BiMHM):
    """Inverted."""

    def forward(self, query, support):
        """Compute what is not a distance."""
        return -super().forward(query, support)


class Unfinished(Backbone):
    """Abstract."""


def test_classes_are_checked_by_their_kind():
    assert [o.name for o in fsar_bench.check(Far).broken] == ["a query equal to a support is nearest to its class"]
    assert fsar_bench.check(BiMHM, epsilon=0.01).broken == []
    with pytest.raises(ConfigError, match=r"Fails cannot be built: ValueError: value=3 \(test_check.py:\d+\)"):
        fsar_bench.check(Fails, value=3)
    with pytest.raises(ConfigError, match=r"Unfinished cannot be built: TypeError: .*abstract"):
        fsar_bench.check(Unfinished)
    with pytest.raises(ConfigError, match=r"Traitless declares no traits\. Give it traits = Traits"):
        fsar_bench.check(Traitless)
    with pytest.raises(ConfigError, match="Traits is none of FewShotMethod, Backbone and Matcher"):
        fsar_bench.check(Traits)
