"""Nothing that a user can hold or type ends in an unforeseen error: one message names the file, the field and the fix."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from wrong import JSON_VALUES, PYTHON_VALUES, Tally, altered, places, with_text, without

import fsar_bench
from fsar_bench.config.resolve import Run, resolve
from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, RunOptions, Train
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.importing.classes import table
from fsar_bench.data.importing.lists import read_lists, stored_list
from fsar_bench.data.importing.prepare import prepare_custom
from fsar_bench.data.importing.summary import split_sizes
from fsar_bench.errors import ConfigError, DataError, FsarBenchError
from fsar_bench.leaderboard.files import generated_files
from fsar_bench.leaderboard.published import read_published, shipped
from fsar_bench.plan import EpisodePlan
from fsar_bench.registry import import_components

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
        for name in ("é", "b") for k in range(3)
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


def of_fields(values: dict[str, str]) -> list[tuple[str, str, str]]:
    """Configs with one field, or a field of a field, of each wrong value: the field, the value, and the config."""
    out = [
        (key, wrong, config(values, f"{key} = {wrong}\n")) for key in (*values, "unknown") for wrong in PYTHON_VALUES
    ]
    out += [(key, "(left out)", config({k: v for k, v in values.items() if k != key})) for key in values]
    inner = [(key, name) for key in values for name in INNER.get(key, ())]
    out += [(f"{k}.{n}", w, config(values, f"{k}[{n!r}] = {w}\n")) for k, n in inner for w in PYTHON_VALUES]
    return out


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Sound configs of all kinds, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "mine.json").write_text(json.dumps(annotation()))
    for name, values in (("m", METHOD), ("d", DATASET), ("b", BACKBONE), ("p", PROTOCOL)):
        (tmp_path / f"{name}.py").write_text(config(values))
    return tmp_path


def hashes(run: Run) -> list[str]:
    return [cell.hash for cell in run.cells]


def ask(**changes: str) -> Run:
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


KINDS = {
    "m": (METHOD, {"methods": "./m.py"}),
    "d": (DATASET, {}),
    "b": (BACKBONE, {"backbone": "./b.py"}),
    "p": (PROTOCOL, {"protocol": "./p.py"}),
    "a": (ABLATION, {"methods": "./a.py"}),
}


REFUSED = (
    "print",
    "{'x'}",
    "1j",
    "float('nan')",
    "10**400",
    "{1: 2}",
)  # which no setting may be, so that the file is named


def try_configs(files: Path, most: int | None) -> None:
    for name, (values, settings) in KINDS.items():
        tally, path = Tally(), files / f"{name}.py"
        path.write_text(config(values))
        assert ask(**settings).cells
        tried = of_fields(values)
        for key, wrong, text in tried if most is None else random.Random(0).sample(tried, min(most, len(tried))):
            path.write_text(text)
            tally.judge(
                f"{name}.py: {key} = {wrong}",
                lambda s=settings: hashes(ask(**s)),
                f"{name}.py" if wrong in REFUSED else "",
            )
        path.write_text(config(values))
        tally.check(least=30)


def test_fields_of_configs(files):
    try_configs(files, 30)


@pytest.mark.slow
def test_all_fields_of_configs(files):
    try_configs(files, None)


@pytest.mark.slow
def test_altered_configs(files):
    tally = Tally()
    for name, (values, settings) in KINDS.items():
        path = files / f"{name}.py"
        for data in altered(config(values).encode(), random.Random(0), 400):
            path.write_bytes(data)
            tally.judge(f"{name}.py {data!r}", lambda s=settings: hashes(ask(**s)))
        path.write_text(config(values))
    tally.check(least=2000)


PROGRAMS = {
    "x = 1 / 0": "ZeroDivisionError: division by zero (m.py, line 6: x = 1 / 0)",
    "import sys\nsys.exit(3)": "SystemExit: 3 (m.py, line 7: sys.exit(3))",
    "def f():\n    return f()\nx = f()": "RecursionError: maximum recursion depth exceeded (m.py, line 7: return f())",
    "x = [": "SyntaxError: '[' was never closed (m.py, line 6: x = [)",
    "raise BaseException": "BaseException (m.py, line 6: raise BaseException)",
    "x = " + "-" * 100_000 + "1": "",
    "x = " + "(" * 100_000: "",
    "from no_such_module import x": "",
    "import no_such_module": "",
    "_base_ = 'no_such.py'": "",
    "x = '{{ fileNone }}'": "",
    "with open('x') as f: pass": "",
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text[:20])
def test_a_config_is_a_program_whose_errors_name_its_line(files, program):
    (files / "m.py").write_text(config(METHOD) + program)
    with pytest.raises(ConfigError) as told:
        ask(methods="./m.py")
    assert PROGRAMS[program] in str(told.value)
    assert str(files / "m.py") in str(told.value)


def test_ctrl_c_in_a_config_is_ctrl_c(files):
    (files / "m.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        ask(methods="./m.py")


@pytest.mark.parametrize(("code", "says"), [
    ("import sys; sys.exit(0)", "SystemExit: 0 (own_broken.py, line 1"), ("x = [", "SyntaxError"), ("1 / 0", "line 1: 1 / 0"),
    (b"x = '\xff'", "SyntaxError"), (b"\0", "null"), ("from fsar_bench import no_such_name", "no_such_name"),
    ("def f(): f()\nf()", "RecursionError"), ("x = " + "-" * 100_000 + "1", "own_broken"),
])  # fmt: skip
def test_a_module_that_cannot_be_imported_is_named_with_its_line(files, code, says):
    path = files / "own_broken.py"
    path.write_bytes(code if isinstance(code, bytes) else code.encode())
    (files / "m.py").write_text(config({**METHOD, "custom_imports": "['own_broken']"}))
    (cell,) = ask(methods="./m.py", controls="false").cells
    with pytest.raises(ConfigError, match="own_broken") as told:
        import_components(cell.identity.custom_imports, cell.setup.module_folders)
    assert says in str(told.value)


ODD = ("a folder", "a pipe", "a device", "a loop", "too large", "no UTF-8", "a null character")


def make_odd(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a loop":
        path.symlink_to(path)
    elif kind == "too large":
        with path.open("wb") as file:
            file.truncate(2**33)
    else:
        path.write_bytes(b"\xff\xfe" if kind == "no UTF-8" else b"\0" * 9)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "name", ["mine.json", "m.py", "l.csv", "own.csv", "README.md", "list.json", "quarantine.json", "published.csv"]
)
def test_odd_files_are_named_and_neither_waited_for_nor_read_without_end(files, monkeypatch, name, kind):
    for read in (fsar_bench.io.read_bytes, fsar_bench.io.read_text):
        monkeypatch.setattr(read, "__defaults__", (2**20,))  # 2**28 take a while
    path = files / name
    if name in ("list.json", "quarantine.json"):
        path = files / "data" / "kinetics100@cmn" / name
        path.parent.mkdir(parents=True)
        (path.parent / "annotation.json").write_text(json.dumps(annotation()))
    make_odd(path, kind)
    call = {
        "mine.json": lambda: opened(path),
        "m.py": lambda: ask(methods="./m.py"),
        "l.csv": lambda: read_lists("kinetics100", path),
        "own.csv": lambda: prepare_custom("own", path),
        "README.md": lambda: generated_files(files, []),
        "list.json": lambda: stored_list("kinetics100@cmn"),
        "quarantine.json": lambda: Dataset("x", "prepared:kinetics100@cmn"),
        "published.csv": lambda: read_published(files),
    }[name]
    if (name, kind) in TAKEN:
        call()
        return
    with pytest.raises(FsarBenchError) as told:
        call()
    assert name in str(told.value)


TAKEN = {("README.md", "a null character")}  # hand-written text is kept as it is


TYPED = (
    "", " ", ",", "[", "[" * 100_000, "{" * 5000, '{"type": "AdamW", "lr": NaN}', '{"type": "AdamW", "lr": 1e400}',
    "nan", "inf", "-inf", "1e400", "-0", "9" * 400, "9" * 5000, "２", "²", "1_000", "0x10", "None", "true",
    "a" * 5000, "a\0b", "\udcff", "a\nb", "../x", "~nobody-of-this-name/x", "/dev/zero", "/dev/zero.py", "./x.py",
    ".py", "a.csv", "timm:", "timm:" + "a" * 5000, "hf-hub:", "é", "<b>", "=", "a=b", "/", ".", "-1", "1.5", "1e4",
)  # fmt: skip


def try_typed(most: int | None) -> None:
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
    tried = [{key: text} for key in keys for text in TYPED]
    for typed in tried if most is None else random.Random(0).sample(tried, most):
        tally.judge(f"{typed}", lambda s=typed: hashes(ask(**s)))
    tally.check(least=most or 2000)


def test_what_is_typed(files):
    try_typed(150)


@pytest.mark.slow
def test_all_that_is_typed(files):
    try_typed(None)


@pytest.mark.slow
def test_altered_annotations(files):
    tally, path = Tally(), files / "mine.json"
    for indent in (None, 1):
        for data in altered(
            json.dumps(annotation(), indent=indent, ensure_ascii=False).encode(), random.Random(0), 3000
        ):
            path.write_bytes(data)
            tally.judge(f"{data[:300]!r}", lambda: opened(path))
    tally.check(least=6000)


def try_files(files: Path, count: int) -> None:
    """CSVs of clips, published lists, stored lists and published figures that are cut and altered."""
    rng = random.Random(0)
    (files / "c.mp4").write_bytes(b"x")
    stored, name = files / "data" / "kinetics100@cmn" / "list.json", table("kinetics100").classes[0].name
    stored.parent.mkdir(parents=True)
    whole = {"lineage": "cmn", "rows": {"train": [[name, "v"]], "test": [[name, "w"]]}}
    sound = {
        files / "own.csv": (
            b"path,class,split,text,recording\nc.mp4,\xc3\xa9,test,a,r\n",
            lambda p: prepare_custom("own", p),
        ),
        files / "train_l.csv": (f"label,youtube_id\n{name},v\n".encode(), lambda p: read_lists("kinetics100", p)),
        files / "train_l.txt": (f"train0//{name}/v.mp4\n{name}/w\n".encode(), lambda p: read_lists("kinetics100", p)),
        files / "published.csv": (
            b"".join(shipped().read_bytes().splitlines(True)[:3]),
            lambda p: read_published(files),
        ),
        stored: (json.dumps(whole).encode(), lambda p: stored_list("kinetics100@cmn")),
    }
    for path, (data, call) in sound.items():
        path.write_bytes(data)
        call(path)
        tally = Tally()
        for other in altered(data, rng, count):
            path.write_bytes(other)
            tally.judge(f"{path.name} {other[:300]!r}", lambda p=path, c=call: c(p))
        tally.check(least=count)
    tally = Tally()
    for at in places(whole):
        for text in JSON_VALUES:
            stored.write_text(with_text(whole, at, text))
            tally.judge(f"list.json: {at} = {text}", lambda: stored_list("kinetics100@cmn"), "list.json")
    tally.check(least=200)


def test_altered_lists_and_tables(files):
    try_files(files, 60)


@pytest.mark.slow
def test_many_altered_lists_and_tables(files):
    try_files(files, 3000)


@pytest.mark.parametrize(
    "line", ["train" + "9" * 5000 + "/v", "²/v", "9" * 5000 + "/v", "label,youtube_id\n" + "a" * 200_000 + ",v"]
)
def test_odd_lines_of_published_lists(files, line):
    (files / "train_x.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"train_x\.txt"):
        read_lists("kinetics100", files / "train_x.txt")


def test_python_values(files):
    """Keyword arguments of the Python API: values of every type."""
    tally = Tally()
    names = {"__builtins__": __builtins__}
    for wrong in random.Random(0).sample(PYTHON_VALUES, 25):
        value = eval(wrong, names)
        for key in ("methods", "shot", "out", "train", "method", "log", "template"):
            given = {"methods": "otam", "dataset": "./d.py", key: value}
            tally.judge(f"{key} = {wrong}", lambda g=given: hashes(resolve(g)))
        tally.judge(f"run({wrong})", lambda v=value: fsar_bench.run(v, dataset="./no_such_dataset.py", progress=False))
        tally.judge(f"episodes({wrong})", lambda v=value: fsar_bench.episodes("synthact", way=v, episodes=1))
        tally.judge(
            f"submit({wrong})", lambda v=value: fsar_bench.score_predictions(v, [[0]], name="x", out=files / "o")
        )
    tally.check(least=200)


@pytest.mark.slow
def test_wrong_submissions(files):
    plan, tally = fsar_bench.episodes("synthact", way=2, episodes=2), Tally()
    sound = {"predictions": [[0, 0], [1, 1]], "name": "x", "paper": ""}
    names = {"__builtins__": __builtins__}
    for key in sound:
        for wrong in [w for w in PYTHON_VALUES if not w.startswith(("'x'", "' '", "''"))]:
            given = {**sound, key: eval(wrong, names)}
            tally.judge(f"{key} = {wrong}", lambda g=given: fsar_bench.score_predictions(plan, out=files / "o", **g))
    tally.check(least=100)
