"""The README's components of one's own: each section's files are written as they stand, and its commands are run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import annotation_rows

README = Path(__file__).parents[2] / "README.md"
PLACE = "## Your own method, matcher, backbone or dataset"
LINES = {  # the commands of each section, and what they end in
    "A method": ["fsar-bench run methods=./my_method.py method.share=0.3,0.7"],
    "A matcher": [
        "fsar-bench check --matcher ./my_matcher.py",
        "fsar-bench run methods=otam_frozen,bi_mhm_frozen imports=./my_matcher.py matcher=MiddleFrame",
    ],
    "A backbone": [
        "fsar-bench check --backbone ./my_backbone.py",
        "fsar-bench run methods=otam_frozen backbone=./my_backbone.py",
    ],
    "A dataset": [
        "fsar-bench data prepare --name gestures --root ./clips",
        "fsar-bench run methods=otam_frozen dataset=gestures way=3 backbone=synthact_clip",
    ],
}


def sections() -> dict[str, str]:
    text = README.read_text(encoding="utf-8").split(PLACE)[1].split("\n## ")[0]
    titles, bodies = re.findall(r"^### (.*)$", text, re.M), re.split(r"^### .*$", text, flags=re.M)[1:]
    return dict(zip(titles, bodies, strict=True))


def copy_clips(folder: Path) -> None:
    """Shipped clips as a user's folders: 3 classes per split with 4 clips each."""
    table = annotation_rows(classes_per_split=3, clips=4)
    split_of = {row["name"]: row["split"] for row in table["classes"]}
    for row in table["clips"]:
        place = folder / split_of[row["class"]] / row["class"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["path"], place)


@pytest.mark.long
@pytest.mark.skipif(not README.exists(), reason="the README is not here (tests run from an installed wheel)")
@pytest.mark.parametrize("title", LINES)
def test_what_the_readme_says_of_own_components_runs_as_it_stands(command, fsar, tiny, title, monkeypatch):
    body = sections()[title]
    for name, text in re.findall(r"`([\w.]+)`:\n+```python\n(.*?)```", body, re.S):
        (command.folder / name).write_text(text, encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", body, re.S) for line in block.splitlines()]
    assert lines == LINES[title]
    if title == "A dataset":
        monkeypatch.setenv("FSAR_BENCH_DATA", str(command.folder / "datasets"))
        copy_clips(command.folder / "clips")
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "run":
            arguments += ["episodes=200", "workers=1"]
            arguments += [] if "dataset=" in line else [f"dataset={tiny}"]
        done = (fsar if arguments[0] == "run" else command)(*arguments)  # cells of a run have processes of their own
        assert done.returncode == 0, done.stderr
    assert len({name.split("/")[-2] for name in command.outputs()}) >= line.count(",") + 1


@pytest.mark.skipif(not README.exists(), reason="the README is not here (tests run from an installed wheel)")
def test_every_section_of_own_components_is_run():
    assert list(sections()) == list(LINES)
