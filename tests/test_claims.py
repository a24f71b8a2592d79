"""Data of strangers: no record, plan or prediction runs code, opens a file that it names, or takes memory by what it claims."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import mmengine.registry as roots
import numpy as np
import pytest
from mmengine.registry import DefaultScope, Registry
from stores import make_plan, predictions, store

import fsar_bench
from fsar_bench.cli.compare import compare_command
from fsar_bench.cli.explain import explain_command
from fsar_bench.cli.leaderboard import leaderboard_command
from fsar_bench.cli.results import merge_command
from fsar_bench.cli.show import show_command
from fsar_bench.config.cell import DatasetSource
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import Protocol, Train
from fsar_bench.errors import ConfigError, ProtocolError, ResultError
from fsar_bench.io import digest
from fsar_bench.leaderboard.merge import merge_results
from fsar_bench.matching import build_matcher
from fsar_bench.plan import EpisodePlan, changed_places, plan_sizes
from fsar_bench.registry import FUNCTIONS, MATCHERS, METHODS
from fsar_bench.results.store import read
from fsar_bench.storage.archives import Kind, open_arrays
from fsar_bench.storage.limits import LARGEST_PLAN

ROOTS = {name: root for name, root in vars(roots).items() if isinstance(root, Registry)}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module and config `evil.py` in the working folder and on the import path; its marker tells whether it ran."""
    marker = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef run(**kwargs): pass\nmethod = dict(type='x')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop("evil", None)


# Registries --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ROOTS))
@pytest.mark.parametrize("config", [{"type": "evil.run"}, {"type": "evil"}, {"type": "X", "_scope_": "evil"}])
def test_no_registry_of_mmengine_imports_what_a_config_names(evil, name, config):
    key = "runner_type" if name == "RUNNERS" else "type"
    config = {key if k == "type" else k: v for k, v in config.items()}
    ours = ROOTS[name].children["fsar_bench"]
    for registry in (ours, ROOTS[name]) if "_scope_" not in config else (ours,):
        with DefaultScope.overwrite_default_scope("fsar_bench"), pytest.raises(ConfigError):
            registry.build(dict(config))
    assert not evil.exists()
    assert "evil" not in sys.modules


def test_registered_names_are_found_with_and_without_their_scope():
    import fsar_bench.engine.episodes

    assert FUNCTIONS.get("fsar_bench.single_episode") is fsar_bench.engine.episodes.single_episode
    assert roots.HOOKS.children["fsar_bench"].get("mmengine.EMAHook").__name__ == "EMAHook"
    assert MATCHERS.get("OTAM").__name__ == "OTAM"
    with pytest.raises(ConfigError, match=r"No hook 'os\.system' is registered"):
        roots.HOOKS.children["fsar_bench"].get("os.system")


def test_a_matcher_is_a_registered_name(evil):
    with pytest.raises(ConfigError, match=r"No matcher 'evil\.run' is registered"):
        build_matcher({"type": "evil.run"}, 8)
    with pytest.raises(ConfigError, match=r"No method 'evil\.run' is registered"):
        METHODS.build({"type": "evil.run"})
    assert not evil.exists()


# Records -----------------------------------------------------------------------------------------------------------------------


def train(**changes) -> dict:
    return {"train": {**json.loads(Train().resolved(Protocol()).model_dump_json()), **changes}}


EVIL = {"type": "evil.run"}
MODULES = {"modules": ["evil"], "folders": ["."]}
NEST: dict = {}
for _ in range(40):
    NEST = {"a": NEST}
IDENTITIES = {  # what a forger changes of an identity, and what the error names
    "type": ({"method": EVIL}, "not the name of a registered class"),
    "type of a matcher": ({"method": {"type": "MetricMethod", "matcher": EVIL}}, "method.matcher.type"),
    "type in a list": ({"method": {"type": "MetricMethod", "parts": [[EVIL]]}}, r"method\.parts\[0\]\[0\]\.type"),
    "type with a colon": ({"method": {"type": "evil:run"}}, "not the name of a registered class"),
    "no type": ({"method": {"a": 1}}, "method needs a type"),
    "type of a backbone": ({"backbone": {"name": "b", **EVIL}}, "backbone.type"),
    "modules of a method": ({"method": {"type": "MetricMethod", "imports": MODULES}}, "has the key 'imports'"),
    "modules of a backbone": ({"backbone": {"name": "b", "type": "B", "imports": MODULES}}, "has the key 'imports'"),
    "scope": ({"method": {"type": "MetricMethod", "matcher": {"type": "OTAM", "_scope_": "evil"}}}, "'_scope_'"),
    "base": ({"method": {"type": "MetricMethod", "_base_": "evil.py"}}, "'_base_'"),
    "key with a quote": ({"method": {"type": "MetricMethod", "a': print(1), 'b": 1}}, "keys are names of arguments"),
    "optimiser": (train(optimizer=EVIL), "train.optimizer.type"),
    "scheduler": (train(scheduler=[EVIL]), r"train.scheduler\[0\].type"),
    "hook": (train(hooks=[EVIL]), r"train.hooks\[0\].type"),
    "name of a file": ({"name": "evil.py"}, "could be taken for a file"),
    "name of a file in capitals": ({"name": "evil.PY"}, "could be taken for a file"),
    "backbone of a file": ({"backbone": {"name": "evil.py", "type": "B"}}, "could be taken for a file"),
    "timm backbone of a file": ({"backbone": {"name": "timm:evil.py", "type": "B"}}, "could be taken for a file"),
    "backbone with a line break": ({"backbone": {"name": "b\n", "type": "B"}}, "a backbone needs a name"),
    "dataset of a file": ({"dataset": {"name": "evil.py", "annotation": "builtin:toy"}}, "could be taken for a file"),
    "reader": ({"reader": "evil.run"}, "is not the name of a reader"),
    "module that is a path": ({"custom_imports": ["../evil"]}, "custom_imports"),
    "annotation elsewhere": ({"dataset": {"name": "toy", "annotation": "/etc/passwd"}}, "is a path"),
    "annotation above": ({"dataset": {"name": "toy", "annotation": "builtin:../../x"}}, "names no dataset"),
    "annotation of another user": ({"dataset": {"name": "toy", "annotation": "~root"}}, "is a path"),
    "weights elsewhere": ({"backbone": {"name": "b", "type": "B", "pretrained": "../w.pt"}}, "is a path"),
    "weights above a hub": ({"backbone": {"name": "b", "type": "B", "pretrained": "hf-hub:../../w"}}, "is a path"),
    "endless config": ({"method": {"type": "MetricMethod", "x": [0] * 5000}}, "larger than any config"),
    "deep config": ({"method": {"type": "MetricMethod", "x": NEST}}, "larger than any config"),
    "long text in a config": ({"method": {"type": "MetricMethod", "x": "a" * 10**5}}, "a text of 100000 characters"),
    "huge number in a config": ({"method": {"type": "MetricMethod", "x": 10**30}}, "not a finite number"),
    "endless inputs": ({"inputs": {f"module {i}": "0" * 64 for i in range(5000)}}, "inputs"),
    "input that is no hash": ({"inputs": {"annotation": "x"}}, "inputs"),
    "ways": ({"protocol": {"way": 256}}, "protocol.way"),
    "many episodes": ({"protocol": {"episodes": 60_000_000}}, "make a plan of"),
    "many training episodes": (train(episodes=10**9), "make a plan of"),
}
LABELS = {
    "changed protocol": ({"changed": {"protocol": "./evil.py"}}, "is no setting"),
    "changed imports": ({"changed": {"imports": "./evil.py"}}, "is no setting"),
    "changed dataset": ({"changed": {"train_on": "evil.py"}}, "could be taken for a file"),
    "changed weights": ({"changed": {"pretrained": "../w.pt"}}, "is a path"),
    "changed checkpoint": ({"changed": {"checkpoint": "/etc/passwd@0"}}, "is a path"),
    "protocol of a file": ({"protocol": "evil.py"}, "could be taken for a file"),
}
PLAN = make_plan(episodes=60)


def forge(folder: Path, identity: dict | None = None, label: dict | None = None, **record: object) -> Path:
    """Change a record as a forger does: with the hash and the folder that belong to it; returns the folder."""
    data = json.loads((folder / "result.json").read_text())
    for key, value in (identity or {}).items():
        ours = data["cell"]["identity"]
        ours[key] = {**ours[key], **value} if key == "protocol" else value
    data["cell"]["label"].update(label or {})
    data.update(record, config_hash=digest(data["cell"]["identity"]))
    (folder / "result.json").write_text(json.dumps(data))
    name = data["cell"]["identity"]["name"]
    return folder.rename(folder.with_name(f"{name}-{data['config_hash'][:8]}"))


def opened_names() -> list[str]:
    """Names of all files that Python opens from now on."""
    names: list[str] = []
    sys.addaudithook(lambda event, args: names.append(str(args[0])) if event == "open" and args else None)
    return names


@pytest.mark.parametrize("kind", [*IDENTITIES, *LABELS])
def test_a_forged_record_is_refused_wherever_it_is_read_and_runs_nothing(evil, tmp_path, capsys, kind):
    change, message = {**IDENTITIES, **LABELS}[kind]
    sound = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), PLAN)
    folder = forge(sound, **({"label": change} if kind in LABELS else {"identity": change}))
    out = f"out={tmp_path / 'sent'}"
    for command in (
        lambda: explain_command(str(folder), [], episode=1, query=None),
        lambda: show_command(str(folder), []),
        lambda: compare_command("one", "one", [out]),
        lambda: leaderboard_command([out], check=False),
    ):
        with pytest.raises(ResultError, match=message):
            command()
    assert merge_command([tmp_path / "sent"], tmp_path / "taken") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 1500
    assert not evil.exists()
    assert not (tmp_path / "taken").exists()


STRANGE = {  # sound records that name what only their author has: `explain` opens and fetches none of it
    "weights in the working folder": (
        {"pretrained": "w.pt", "model": "tiny_clip"},
        "Name the right one with pretrained=",
    ),
    "weights of a hub": ({"pretrained": "hf-hub:evil/model", "model": "tiny_clip"}, "say pretrained=hf-hub:evil/model"),
    "model of a hub": ({"pretrained": None, "model": "hf-hub:evil/model"}, "is no name of a model"),
    "model elsewhere": ({"pretrained": "tag", "model": "../../tmp/x"}, "is no name of a model"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_explain_opens_and_fetches_nothing_that_a_record_alone_names(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"weights")
    backbone, message = STRANGE[kind]
    folder = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), PLAN)
    identity = {
        "backbone": {"name": "tiny_clip", "type": "CLIPBackbone", **backbone},
        "method": {"type": "MetricMethod", "matcher": {"type": "OTAM"}},
    }
    folder = forge(folder, identity)
    names = opened_names()
    with pytest.raises(ResultError, match=message):
        explain_command(str(folder), [], episode=1, query=None)
    assert not [name for name in names if name.endswith("w.pt")]


def test_a_file_of_which_the_record_does_not_tell_the_content_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    folder = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), PLAN)
    there = forge(folder, {"dataset": {"name": "toy", "annotation": "x.json"}})
    with pytest.raises(ResultError, match="The annotation of one is not found on this machine"):
        explain_command(str(there), [], episode=1, query=None)
    untold = forge(there, {"dataset": {"name": "toy", "annotation": "builtin:toy"}, "inputs": {}})
    with pytest.raises(ResultError, match="does not tell the content of its annotation"):
        explain_command(str(untold), [], episode=1, query=None)


def test_configs_of_classes_are_refused_with_the_name_to_write(tmp_path):
    config = tmp_path / "mine.py"
    for kind, message in (
        (
            "'fsar_bench.matching.OTAM'",
            r"method\.matcher\.type='fsar_bench\.matching\.OTAM' is not the name of a registered",
        ),
        ("int", r"method\.matcher\.type=<class 'int'> is a class: name it by text, 'int', as it is registered"),
    ):
        config.write_text(f"method = dict(type='MetricMethod', matcher=dict(type={kind}))\n")
        with pytest.raises(ConfigError, match=message):
            resolve([f"methods={config}", "controls=false"])
    renamed = tmp_path / "mine.py.py"
    renamed.write_text("method = dict(type='MetricMethod', matcher=dict(type='OTAM'))\n")
    with pytest.raises(ConfigError, match=r"the name 'mine\.py' could be taken for a file"):
        resolve([f"methods={renamed}", "controls=false"])
    assert DatasetSource(name="a", annotation="/any/where.json").portable.annotation == "where.json"


# Sizes -------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_recorded_or_merged_is_refused_before_any_work(tmp_path):
    protocol, dataset = tmp_path / "wide.py", tmp_path / "data.py"
    protocol.write_text("protocol = dict(way=300)\n")
    dataset.write_text(
        "dataset = dict(name='synthact', annotation='builtin:synthact')\nbackbone = 'tiny_clip'\ntrain = dict(way=300)\n"
    )
    for pairs, message in (
        (["methods=otam_frozen", "way=300"], r"^way=300 is too large: at most 255 is allowed"),
        (["methods=otam_frozen", f"protocol={protocol}"], "The protocol wide: way=300 is too large"),
        (["methods=otam", f"dataset={dataset}"], r"train\.way=300 is too large"),
        (["methods=otam", "train.way=300"], r"train\.way=300 is too large"),
        (
            ["methods=otam_frozen", "episodes=1e8"],
            "episodes=100000000 of 5 classes .* Lower episodes= to 3000000 or less",
        ),
        (["methods=otam", "train.episodes=1e8"], r"Lower train\.episodes= to"),
        (["methods=otam", "train.val_episodes=1e8"], r"Lower train\.val_episodes= to"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve([*pairs, "controls=false"])
    with pytest.raises(ConfigError, match="way=300 is too large"):
        fsar_bench.run("otam_frozen", way=300)
    with pytest.raises(ConfigError, match="way=300 is too large"):
        fsar_bench.episodes("synthact", way=300)
    with pytest.raises(ProtocolError, match="The episodes of the test split are too many"):
        make_plan(episodes=LARGEST_PLAN)


def test_plans_of_a_million_episodes_and_of_a_hundred_ways_are_allowed():
    for way, shot, query, episodes in ((5, 1, 1, 10**6), (5, 5, 1, 10**6), (100, 5, 5, 10**4)):
        Protocol(way=way, shot=shot, query=query, episodes=episodes)


def test_sizes_and_changed_places_are_read_from_the_file(tmp_path):
    path = tmp_path / "plan.npz"
    PLAN.save(path)
    assert vars(plan_sizes(path)) == {"episodes": 60, "way": 2, "shot": 1, "query": 1, "recorded": None}
    assert changed_places(PLAN, path) == 0
    other = make_plan(episodes=60, missing=frozenset({"c0_00", "c1_01"}))
    places = sum(int((getattr(other, name) != getattr(PLAN, name)).sum()) for name in ("support", "query"))
    assert changed_places(other, path) == places == other.replaced > 0
    assert changed_places(make_plan(episodes=59), path) is None
    assert changed_places(make_plan(episodes=60, seed=1), path) is None


# Arrays ------------------------------------------------------------------------------------------------------------------------

KINDS = {"a": Kind("<i4", 2, 1000), "b": Kind("|u1", 1, 64, is_needed=False)}
ARRAY = np.arange(12, dtype="<i4").reshape(4, 3)


def npz(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, values: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + values


def header(descr: str = "'<i4'", order: str = "False", shape: str = "(4, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def lying(size: int) -> bytes:
    """An archive whose directory tells another size of an array than it unpacks to."""
    data = bytearray(npz(("a.npy", npy(header(), bytes(48)))))
    place = data.index(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(data)


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


SOUND = npy(header(), ARRAY.tobytes())
HOSTILE = {
    "nothing": (b"", "no npz file"),
    "no archive": (b"x" * 1000, "no npz file"),
    "cut": (saved(a=ARRAY)[:-30], "no npz file"),
    "a comment": (saved(a=ARRAY)[:-2] + b"\x01\x00x", "no npz file"),
    "many members": (npz(*((f"{i}.npy", b"") for i in range(2000))), "more members"),
    "a second end": (saved(a=ARRAY)[:-22] + b"PK\x06\x07" + bytes(16) + saved(a=ARRAY)[-22:], "more members"),
    "one name twice": (npz(("a.npy", SOUND), ("a.npy", SOUND)), "two arrays of one name"),
    "an unrelated bomb": (npz(("a.npy", SOUND), ("bomb", bytes(10**7))), "'bomb', which does not belong there"),
    "a path": (npz(("../a.npy", SOUND)), "does not belong there"),
    "nothing needed": (saved(b=np.zeros(3, np.uint8)), "lacks a"),
    "a bomb": (npz(("a.npy", bytes(10**7))), "unpacks to more than"),
    "too many values": (saved(a=np.zeros((1001, 1), np.int32)), "unpacks to more than|has the shape"),
    "other packing": (npz(("a.npy", SOUND), method=zipfile.ZIP_LZMA), "packed in a way"),
    "objects": (saved(a=np.array([[{}]], object)), "does not describe a plain array"),
    "Fortran order": (saved(a=np.asfortranarray(ARRAY)), "does not describe a plain array"),
    "big-endian": (saved(a=ARRAY.astype(">i4")), "not int32"),
    "fractions": (saved(a=ARRAY.astype(float)), "holds float64"),
    "one dimension": (saved(a=ARRAY.ravel()), "in 2 dimensions"),
    "no array": (npz(("a.npy", b"[1, 2]")), "no array of numpy"),
    "negative shape": (npz(("a.npy", npy(header(shape="(-4, -3)"), bytes(48)))), "does not describe"),
    "shape that wraps round": (npz(("a.npy", npy(header(shape="(4294967296, 4294967296)")))), "has the shape"),
    "shape beyond measure": (npz(("a.npy", npy(header(shape="(10000000000000, 1)")))), "does not describe"),
    "shape that is larger": (npz(("a.npy", npy(header(shape="(400, 1)"), bytes(48)))), "has the shape"),
    "shape that is smaller": (npz(("a.npy", npy(header(shape="(1, 1)"), bytes(48)))), "has the shape"),
    "expression": (npz(("a.npy", npy(header(shape="(10**9, 10**9)")))), "does not describe"),
    "deep header": (npz(("a.npy", npy("(" * 900))), "does not describe"),
    "long header": (npz(("a.npy", npy(header() + " " * 3000, bytes(48)))), "does not describe"),
    "later version": (npz(("a.npy", npy(header(), bytes(48), b"\x03\x00"))), "no array of numpy"),
    "directory that tells less": (lying(100), "has the shape|CRC"),
    "directory that tells more": (lying(500), "has the shape"),
    "other bytes": (saved(a=ARRAY).replace(b"PK\x03\x04", b"PK\x03\x05"), "BadZipFile"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_arrays_are_refused_in_little_memory(kind):
    data, message = HOSTILE[kind]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message), open_arrays(data, KINDS) as file:
            file.read("a", "<i4")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_changed_values_are_seen_and_sound_ones_are_read():
    with open_arrays(saved(a=ARRAY, b=np.arange(3, dtype=np.uint8)), KINDS) as file:
        assert file.shapes == {"a": (4, 3), "b": (3,)}
        np.testing.assert_array_equal(file.read("a", "<i4"), ARRAY)
    data = bytearray(npz(("a.npy", SOUND), method=zipfile.ZIP_STORED))
    data[data.index(ARRAY.tobytes())] ^= 1
    with pytest.raises(ValueError, match="CRC"), open_arrays(bytes(data), KINDS) as file:
        file.read("a", "<i4")


# Folders -----------------------------------------------------------------------------------------------------------------------


def pipe_for_record(sent: Path, folder: Path) -> None:
    (folder / "result.json").unlink()
    os.mkfifo(folder / "result.json")


def pipe_for_plan(sent: Path, folder: Path) -> None:
    path = read(folder).plan_file
    path.unlink()
    os.mkfifo(path)


def pipe_for_predictions(sent: Path, folder: Path) -> None:
    (folder / "predictions.npz").unlink()
    os.mkfifo(folder / "predictions.npz")


def device_for_record(sent: Path, folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "result.json").symlink_to("/dev/zero")


def link_for_results(sent: Path, folder: Path) -> None:
    (sent / "results").rename(sent / "elsewhere")
    (sent / "results").symlink_to(sent / "elsewhere")


def folder_for_record(sent: Path, folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "result.json").mkdir()


def plan_of_fewer_episodes(sent: Path, folder: Path) -> None:
    make_plan(episodes=59).save(read(folder).plan_file)


FOLDERS = {
    pipe_for_record: "it is no file",
    pipe_for_plan: "is missing|it is no file",
    pipe_for_predictions: "is not the file that result.json names",
    device_for_record: "is or holds a link",
    link_for_results: "is or holds a link",
    folder_for_record: "it is no file",
    plan_of_fewer_episodes: "is not the plan that",
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path, make):
    sent = tmp_path / "sent"
    make(sent, store(sent, "one", predictions(PLAN, 0.8, 0), PLAN))
    (problem,) = merge_results([sent], tmp_path / "taken").problems
    with pytest.raises(ResultError, match=FOLDERS[make]):
        raise ResultError(problem)
    assert not (tmp_path / "taken").exists()


def test_predictions_are_not_unpacked_where_the_plan_has_other_sizes(tmp_path, monkeypatch):
    folder = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), PLAN)
    forge(folder, {"protocol": {"episodes": 10**6}})
    monkeypatch.setattr("fsar_bench.results.store.unpack_predictions", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(EpisodePlan, "load", lambda *_: pytest.fail("loaded"))
    (problem,) = merge_results([tmp_path / "sent"], tmp_path / "taken").problems
    assert "is not the plan that" in problem


@pytest.mark.parametrize(("recorded", "clips"), [(10**7, 72), (72, 71)])
def test_recordings_are_not_unpacked_where_the_record_has_fewer_clips(tmp_path, monkeypatch, recorded, clips):
    plan = PLAN.with_recordings(np.zeros(recorded, np.int32))
    folder = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), plan)
    forge(folder, data={**json.loads((folder / "result.json").read_text())["data"], "clips": clips})
    monkeypatch.setattr(EpisodePlan, "load", lambda *_: pytest.fail("loaded"))
    tracemalloc.start()
    (problem,) = merge_results([tmp_path / "sent"], tmp_path / "taken").problems
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "is not the plan that" in problem
    assert peak < 30_000_000  # ten million recordings alone take 40 MB


def test_plans_that_results_share_are_loaded_once_while_they_are_checked(tmp_path, monkeypatch):
    for number in range(4):
        store(tmp_path / "sent", f"m{number}", predictions(PLAN, 0.8, number), PLAN)
    loaded, load = [], EpisodePlan.load.__func__
    monkeypatch.setattr(EpisodePlan, "load", classmethod(lambda cls, path: loaded.append(path) or load(cls, path)))
    monkeypatch.setattr("fsar_bench.leaderboard.merge._try_tables", lambda *_: None)
    outcome = merge_results([tmp_path / "sent"], tmp_path / "taken")
    assert (len(outcome.taken), outcome.problems) == (4, [])
    assert len(loaded) == 2  # once to check it, once to see whether `taken` has it


def test_more_records_than_one_merge_takes_are_refused(tmp_path, monkeypatch):
    for number in range(3):
        store(tmp_path / "sent", f"m{number}", predictions(PLAN, 0.8, number), PLAN)
    monkeypatch.setattr("fsar_bench.leaderboard.merge._MOST_RECORDS", 10_000)
    (problem,) = merge_results([tmp_path / "sent"], tmp_path / "taken").problems
    assert "holds more results than one merge takes. Merge it in parts." in problem


CLAIM = """
import sys
from pathlib import Path
from fsar_bench.leaderboard.merge import merge_results
problems = merge_results([Path(sys.argv[1])], Path(sys.argv[2])).problems
# not ru_maxrss: a child that was forked from a large process begins with the peak of that
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024, problems[0])
"""


@pytest.mark.slow  # makes arrays of 200 MB
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory of a process is read from /proc")
def test_a_merge_of_the_largest_claims_needs_less_than_500_mb(tmp_path):
    """Predictions of three million episodes that are packed into some kB, and a plan whose headers claim as much."""
    folder = store(tmp_path / "sent", "one", predictions(PLAN, 0.8, 0), PLAN)
    episodes = LARGEST_PLAN // 4
    packed = saved(prediction=np.zeros((episodes, 2), np.uint8), pair=np.zeros((episodes, 2), np.uint8))
    arrays = {"classes": (episodes, 2), "support": (episodes, 2, 1), "query": (episodes, 2, 1)}
    plan = read(folder).plan_file
    with np.load(plan) as file:
        kept = {name: file[name] for name in file.files}
    np.savez_compressed(plan, **{**kept, **{name: np.zeros(shape, np.int32) for name, shape in arrays.items()}})
    folder = forge(folder, {"protocol": {"episodes": episodes}}, predictions=hashlib.sha256(packed).hexdigest())
    (folder / "predictions.npz").write_bytes(packed)
    size = sum(path.stat().st_size for path in (tmp_path / "sent").rglob("*.npz"))
    assert size < 1_000_000
    command = [sys.executable, "-c", CLAIM, str(tmp_path / "sent"), str(tmp_path / "taken")]
    peak, _, problem = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(" ")
    assert "claims metrics that its predictions do not give" in problem
    assert int(peak) < 500
