"""Shell completion: keys and values of `run`, as bash (which splits at "=") and zsh ask for them, fast and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsar_bench.cli.completion import pairs
from fsar_bench.config.files import names

CALL = (
    "import sys; sys.argv = ['fsar-bench']\n"
    "from fsar_bench.cli.main import main\n"
    "try: main()\nexcept SystemExit: pass\n"
    "heavy = {'torch', 'open_clip', 'mmaction', 'decord', 'av', 'torchvision', 'timm'} & set(sys.modules)\n"
    "print('HEAVY', sorted(heavy), file=sys.stderr)"
)


def bash(*words: str) -> list[str]:
    """What bash is offered for its words, the last one at the cursor."""
    environment = {
        "_FSAR_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", CALL], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stderr == "HEAVY []\n"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ch"], ["check"]),
        (["run", "methods", "=", "ma_clip,ot"], ["ma_clip,otam", "ma_clip,otam_frozen"]),
        (["run", "methods", "=", "ablations/table7"], ["ablations/table7", "ablations/table7_imagenet"]),
        (["run", "methods", "=", "al"], ["all", "all_pairs_frozen"]),
        (["run", "dataset", "=", "synthact_o"], ["synthact_order"]),
        (["run", "backbone", "=", "vit_b_1"], ["vit_b_16", "vit_b_16_imagenet"]),
        (["run", "matcher", "=", "Bi"], ["BiMHM"]),
        (["run", "reader", "=", "de"], ["decord"]),
        (["run", "protocol", "=", "st"], ["standard"]),
        (["run", "log", "=", "ten"], ["tensorboard"]),
        (["run", "overwr"], ["overwrite=true", "overwrite=false"]),
        (["run", "sho"], ["shot=1"]),
        (["run", "methods", "=", "ma_clip", "method.alp"], ["method.alpha=0.5"]),
        (["run", "methods", "=", "ma_clip", "methods"], []),
        (["run", "ma_clip.method.alp"], ["ma_clip.method.alpha=0.5"]),
        (["run", "train.ep"], ["train.episodes=1000"]),
        (["run", "zero_shot.train."], []),
        (["list", "key"], ["keys"]),
        (["list", "keys", "ma_clip_"], ["ma_clip_full"]),
        (["check", "hy"], ["hyrsm", "hyrsm_plusplus"]),
        (["check", "--matcher", "OT"], ["OTAM"]),
        (["check", "--backbone", "tiny_r"], ["tiny_resnet"]),
        (["show", "hyr"], ["hyrsm", "hyrsm_plusplus"]),
        (["data", "stats", "hmd"], ["hmdb51"]),
        (["cache", "clear", "feat"], ["features"]),
    ],
)
def test_bash_is_offered_names_keys_and_values(words, expected):
    assert sorted(bash("fsar-bench", *words)) == sorted(expected)


def test_right_after_the_sign_all_values_are_offered():
    offered = bash("fsar-bench", "run", "methods", "=")
    assert {*names("methods"), "all", "ablations/table3"} <= set(offered)
    keys = bash("fsar-bench", "run", "")
    assert {"methods=", "dataset=", "shot=", "device="} <= set(keys)


def test_other_shells_are_offered_whole_words_with_descriptions():
    assert [word for word, _ in pairs([], "dataset=synthact_s")] == ["dataset=synthact_scene"]
    ((word, text),) = pairs(["methods=ma_clip"], "method.alpha=")
    assert (word, text) == ("method.alpha=0.5", "default")
    assert "text" in dict(pairs(["methods=ma_clip"], "method.a"))["method.alpha="]
    assert "method.alpha=" in dict(pairs(["methods=ma_clip"], "method."))
    assert "method.alpha=" not in dict(pairs(["methods=otam"], "method."))
    assert pairs(["methods=no_such_method"], "method.") == []


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
def test_the_script_works_in_bash(tmp_path):
    """The script that --show-completion prints, evaluated by bash, with the words that bash makes of the line."""
    (tmp_path / "fsar-bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m fsar_bench.cli.main "$@"\n')
    (tmp_path / "fsar-bench").chmod(0o755)
    script = (
        'eval "$(_FSAR_BENCH_COMPLETE=source_bash fsar-bench)"\n'
        "COMP_WORDS=(fsar-bench run methods = ma_clip dataset = synthact_sc); COMP_CWORD=7\n"
        '_fsar_bench_completion fsar-bench; echo "<${COMPREPLY[*]}>"\n'
        "complete -p fsar-bench"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("<synthact_scene>\n")
    assert "_fsar_bench_completion" in done.stdout


def test_help_offers_to_install_it(fsar):
    assert "--install-completion" in fsar("--help")[1]
