"""No file that a user can hold, and nothing that can be typed, ends in an unforeseen error: one message names the file and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wrong import JSON_VALUES, PYTHON_VALUES, Tally, places, with_text, without

from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.importing.summary import split_sizes
from fsar_bench.plan import EpisodePlan

METHOD = {
    "title": "'M'", "paper": "''", "method": "dict(type='MetricMethod', matcher=dict(type='OTAM'))",
    "train": "dict(episodes=3)", "custom_imports": "[]",
}  # fmt: skip
DATASET = {
    "title": "'Mine'", "synthetic": "True", "dataset": "dict(name='mine', annotation='mine.json', groups=None)",
    "backbone": "'tiny_clip'", "protocol": "'standard'", "controls": "[]", "reader": "'pyav'", "whole_clips_up_to": "8",
    "overlaps": "{}", "train": "dict(episodes=3)", "methods": "dict(otam=dict(method={}, train=dict(episodes=3)))",
    "custom_imports": "[]",
}  # fmt: skip
BACKBONE = {
    "backbone": "dict(type='CLIPBackbone', model='ViT-B-16', pretrained='openai', quick_gelu=True)",
    "custom_imports": "[]",
}
PROTOCOL = {"protocol": "dict(way=2, template='a {}')", "custom_imports": "[]"}
ABLATION = {"rows": "['otam', 'otam train.episodes=3']"}
INNER = {  # fields of dictionaries in configs
    "dataset": ("name", "annotation", "groups"), "train": ("episodes", "optimizer", "scheduler", "hooks", "crop", "flip", "x"),
    "method": ("type", "matcher", "x"), "methods": ("otam", "x"), "overlaps": ("ucf101",), "protocol": ("way", "template", "x"),
    "backbone": ("type", "model", "pretrained", "quick_gelu", "x"),
}  # fmt: skip


def annotation() -> dict:
    clips = [
        {"id": f"{name}/{k}", "class": name, "path": f"{name}/{k}.mp4", "sha256": "0" * 64, "frames": None, "recording": f"r{k}"}
        for name in ("é", "b") for k in range(2)
    ]  # fmt: skip
    classes = [{"name": name, "text": name, "split": "test", "group": "g", "reverse_of": None} for name in ("é", "b")]
    return {"kind": "videos", "classes": classes, "clips": clips, "unlisted": {"test": 3}}


def opened(path: Path) -> None:
    """What a run does with an annotation before it opens a clip."""
    dataset = Dataset("mine", str(path))
    split_sizes(dataset)
    clips = dataset.split("test")
    EpisodePlan.sample(clips.list, way=2, shot=1, query=1, episodes=2, seed=0, purpose="test", missing=clips.missing)


def config(values: dict[str, str], more: str = "") -> str:
    return "".join(f"{key} = {value}\n" for key, value in values.items()) + more


def of_fields(values: dict[str, str], chosen: tuple[str, ...] = PYTHON_VALUES):
    """Configs with one field, or a field of a field, of each wrong value; and what the error must name."""
    for key in (*values, "unknown"):
        for wrong in chosen:
            yield key, wrong, config(values, f"{key} = {wrong}\n")
        for name in INNER.get(key, ()) if key in values else ():
            for wrong in chosen:
                yield f"{key}.{name}", wrong, config(values, f"{key}[{name!r}] = {wrong}\n")
        if key in values:
            yield key, "(left out)", config({k: v for k, v in values.items() if k != key})


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Sound configs of all kinds, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "mine.json").write_text(json.dumps(annotation()))
    for name, values in (("m", METHOD), ("d", DATASET), ("b", BACKBONE), ("p", PROTOCOL)):
        (tmp_path / f"{name}.py").write_text(config(values))
    return tmp_path


def ask(**changes: str):
    return resolve([f"{key}={value}" for key, value in {"methods": "otam", "dataset": "./d.py", **changes}.items()])


def test_annotations(files):
    tally, path, sound = Tally(), files / "mine.json", annotation()
    opened(path)
    for at in places(sound):
        for text in JSON_VALUES:
            path.write_text(with_text(sound, at, text))
            tally.judge(f"{at} = {text}", lambda: opened(path), "mine")
        if at:
            path.write_text(without(sound, at))
            tally.judge(f"{at} left out", lambda: opened(path), "mine")
    tally.check(least=400)


@pytest.mark.parametrize(
    ("name", "values", "settings"),
    [
        ("m", METHOD, {"methods": "./m.py"}),
        ("d", DATASET, {}),
        ("b", BACKBONE, {"backbone": "./b.py"}),
        ("p", PROTOCOL, {"protocol": "./p.py"}),
        ("a", ABLATION, {"methods": "./a.py"}),
    ],
)
def test_configs(files, name, values, settings):
    tally, path = Tally(), files / f"{name}.py"
    path.write_text(config(values))
    assert ask(**settings).cells
    for key, wrong, text in of_fields(values):
        path.write_text(text)
        tally.judge(f"{name}.py: {key} = {wrong}", lambda: [cell.hash for cell in ask(**settings).cells])
    tally.check(least=50)


TYPED = ("", " ", ",", "[", "[" * 100_000, "{" * 5000, '{"type": "AdamW", "lr": NaN}', '{"type": "AdamW", "lr": 1e400}', "nan", "inf",
    "-inf", "1e400", "-0", "9" * 400, "9" * 5000, "２", "²", "1_000", "0x10", "None", "true", "a" * 5000, "a\0b", "\udcff", "a\nb",
    "../x", "~nobody-of-this-name/x", "/dev/zero", "/dev/zero.py", "./x.py", ".py", "a.csv", "timm:", "timm:" + "a" * 5000, "hf-hub:", "é",
    "<b>", "=", "a=b", "/", ".", "-1", "1.5", "1e4")  # fmt: skip


def test_what_is_typed(files):
    from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, RunOptions, Train

    tally = Tally()
    keys = [
        *Choices.model_fields,
        *PROTOCOL_KEYS,
        *RunOptions.model_fields,
        *(f"train.{name}" for name in Train.model_fields),
    ]
    keys += [
        "method.alpha",
        "method.matcher.x",
        "train.optimizer.lr",
        "train.optimizer.x",
        "otam.title",
        "otam.train.seed",
        "x",
    ]
    for key in keys:
        for text in TYPED:
            tally.judge(f"{key}={text}", lambda: [cell.hash for cell in ask(**{key: text}).cells])
    tally.check(least=1000)
