"""What tests build: a tiny dataset of shipped clips, and the command as a user runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch import Tensor

from fsar_bench.method import Backbone, VideoFeatures


def annotation_rows(classes_per_split: int = 6, clips: int = 7) -> dict:
    """Annotation of some shipped SynthAct classes, with absolute paths: reversed pairs first."""
    from fsar_bench.data.dataset import BUILTIN

    folder = BUILTIN / "synthact"
    table = json.loads((folder / "annotation.json").read_text())
    kept = []
    for split in ("train", "val", "test"):
        kept += [c for c in table["classes"] if c["split"] == split][:classes_per_split]
    names = {c["name"] for c in kept}
    rows = []
    for name in sorted(names):
        mine = [c for c in table["clips"] if c["class"] == name][:clips]
        rows += [{**c, "path": str(folder / c["path"])} for c in mine]
    return {"classes": kept, "clips": rows}


def write_dataset(path: Path, table: dict, *, train: str = "") -> Path:
    """Write a dataset config and its annotation beside it."""
    annotation = path.with_suffix(".json")
    annotation.write_text(json.dumps(table))
    path.write_text(
        f'"""Tiny dataset."""\ntitle = "Tiny"\nsynthetic = True\ndataset = dict(name="tiny", annotation={str(annotation)!r})\n'
        'backbone = "synthact_clip"\ncontrols = []\nwhole_clips_up_to = 64\n'
        "train = dict(episodes=8, shot=1, query_per_class=1, accumulate=2, val_episodes=20, val_interval=4"
        f"{train})\n"
        "methods = dict(ma_clip=dict(method=dict(ffn_width=64)), clip_fsar=dict(method=dict(ffn_width=64)))\n"
    )
    return path


def _hear_ctrl_c() -> None:
    """A shell lets its background jobs ignore SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """`fsar-bench` in a folder, as a user types it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "fsar_bench.cli.main", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def outputs(self) -> dict[str, bytes]:
        """Bytes of every result and prediction file below leaderboards/."""
        return outputs(self.folder / "leaderboards")


def outputs(out: Path) -> dict[str, bytes]:
    """Bytes of every result and prediction file of a folder of results."""
    root = out / "results"
    files = [*root.rglob("result.json"), *root.rglob("predictions.npz")]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def children(before: Sequence[BaseProcess] = ()) -> list[BaseProcess]:
    """Living child processes of this one; of those that began after `before` was taken, where it is given.

    Tests share this process, and fixtures of a module keep decode processes.
    """
    return [child for child in multiprocessing.active_children() if child not in before]


def children_that_stay(before: Sequence[BaseProcess], seconds: float = 10) -> list[BaseProcess]:
    """Children as above that do not end soon: of a dead one the fork server may tell a little later on a busy machine."""
    until = time.monotonic() + seconds
    while children(before) and time.monotonic() < until:
        time.sleep(0.01)
    return children(before)


class GivenFeatures(Backbone):
    """A stand-in for a backbone where features are given to `encode`."""

    has_text = True

    def __init__(self, width: int, stride: int = 16) -> None:
        super().__init__()
        self.embedding_width, self.map_width, self.map_stride = width, width, stride

    def encode_frames(self, frames: Tensor) -> Tensor:
        raise NotImplementedError("features are given to encode()")


def score_features(method, support: Tensor, query: Tensor, text: Tensor | None = None, name: str = "frames"):
    """Scores of one episode from features of supports `[N, K, ...]` and queries `[Q, ...]`, and class texts `[N, C]`."""
    N, K = support.shape[:2]
    text = support.new_zeros(N, 0) if text is None else text
    own = text[:, None].expand(-1, K, -1).flatten(0, 1)
    s = method.encode(VideoFeatures(**{name: support.flatten(0, 1)}), own).view(1, N, K)
    q = method.encode(VideoFeatures(**{name: query}), None).view(1, len(query))
    return method.score(s, q, text[None])


def clip_tower(weights: dict[str, Tensor], heads: int):
    """A frozen CLIP ViT with official weights (adapters among them are left out); frames enter it normalised, as floats.

    Where the weights have no projection, it is the identity, so that frame features are normalised class tokens.
    """
    import torch
    from open_clip.transformer import QuickGELU, VisionTransformer
    from torch import nn

    from fsar_bench.backbones import CLIPBackbone

    class Tower(CLIPBackbone):
        def __init__(self, visual: VisionTransformer, crop: int) -> None:
            Backbone.__init__(self, "tower", crop=crop)
            self.clip = nn.Module()
            self.clip.visual = visual
            self.embedding_width = visual.proj.shape[1]
            self.map_width, self.map_stride = visual.conv1.out_channels, visual.conv1.stride[0]

        def normalise(self, frames: Tensor) -> Tensor:
            return frames.flatten(0, 1)

    D, patch = weights["conv1.weight"].shape[0], weights["conv1.weight"].shape[-1]
    side = round((len(weights["positional_embedding"]) - 1) ** 0.5)
    proj = weights.get("proj", torch.eye(D))
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.resblocks."))
    mlp_ratio = len(weights["transformer.resblocks.0.mlp.c_fc.bias"]) / D
    visual = VisionTransformer(
        side * patch, patch, D, layers, heads, mlp_ratio, output_dim=proj.shape[1], act_layer=QuickGELU
    )
    wanted = visual.state_dict()
    visual.load_state_dict({name: value for name, value in {**weights, "proj": proj}.items() if name in wanted})
    return Tower(visual.eval(), side * patch)


def vit_b_16_on_meta():
    """The image tower of CLIP ViT-B/16 without storage, for counting parameters."""
    import torch
    from open_clip.transformer import VisionTransformer

    with torch.device("meta"):
        weights = VisionTransformer(224, 16, 768, 12, 12, 4.0, output_dim=512).state_dict()
        return clip_tower(weights, 12)


class AsGiven(GivenFeatures):
    """A stand-in for a backbone whose frames are features already, so that training losses can be taken of them."""

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames

    def encode_maps(self, frames: Tensor) -> Tensor:
        return frames


TWINS = {  # classes and traits of others: `make pr` tests the contract of each
    "all_pairs_frozen", "ata_transductive", "bi_mhm", "chamfer_frozen", "chamfer_joint_frozen", "chamfer_query_frozen",
    "chamfer_support_frozen", "diagonal_frozen", "dtw_frozen", "frame_knn5", "hyrsm_plusplus", "linear_probe_frames",
    "matching_net_frozen", "nbnn_frozen", "nearest_pair_frozen", "simpleshot_l2n", "simpleshot_un", "soft_dtw_frozen",
    "vifi_clip",
}  # fmt: skip
SLOW = {"arn"}  # convolves 64 x 64 maps of every pair


def with_slow_ones(methods) -> list:
    """Methods as parameters of a test; those that take long, or that are another one with other settings, are marked slow."""
    import pytest

    return [pytest.param(name, marks=[pytest.mark.slow] * (name in TWINS | SLOW)) for name in methods]


def tiny_cells(tiny: Path, folder: Path, *pairs: str):
    """Cells of quick methods on the tiny dataset, and the options of their run below a folder."""
    from fsar_bench.config.resolve import resolve

    run = resolve(
        [
            f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "episodes=100", "workers=1", "checkpoint_seconds=0",
            f"out={folder / 'leaderboards'}", f"work_dir={folder / 'work_dirs'}", *pairs,
        ]
    )  # fmt: skip
    return run.cells, run.options


def outputs_alone(cells, options, folder: Path) -> dict[str, bytes]:
    """What the same cells give on this machine, without a cluster."""
    from fsar_bench.engine.sweep import run_isolated, sweep

    local = {"launcher": "local", "address": "", "ray": {}, "slurm": {}}
    options = options.model_copy(update={**local, "out": folder / "alone", "work_dir": folder / "alone_work"})
    assert {outcome.state for outcome in sweep(cells, options, run_isolated)} == {"done"}
    return outputs(options.out)


def write_tuning(folder: Path, method: str, values: dict, *, dataset: str = "tiny", trials: int = 2, **changes) -> Path:
    """Write a tuning of two or more trials, of which the last has the values; returns its file."""
    from fsar_bench.config.tuned import tuned_file

    def space(value) -> dict:
        if isinstance(value, float):
            return {"low": value / 2, "high": 2 * value, "log": False}
        return {"choices": [value, "other"]}

    def trial(accuracy: float) -> dict:
        return {"values": values, "accuracy": accuracy, "curve": [[0, accuracy]], "training": "0" * 64}

    record = {
        "schema_version": 1, "method": method, "dataset": dataset, "backbone": "synthact_clip", "way": 5, "shot": 1, "seed": 0,
        "setup": "0" * 64, "budget": {"trials": trials, "episodes": 8, "val_episodes": 20},
        "space": {key: space(value) for key, value in values.items()},
        "trials": [trial(30.0 + number) for number in range(trials)], "chosen": trials - 1,
        "spent": {"seconds": [1.0] * trials}, **changes,
    }  # fmt: skip
    path = tuned_file(folder, dataset, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path
