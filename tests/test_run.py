"""The whole command on a tiny dataset: sameness, resumption after kills, bad input, methods of one's own."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import Command, annotation_rows, write_dataset

from fsar_bench.config.resolve import names

TINY = ("train.episodes=8", "episodes=2500", "checkpoint_seconds=0", "workers=1")

KILLER = '''
"""Kills the cell at a chosen point, once: a stand-in for kill -9."""
import os, signal
from pathlib import Path
import fsar_bench.engine.checkpoint as checkpoint
import fsar_bench.engine.bank as feature_bank
import fsar_bench.engine.loops as loops
import fsar_bench.results.store as results
import fsar_bench.engine.scoring as scoring

POINT, MARK = os.environ.get("KILL_AT"), Path(os.environ.get("KILL_MARK", "unset"))

def die():
    MARK.write_text("killed")
    os.kill(os.getpid(), signal.SIGKILL)

def wrap(module, name, call, half=None, stored=False):
    original, count = getattr(module, name), [0]
    def patched(*args, **kwargs):
        count[0] += not stored or args[0] is not None  # of `_save(path, ...)`: calls that store something
        if count[0] == call:
            if half:
                half(*args)
            die()
        return original(*args, **kwargs)
    setattr(module, name, patched)

def half_written(state, path):
    Path(path).write_bytes(b"PK half of a checkpoint")

if POINT and not MARK.exists():
    if POINT == "training": wrap(loops.EpisodicTrainLoop, "run_iter", 6)
    if POINT == "checkpoint": wrap(checkpoint.torch, "save", 3, half_written)
    if POINT == "best": wrap(checkpoint, "save_file", 1, half_written)
    if POINT == "choosing": wrap(scoring, "score_plan", 5)
    if POINT == "encoding": wrap(feature_bank, "_save", 6, stored=True)
    if POINT == "scoring": wrap(scoring, "_save", 2, stored=True)
    if POINT == "storing": wrap(results, "write_atomically", 2)
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache):
    """A tiny dataset and a copy of MA-CLIP's config that can be killed; and the result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("world")
    dataset = write_dataset(folder / "tiny.py", annotation_rows())
    (folder / "killer.py").write_text(KILLER)
    config = names("methods")["ma_clip"].read_text().replace("ffn_width=2048", "ffn_width=64")
    config = config.replace("predict_alpha=None", 'predict_alpha="val"')
    (folder / "killable.py").write_text(config + '\ncustom_imports = dict(imports=["killer"])\n')
    arguments = ("run", f"methods={folder / 'killable.py'}", f"dataset={dataset}", *TINY)
    plain = Command(tmp_path_factory.mktemp("plain"))
    done = plain(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return arguments, plain.outputs(), done


def test_undisturbed_run_shows_a_table_and_stores_everything(world):
    _, outputs, done = world
    assert "MA-CLIP" in done.stdout
    assert "accuracy %" in done.stdout
    assert "(synthetic)" in done.stdout
    assert len(outputs) == 2
    result = json.loads(next(data for name, data in outputs.items() if name.endswith("result.json")))
    assert result["protocol"]["selection_split"] == "val"
    assert result["metrics"]["pair_queries"] > 0
    assert 0 <= result["method"]["fitted"]["predict_alpha"] <= 1
    assert len(result["training_key"]) == 64


@pytest.mark.parametrize("point", ["training", "checkpoint", "best", "choosing", "encoding", "scoring", "storing"])
def test_killed_cell_goes_on_to_the_same_result(world, command, point):
    arguments, expected, _ = world
    mark = command.folder / "mark"
    killed = command(*arguments, KILL_AT=point, KILL_MARK=str(mark))
    assert mark.exists()
    assert killed.returncode == 1
    assert "its process ended early" in killed.stderr
    assert not any(name.endswith("result.json") for name in command.outputs())
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    if point in ("training", "checkpoint"):
        log = next((command.folder / "work_dirs").rglob("log.txt")).read_text()
        assert re.search(r"resumed after [246] episodes", log)
    assert command.outputs() == expected


def test_killed_command_goes_on_to_the_same_result(world, command):
    arguments, expected, _ = world
    process = command.start(*arguments)
    for line in process.stdout:
        if "training 4/8" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert command.outputs() == {}
    assert command(*arguments).returncode == 0
    assert command.outputs() == expected


@pytest.mark.parametrize("workers", ["0", "2"])
def test_same_bytes_again_whatever_the_workers(world, command, workers, tmp_path):
    arguments, expected, _ = world
    changed = [*arguments[:-1], f"workers={workers}", "score_batch=33"]
    done = command(*changed, FSAR_BENCH_CACHE=str(tmp_path / "empty_cache"))
    assert done.returncode == 0, done.stderr
    assert command.outputs() == expected


def test_finished_cells_are_reused_and_damage_is_named(world, command, tmp_path):
    arguments, _, _ = world
    quick = ("run", "methods=prototype_frozen,zero_shot", arguments[2], "episodes=300", "shot=1,5")
    assert command(*quick).returncode == 0
    before = command.outputs()
    again = command(*quick)
    assert again.stdout.count("finished before, reused") == 4
    results = [json.loads(data) for name, data in before.items() if "zero_shot" in name and name.endswith(".json")]
    assert results[0]["metrics"] == results[1]["metrics"]  # text alone: the same at 1 and 5 shots, to the last digit
    assert {r["protocol"]["shot"] for r in results} == {1, 5}
    blind = [json.loads(d)["metrics"] for n, d in before.items() if "prototype" in n and n.endswith(".json")]
    assert all(abs(m["pair_accuracy"] - 50) < 12 for m in blind)

    path = next((command.folder / "leaderboards").rglob("zero_shot*/result.json"))
    path.write_text(path.read_text()[:200])
    table = (command.folder / "leaderboards" / "tiny-5way_1shot.md").read_bytes()
    broken = command(*quick)
    assert broken.returncode == 1
    assert f"{path.relative_to(command.folder)} is damaged" in broken.stderr
    assert (command.folder / "leaderboards" / "tiny-5way_1shot.md").read_bytes() == table
    mended = command(*quick, "overwrite=true")
    assert mended.returncode == 0, mended.stderr
    assert command.outputs() == before


def test_damaged_checkpoint_is_named(world, command):
    arguments, _, _ = world
    command(*arguments, KILL_AT="training", KILL_MARK=str(command.folder / "mark"))
    path = next((command.folder / "work_dirs").rglob("last.pt"))
    path.write_bytes(path.read_bytes()[:-5000])
    done = command(*arguments)
    assert done.returncode == 1
    assert re.search(r"error: .*The checkpoint .*last\.pt is damaged .*Delete the folder", done.stderr)


def run_tiny(command: Command, dataset: Path, *arguments: str, **environment: str):
    return command("run", f"dataset={dataset}", "episodes=100", "workers=1", *arguments, **environment)


def test_failing_cells_do_not_stop_the_others(command, tiny):
    done = run_tiny(command, tiny, "methods=prototype_frozen", "shot=1,7")
    assert done.returncode == 1
    assert re.search(
        r"error: .*7-shot: Class '.*' of the test split has 7 clips, fewer than shot \+ query = 8", done.stderr
    )
    assert any("1shot" in name for name in command.outputs())
    assert "Prototype, frozen" in done.stdout


def test_too_few_classes_no_such_device_and_unknown_reader(command, tiny):
    for pair, message in (
        ("way=7", "The test split has 6 classes, fewer than way=7"),
        ("device=cuda:9", "device='cuda:9' is not there"),
        ("device=tpu", "device='tpu' is unknown"),
        ("reader=decrd", "Did you mean 'decord'"),
    ):
        done = run_tiny(command, tiny, "methods=zero_shot", pair)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "cannot be decoded by the reader 'decord'"),
        (lambda data: b"GIF89a no video", "cannot be decoded by the reader 'decord'"),
    ],
)
def test_bad_clip_stops_the_cell_and_is_named(command, tmp_path, change, message):
    table = annotation_rows()
    bad = next(row for row in table["clips"] if row["class"] == table["classes"][-1]["name"])
    path = tmp_path / "bad.mp4"
    path.write_bytes(change(Path(bad["path"]).read_bytes()))
    bad.pop("sha256")
    bad["path"] = str(path)
    done = run_tiny(command, write_dataset(tmp_path / "tiny.py", table), "methods=prototype_frozen")
    assert done.returncode == 1
    assert f"Clip {bad['id']!r} {message}" in done.stderr
    assert str(path) in done.stderr


def test_hanging_reader_stops_the_cell_and_names_the_clip(command, tiny, tmp_path):
    (tmp_path / "slow_reader.py").write_text(
        "import time\nfrom fsar_bench.registry import READERS\n\n"
        '@READERS.register_module(name="slow")\nclass Slow:\n    version = "slow 1"\n'
        "    def open(self, path):\n        time.sleep(600)\n"
    )
    (tmp_path / "mine.py").write_text(
        'custom_imports = dict(imports=["slow_reader"])\nmethod = dict(type="ZeroShot", temperature=100.0)\n'
    )
    done = run_tiny(command, tiny, f"methods={tmp_path / 'mine.py'}", "reader=slow", "decode_timeout=2")
    assert done.returncode == 1
    assert re.search(r"Clip '.*' was not decoded within 2 s by the reader 'slow'", done.stderr)


def test_nan_loss_keeps_the_last_checkpoint(command, tiny, tmp_path):
    (tmp_path / "nan_method.py").write_text(
        "import torch\nfrom fsar_bench.methods.metric import MetricMethod\n"
        "from fsar_bench.registry import METHODS\n\n@METHODS.register_module()\nclass Breaks(MetricMethod):\n"
        "    steps = 0\n    def loss(self, episodes):\n        losses = super().loss(episodes)\n        self.steps += 1\n"
        '        return {k: v * (float("nan") if self.steps == 6 else 1) for k, v in losses.items()}\n'
    )
    (tmp_path / "breaks.py").write_text(
        'custom_imports = dict(imports=["nan_method"])\n'
        'method = dict(type="Breaks", matcher=dict(type="OTAM"), tune="visual")\ntrain = dict(optimizer=dict(lr=1e-4))\n'
    )
    done = run_tiny(command, tiny, f"methods={tmp_path / 'breaks.py'}")
    assert done.returncode == 1
    assert "The loss is nan" in done.stderr
    assert "train.optimizer.lr" in done.stderr
    folder = next((command.folder / "work_dirs").rglob("last.pt")).parent
    assert (folder / "curve.csv").read_text().splitlines()[-1].startswith("4,")


def results_of(command, method: str) -> list[dict]:
    files = sorted((command.folder / "leaderboards").rglob(f"{method}-*/result.json"))
    return [json.loads(file.read_text()) for file in files]


def test_methods_with_heads_of_their_own_train_and_score(command, tiny):
    done = run_tiny(command, tiny, "methods=hyrsm,molo,strm,trx")
    assert done.returncode == 0, done.stderr
    for name in ("hyrsm", "molo", "strm", "trx"):
        (result,) = results_of(command, name)
        assert result["metrics"]["accuracy"] > 20
        assert result["parameters"]["trainable"] > 2_700_000
        assert result["protocol"]["selection_split"] == "val"
    again = run_tiny(command, tiny, "methods=molo", "method.motion_weight=0")
    assert again.returncode == 0, again.stderr
    assert (
        len(list((command.folder / "work_dirs").rglob("molo-training-*/best.safetensors"))) == 1
    )  # one training for both


def test_weights_of_the_score_are_chosen_on_val_alone(command, tiny):
    done = run_tiny(command, tiny, "methods=tip_adapter", "method.weights=fixed,val")
    assert done.returncode == 0, done.stderr
    by_weights = {r["method"]["config"]["weights"]: r for r in results_of(command, "tip_adapter")}
    assert by_weights["fixed"]["method"]["fitted"] is None
    assert by_weights["fixed"]["protocol"]["selection_split"] is None
    assert set(by_weights["val"]["method"]["fitted"]) == {"alpha", "beta"}
    assert by_weights["val"]["protocol"]["selection_split"] == "val"


def test_official_checkpoint_is_converted_and_evaluated_without_training(command, tiny):
    import torch

    from fsar_bench.backbones import CLIPBackbone
    from fsar_bench.methods.clip_fsar import CLIPFSAR, OFFICIAL_BLOCK

    torch.manual_seed(5)
    clip = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    source = CLIPFSAR(clip, {"type": "OTAM", "smoothing": 0.5}, ffn_width=64)
    state = {f"head.backbone.{k}": v for k, v in clip.visual.state_dict().items()}
    for theirs, ours in OFFICIAL_BLOCK.items():
        layer = source.modulation.get_submodule(ours)
        state |= {f"head.context2.layers.{theirs}.{k}": v for k, v in layer.state_dict().items()}
    state["head.scale"] = torch.tensor([2.5])
    official = command.folder / "checkpoint_epoch_00014.pyth"
    torch.save({"epoch": 14, "model_state": state, "optimizer_state": {}, "cfg": "TRAIN: ..."}, official)
    common = (f"dataset={tiny}", "backbone=tiny_clip")
    done = command("convert", "clip_fsar", official.name, *common, "out=ours.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"fsar-bench run methods=clip_fsar checkpoint=ours.safetensors {' '.join(common)}" in done.stdout
    from safetensors.torch import load_file

    ours = load_file(command.folder / "ours.safetensors")
    assert torch.equal(ours["backbone.clip.visual.proj"], clip.visual.proj)
    assert torch.equal(ours["modulation.ffn.3.bias"], source.modulation.ffn[3].bias)
    assert ours["scale"] == 2.5
    run = (
        "run",
        "methods=clip_fsar",
        "checkpoint=ours.safetensors",
        *common,
        "method.mode=visual,text",
        "episodes=300",
    )
    done = command(*run)
    assert done.returncode == 0, done.stderr
    results = results_of(command, "clip_fsar")
    assert len(results) == 2
    assert {r["training_key"] for r in results} == {r["protocol"]["selection_split"] for r in results} == {None}
    assert not list((command.folder / "work_dirs").rglob("last.pt"))
    again = command("convert", "clip_fsar", official.name, *common, "out=ours.safetensors")
    assert again.returncode == 1
    assert "ours.safetensors exists" in again.stderr
    official.write_bytes(official.read_bytes()[:5000])
    cut = command("convert", "clip_fsar", official.name, *common, "out=cut.safetensors")
    assert cut.returncode == 1
    assert "is damaged or not one of tensors" in cut.stderr
    wrong = command("run", "methods=otam", "checkpoint=ours.safetensors", *common)
    assert "does not fit this method" in wrong.stderr
    free = command("run", "methods=otam_frozen", "checkpoint=ours.safetensors", *common)
    assert "otam_frozen is training-free" in free.stderr


def test_backbone_without_text(command, tiny):
    tiny.write_text(tiny.read_text().replace("controls = []", 'controls = ["zero_shot", "prototype_frozen"]'))
    done = command(
        "run", f"dataset={tiny}", "methods=otam_frozen", "backbone=tiny_resnet", "episodes=200", "checkpoint_seconds=0"
    )
    assert done.returncode == 0, done.stderr
    assert "left out, a control that does not apply here" in done.stdout
    assert [r["backbone"]["model"] for r in results_of(command, "otam_frozen")] == ["test_resnet"]
    first = command.outputs()
    done = command("run", f"dataset={tiny}", "methods=zero_shot", "backbone=tiny_resnet", "episodes=200")
    assert done.returncode == 1
    assert "zero_shot uses class names, and the backbone tiny_resnet has no text encoder" in done.stderr
    done = command(
        "run", f"dataset={tiny}", "methods=otam_frozen", "backbone=tiny_resnet", "episodes=200", "overwrite=true"
    )
    assert done.returncode == 0, done.stderr
    assert command.outputs() == first  # random weights are seeded


def test_foreign_modules_that_break_are_named(command, tiny, tmp_path):
    (tmp_path / "lost.py").write_text('custom_imports = dict(imports=["nowhere_at_all"])\nmethod = dict(type="X")\n')
    done = run_tiny(command, tiny, f"methods={tmp_path / 'lost.py'}")
    assert done.returncode == 1
    assert "Cannot import 'nowhere_at_all'" in done.stderr
    (tmp_path / "odd.py").write_text('method = dict(type="MetricMethd")\n')
    done = run_tiny(command, tiny, f"methods={tmp_path / 'odd.py'}")
    assert "Did you mean 'MetricMethod'" in done.stderr


def test_method_of_a_package_with_an_entry_point(command, tiny, tmp_path):
    site = tmp_path / "site"
    (site / "fsar_far-1.0.dist-info").mkdir(parents=True)
    (site / "fsar_far-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fsar-far\nVersion: 1.0\n")
    (site / "fsar_far-1.0.dist-info" / "entry_points.txt").write_text("[fsar_bench.methods]\nfar = fsar_far\n")
    (site / "fsar_far.py").write_text(
        "from fsar_bench.methods.metric import MetricMethod\nfrom fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass Far(MetricMethod):\n    pass\n"
    )
    (tmp_path / "far.py").write_text('method = dict(type="Far", matcher=dict(type="BiMHM"))\n')
    done = run_tiny(command, tiny, f"methods={tmp_path / 'far.py'}", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert any("/far-" in name for name in command.outputs())


README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the README is not here (tests run from an installed wheel)")
def test_readme_example_of_a_method_of_ones_own(command):
    """Runs exactly the text of the README: every block that names a file, then the command that follows."""
    section = README.read_text().split("## A method of your own")[1].split("\n## ")[0]
    files = re.findall(r"`([\w.]+)`:\n+```python\n(.*?)```", section, re.S)
    assert [name for name, _ in files] == ["my_method_code.py", "my_method.py"]
    for name, text in files:
        (command.folder / name).write_text(text)
    line = re.search(r"```sh\n(fsar-bench run .*?)\n```", section).group(1)
    done = command(*line.split()[1:], "episodes=500")
    assert done.returncode == 0, done.stderr
    assert "My method" in done.stdout


def test_predictions_are_stored_compactly_and_in_plan_order(world):
    arguments, outputs, _ = world
    packed = next(data for name, data in outputs.items() if name.endswith(".npz"))
    import io

    with np.load(io.BytesIO(packed), allow_pickle=False) as store:
        assert store["prediction"].shape == (2500, 5)
        assert store["prediction"].dtype == np.uint8
        assert set(np.unique(store["pair"])) <= {0, 1, 2, 255}
    assert sys.getsizeof(packed) < 20_000
    assert arguments
