"""The Python API: light to import, complete, and as the README shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fsar_bench
from fsar_bench.errors import ConfigError
from fsar_bench.methods.metric import MetricMethod

README = Path(__file__).parents[1] / "README.md"


def test_importing_it_imports_no_torch():
    code = (
        "import sys, fsar_bench; fsar_bench.run; fsar_bench.episodes; fsar_bench.Results; fsar_bench.Cell\n"
        "print(sorted({'torch', 'mmengine', 'open_clip', 'mmaction'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_is_the_table_of_contents():
    for name in fsar_bench.__all__:
        assert getattr(fsar_bench, name).__doc__, name
    assert set(fsar_bench.__all__) <= set(dir(fsar_bench))
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        fsar_bench.runn  # noqa: B018


def test_results_of_a_sweep_as_a_frame(run_tiny):
    results = run_tiny(["zero_shot", "prototype_frozen"], shot=[1, 2], controls=False)
    frame = results.to_frame()
    assert len(frame) == 4
    assert set(frame.shot) == {1, 2}
    assert frame.accuracy.between(0, 100).all()
    assert len(results.where(shot=1)) == 2


def test_mistakes_are_named_before_anything_runs(run_tiny, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'episodes'"):
        run_tiny("zero_shot", episode=5)
    with pytest.raises(ConfigError, match="shot='one' must be a whole number"):
        run_tiny("zero_shot", shot="one")
    assert not list(tmp_path.rglob("result.json"))


class Careless(MetricMethod):
    """Forgets all supports but the first."""

    def score(self, support, query, class_text):
        return super().score(support[:, :, :1], query, class_text)


def test_check_takes_classes_and_names():
    assert fsar_bench.check("prototype_frozen").broken == []
    outcomes = fsar_bench.check(Careless, matcher={"type": "BiMHM"})
    assert [outcome.name for outcome in outcomes.broken] == ["order of shots changes nothing"]
    assert "broken" in str(outcomes)
    assert "<table>" in outcomes._repr_html_()
    with pytest.raises(ConfigError, match=r"Careless cannot be built: .*matcher"):
        fsar_bench.check(Careless)


@pytest.mark.long
@pytest.mark.skipif(not README.exists(), reason="the README is not here (tests run from an installed wheel)")
def test_the_python_examples_of_the_readme_run(tmp_path, monkeypatch, capsys):
    """Every block of Python in the README's section on notebooks, one after the other, in an empty folder."""
    section = README.read_text().split("## In Python")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "leaderboards" / "README.md").exists()
