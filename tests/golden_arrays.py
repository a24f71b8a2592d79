"""Golden arrays of methods, by what they hold: files are read from a folder whatever their names and shapes.

`tests/golden/more` and `tests/golden/official` hold ours (their README.md lists the keys). `FSAR_BENCH_GOLDEN_MORE` and
`FSAR_BENCH_GOLDEN_OFFICIAL` name other folders with arrays of the same keys.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fsar_bench.method import EpisodeBatch, FewShotMethod, Scores, VideoFeatures

GOLDEN = Path(__file__).parent / "golden"


def _folder(name: str) -> Path:
    variable = f"FSAR_BENCH_GOLDEN_{name.upper()}"
    folder = Path(os.environ.get(variable) or GOLDEN / name)
    if not folder.is_dir():
        raise pytest.UsageError(f"{variable}={folder} is no folder: name one that holds arrays, or unset it.")
    return folder


FOLDERS = {name: _folder(name) for name in ("more", "official")}
OURS = {folder for folder in FOLDERS.values() if folder.parent == GOLDEN}
ARE_OURS = len(OURS) == len(FOLDERS)
# Of arrays of other shapes; each test may demand more of ours, of which it is known what rounding leaves.
OTHERS_RELATIVE = 1e-4
KINDS = {  # kind: the folder, and keys that only its files hold
    "aim": ("more", {"t1.features", "t2.features"}),
    "arn": ("more", {"second_order_query", "relation"}),
    "ata": ("more", {"similarity_0", "appearance_transductive_0"}),
    "cmn": ("more", {"videos", "h", "fc.weight"}),
    "cpm2c": ("more", {"clean.logits_local", "motion_query"}),
    "d2st": ("more", {"spatial_offsets", "temporal_offsets"}),
    "emp_net": ("more", {"support_level0", "token_logits", "fused"}),
    "hyrsm_plusplus": ("more", {"temporal_loss_0", "weights_0"}),
    "matching_functions": ("more", {"joint_chamfer", "similarity"}),
    "simple_baselines": ("more", {"simpleshot_cl2n", "nbnn"}),
    "sloshnet": ("more", {"query_state0", "logits_query0_alone"}),
    "ta2n": ("more", {"mask_offsets", "w.firststage.locnet.0.weight"}),
    "tarn": ("more", {"EucCos.score", "Mult.score"}),
    "task_adapter": ("more", {"features_each_alone", "layers_adapted"}),
    "team": ("more", {"TEAM.logits", "support_instance_tokens"}),
    "ts_fsar": ("more", {"dc_vector", "clip_class_tokens"}),
    "clip_fsar": ("official", {"logits.ensemble06.merge_after", "text_test"}),
    "hyrsm": ("official", {"temporal_atte.w_qs.weight", "classification_layer.weight"}),
    "metrics": ("official", {"otam.logits", "euclidean_prototype.logits"}),
    "molo": ("official", {"motion_reduce.weight", "loss_reconstruction_unweighted"}),
    "strm": ("official", {"second_head.clsW.weight", "logits.patch"}),
    "trx": ("official", {"logits.2,3", "transformers.1.k_linear.weight"}),
}
Arrays = dict[str, Tensor]


@cache
def kind_of(path: Path) -> str | None:
    """The kind of a file, by its keys; None if it is of none."""
    with np.load(path) as arrays:
        held = set(arrays.files)
    kinds = [kind for kind, (folder, keys) in KINDS.items() if keys <= held and path.parent == FOLDERS[folder]]
    assert len(kinds) <= 1, f"{path} holds the keys of several kinds: {kinds}"
    return kinds[0] if kinds else None


def files(folder: str) -> list[Path]:
    """All array files of a folder."""
    return sorted(FOLDERS[folder].glob("*.npz"))


def golden(kind: str) -> pytest.MarkDecorator:
    """Run a test, which takes `arrays`, once for every file of a kind; it is skipped where there is none."""
    paths = [path for path in files(KINDS[kind][0]) if kind_of(path) == kind]
    return pytest.mark.parametrize("arrays", [pytest.param(path, id=path.stem) for path in paths], indirect=True)


def read(path: Path) -> Arrays:
    """The arrays of a file: float32 where they are floats (half precision is widened), int64 or uint8 where they are not."""
    with np.load(path) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    for name, array in arrays.items():
        if array.is_floating_point():
            arrays[name] = array.float()
        elif array.dtype != torch.uint8:
            arrays[name] = array.long()
    return arrays


def under(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def assert_close(ours: Tensor, theirs: Tensor, *, relative: float = 1e-4, terms: float = 1e-30) -> None:
    """Assert that two arrays of one shape differ by at most `relative` of the largest value of the golden one.

    Args:
        ours: our array.
        theirs: the golden one.
        relative: for our files; those of another folder may differ by `OTHERS_RELATIVE`.
        terms: size of what is summed up to the values, whose rounding is left where they nearly cancel.
    """
    assert tuple(ours.shape) == tuple(theirs.shape)
    largest = max(float(theirs.double().abs().max()), terms)
    off = float((ours.detach().double() - theirs.double()).abs().max()) / largest
    allowed = relative if ARE_OURS else max(relative, OTHERS_RELATIVE)
    assert off <= allowed, f"off by {off:.2e} of the largest value"


def share_of(part: int, width: int) -> float:
    """A share of `width` that is `part` however it is rounded to a whole number downwards."""
    return (part + 0.5) / width


def by_class(arrays: Arrays, support: Tensor) -> Tensor:
    """Supports in any order `[N * K, ...]`, with `support_labels`, as `[N, K, ...]`."""
    order = arrays["support_labels"].argsort(stable=True)
    return support[order].unflatten(0, (int(arrays["support_labels"].max()) + 1, -1))


def episode(arrays: Arrays, name: str = "") -> EpisodeBatch:
    """The episode of an official file as a batch of one.

    Args:
        arrays: the arrays.
        name: ending of the arrays to take in place of the features, such as "_pixels".
    """
    support = by_class(arrays, arrays[f"support{name}"])[None]
    N = support.shape[1]
    return EpisodeBatch(
        support=support,
        query=arrays[f"query{name}"][None],
        labels=arrays["query_labels"][None],
        classes=arrays.get("classes", torch.arange(N))[None],
        class_text=torch.zeros(1, N, 0),
    )


def scores(method: FewShotMethod, episodes: EpisodeBatch) -> Scores:
    """Scores of a batch of episodes, encoded as in training; those from a bank, where videos are indexed, agree."""
    support, query = method.episode_features(episodes)
    plain = method.score_episodes(support, query, episodes.class_text)
    with torch.no_grad():
        once = [
            VideoFeatures(**{name: x.flatten(0, dims - 1) for name, x in features.items()})
            for features, dims in ((support, 3), (query, 2))
        ]
        indexed = [method.index(features) for features in once]
        banked = indexed[0].view(*support.leading(3)), indexed[1].view(*query.leading(2))
        assert_close(method.score_episodes(*banked, episodes.class_text).total, plain.total.detach())
    return plain


def assert_gradients_close(ours: Arrays, theirs: Arrays) -> None:
    """Assert that gradients of the same names agree to 1e-4, or to the rounding of the largest of all (10 times that elsewhere).

    Those that are zero but for rounding (below 1e-5 of the largest of all) may be off by 1e-5 of the largest of all.
    """
    assert theirs
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        is_zero = float(gradient.abs().max()) < 1e-5 * largest
        off = float((ours[name].double() - gradient.double()).abs().max())
        rounding = torch.finfo(torch.float32).eps * largest * (1 if ARE_OURS else 10)
        allowed = 1e-5 * largest if is_zero else max(1e-4 * float(gradient.abs().max()), rounding)
        assert tuple(ours[name].shape) == tuple(gradient.shape), name
        assert off <= allowed, f"gradient of {name} is off by {off:.2e}, {allowed:.2e} is allowed"
