"""One cell: method x dataset x protocol x seed, from its resolved config to its stored result. Runs in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

from fsar_bench.errors import ConfigError, FsarBenchError, NotApplicableError, ResultError

FIT_EPISODES = 1000  # val episodes on which `FewShotMethod.fit` chooses


def work_folder(cell: dict, work_dir: Path) -> Path:
    """Where a cell keeps its log and score parts."""
    return work_dir / cell["dataset"]["name"] / f"{cell['name']}-{cell['hash'][:8]}"


def main(cell: dict, options: dict, connection: Connection) -> None:
    """Body of a cell's process: log to a file, report through the connection, end with "done", "failed" or "not applicable"."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        with lock:
            connection.send(("progress", stage, done, total, note))

    folder = work_folder(cell, Path(options["work_dir"]))
    log = folder / "log.txt"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = log.open("a", buffering=1)
        except OSError as error:
            raise ResultError(
                f"Cannot write {folder} ({error.strerror}). Choose another folder with work_dir=."
            ) from error
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
        connection.send(("done", str(run(cell, options, report))))
    except FsarBenchError as error:
        traceback.print_exc()
        connection.send(("not applicable" if isinstance(error, NotApplicableError) else "failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        connection.send(
            ("failed", f"{reason}. This is not an error that fsar-bench foresees: the whole of it is in {log}.")
        )
    finally:
        sys.stdout.flush()


def _die_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build_method(cell: dict, *, for_training: bool = False):
    """Import what the cell's config names, then build backbone and method on the CPU.

    For training, arguments that change the score alone keep their defaults: cells that share a training then also share the
    choice of its checkpoint.

    Raises:
        ConfigError: unknown types or arguments.
        NotApplicableError: the method needs class names, and the backbone has no text encoder.
        WeightsError: weights that cannot be loaded.
    """
    from fsar_bench.engine.runner import seed_torch
    from fsar_bench.method import Traits
    from fsar_bench.registry import BACKBONES, METHODS, build, import_components

    import_components(cell["custom_imports"], cell["folder"])
    seed_torch(cell["protocol"]["seed"], "backbone")  # one without weights is random
    backbone = build(BACKBONES, {k: v for k, v in cell["backbone"].items() if k != "name"})
    seed_torch(_training_seed(cell), "initialisation")
    METHODS.import_from_location()
    config, kind = cell["method"], METHODS.get(cell["method"]["type"])
    if for_training:
        config = {key: value for key, value in config.items() if key not in getattr(kind, "score_only", ())}
    method = build(METHODS, config, backbone=backbone)
    if not isinstance(getattr(method, "traits", None), Traits):
        raise ConfigError(f"The method {cell['method']['type']} declares no traits. Give it traits = Traits(...).")
    if method.traits.uses_class_names and not backbone.has_text:
        raise NotApplicableError(
            f"{cell['name']} uses class names, and the backbone {cell['backbone']['name']} has no text encoder: choose a CLIP "
            "backbone with backbone=."
        )
    if method.traits.trainable and "train" not in cell:
        raise ConfigError(f"The method {cell['name']} is trainable, but its config has no train=dict(...).")
    return method


def _training_seed(cell: dict) -> int:
    """Seed of initialisation, training episodes and dropout: that of the episodes unless train.seed says otherwise."""
    return cell.get("train", {}).get("seed", cell["protocol"]["seed"])


@dataclass(frozen=True)
class Keys:
    """What stored work depends on."""

    training: str | None  # what changes a checkpoint
    embedding: str  # what changes encoded clips, the weights aside
    weights: str  # fingerprint of the pretrained weights, taken before training


def _keys(cell: dict, method, splits, source, device) -> Keys:
    from fsar_bench.config.overrides import digest

    protocol, plan = cell["protocol"], source.plan
    geometry = [plan.resize, plan.crop, plan.frames, source.reader_version]
    code = {name: sha for name, sha in cell["inputs"].items() if name.startswith("module")}
    weights, libraries = method.backbone.fingerprint(), [version(name) for name in method.backbone.libraries]
    embedding = digest([cell["engine"], cell["backbone"], geometry, protocol["sampling"], code, libraries, device.type])
    if not method.traits.trainable or cell["checkpoint"]:
        return Keys(None, embedding, weights)
    trained = {
        "engine": cell["engine"],
        "method": {k: v for k, v in cell["method"].items() if k not in method.score_only},
        "train": cell["train"],
        "template": protocol["template"],
        "seed": protocol["seed"],
        "embedding": embedding,
        "inputs": cell["inputs"],
        "weights": weights,
        "splits": [split.fingerprint for split in splits],
        **({"group_disjoint": True} if protocol.get("group_disjoint") else {}),
    }
    return Keys(digest(trained), embedding, weights)


def run(cell: dict, options: dict, report, *, use: Callable | None = None):
    """Train (if the method is trainable), choose on val (if it asks for it), encode, score, store; finished work is taken up.

    Args:
        use: called with the finished method and the test `Evaluation` instead of encoding, scoring and storing; nothing is
            trained then.

    Returns:
        Folder of the result, or what `use` gives.

    Raises:
        ResultError: `use` is given, and the trained weights are not in the work folder.
    """
    from filelock import FileLock, Timeout

    from fsar_bench.data.dataset import Dataset, split_closed
    from fsar_bench.data.decode import ReadPlan
    from fsar_bench.data.frames import FrameSource
    from fsar_bench.engine.device import choose_device
    from fsar_bench.engine.episodes import Evaluation
    from fsar_bench.engine.record import store_result
    from fsar_bench.engine.runner import EpisodicRunner

    report("starting", 0, 1)
    device, protocol = choose_device(options["device"]), cell["protocol"]
    folder = work_folder(cell, Path(options["work_dir"]))
    try:
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ResultError(f"Another run is working in {folder}. Wait for it, or choose another work_dir=.") from None
    dataset = Dataset(**cell["dataset"])
    method = build_method(cell, for_training=True)
    trains = method.traits.trainable and not cell["checkpoint"]
    if not trains:
        method = build_method(cell)  # nothing is trained, so every argument holds from the start
    selects = trains or method.fits
    if selects and protocol["split"] in ("train", "val"):
        raise ConfigError(
            f"The protocol tests on {protocol['split']!r}, which {cell['name']} trains or is selected on."
        )
    backbone = method.backbone.to(device)
    read = ReadPlan(
        "images" if dataset.frames else cell["reader"], backbone.resize, backbone.crop, protocol["frames"], cell["whole_up_to"],
        tuple(cell["custom_imports"]), cell["folder"],
    )  # fmt: skip

    def encode_text(split):
        if not backbone.has_text:
            return backbone.mean.new_zeros(len(split.texts), 0)
        return backbone.encode_text([protocol["template"].format(text) for text in split.texts])

    with FrameSource(read, workers=options["workers"], seconds=options["decode_timeout"]) as source:
        splits = [dataset.split(name) for name in ("train", "val")] if trains else []
        keys = _keys(cell, method, splits, source, device)
        evaluation = partial(
            Evaluation,
            dataset=dataset,
            encode_text=encode_text,
            source=source,
            batch=options["score_batch"],
            bank_store=_embedding_store(method, keys),
            group_disjoint=protocol.get("group_disjoint", False),
        )
        drawn = {k: protocol[k] for k in ("way", "shot", "query", "episodes", "seed")}
        test = evaluation(name=protocol["split"], episodes=drawn)
        runner_of = partial(
            EpisodicRunner, device=device, work_dir=folder, test=test, seed=_training_seed(cell), report=report
        )
        bank_store, seconds, sha = None, {}, ""
        if trains:
            text = encode_text(splits[0])
            method.prepare(text)
            if use and not (_training_folder(cell, options, keys) / "finished.json").exists():
                raise ResultError(
                    f"The trained weights of {cell['title']} are not in {_training_folder(cell, options, keys)}. Name the "
                    "work_dir= of the run, or train again with fsar-bench run and overwrite=true."
                )
            training = _train(cell, options, method, keys, runner_of, evaluation, splits[0], text, source)
            runner, method, bank_store = training.runner, training.method, training.bank_store
            test.bank_store = test.bank_store or bank_store
            seconds, sha = training.seconds, training.sha
        else:
            if cell["checkpoint"]:
                sha = _load_checkpoint(cell, method, encode_text(dataset.split("train")))
                test.bank_store = test.bank_store or (folder / "bank", f"{keys.embedding}|{sha}")
            runner = runner_of(method)
        fitted = None
        if method.fits:
            with split_closed("test"):
                fitted = _fit(method, evaluation, {**drawn, "query": 1, "episodes": FIT_EPISODES}, bank_store, report)
        if use:
            return use(method, test)
        # Parts of the scores are taken up again only if weights, checkpoint, choice and clips are still the same.
        state = f"{keys.embedding}|{keys.weights}|{sha}|{test.split.fingerprint}" + (f"|{fitted}" if fitted else "")
        test.store = folder / f"scores-{hashlib.sha256(state.encode()).hexdigest()[:8]}"
        runner.test()
        return store_result(cell, options, method, runner, keys, device, seconds, fitted)


def _training_folder(cell: dict, options: dict, keys: Keys) -> Path:
    return Path(options["work_dir"]) / cell["dataset"]["name"] / f"{cell['name']}-training-{keys.training[:8]}"


@dataclass(frozen=True)
class _Training:
    """What is left of a finished training."""

    runner: object
    method: object  # with the best checkpoint loaded, and the arguments that change the score alone
    seconds: dict
    sha: str  # of the best checkpoint
    bank_store: tuple[Path, str]


def _train(cell, options, method, keys: Keys, runner_of, evaluation, split, text, source) -> _Training:
    """Train, or take up a finished training, and load its best checkpoint."""
    from filelock import FileLock

    from fsar_bench.engine.checkpoint import load_best
    from fsar_bench.engine.episodes import TrainEpisodes, known_recordings

    train, seed, device = cell["train"], cell["protocol"]["seed"], text.device
    drawn = {"way": train["way"], "shot": train["shot"], "query": 1, "episodes": train["val_episodes"], "seed": seed}
    folder = _training_folder(cell, options, keys)
    val = evaluation(name="val", episodes=drawn)
    recording = known_recordings(val.dataset, split) if val.group_disjoint else None
    runner = runner_of(
        method,
        train=train,
        episodes=TrainEpisodes(
            split, text, source, train, seed=_training_seed(cell), device=device, recording=recording
        ),
        val=val,
        training_folder=folder,
        checkpoint_seconds=options["checkpoint_seconds"],
    )
    finished, best = folder / "finished.json", folder / "best.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not finished.exists():
            runner.train()
            _write_json(finished, {"train": runner.training_seconds})
        seconds = json.loads(finished.read_text())
    if any(argument in cell["method"] for argument in method.score_only):
        method = build_method(cell)
        method.prepare(text)
        runner.model = method = method.to(device)
    load_best(best, method)
    sha = hashlib.sha256(best.read_bytes()).hexdigest()
    return _Training(runner, method, seconds, sha, (folder / "bank", f"{keys.embedding}|{sha}"))


def _load_checkpoint(cell: dict, method, text) -> str:
    """Load the checkpoint that the cell names; returns its SHA-256."""
    from fsar_bench.engine.checkpoint import load_best

    method.prepare(text)
    load_best(Path(cell["checkpoint"]), method)
    return cell["inputs"]["checkpoint"]


def _fit(method, evaluation, drawn: dict, bank_store, report) -> dict:
    """Let the method choose weights of its score on val episodes; the clips are encoded once."""
    from fsar_bench.engine.bank import build_bank
    from fsar_bench.engine.scoring import score_plan

    val = evaluation(name="val", episodes=drawn)
    store, key = val.bank_store or bank_store or (None, "")
    bank = build_bank(
        method, val.split, val.plan.used_clips, val.class_text, val.source,
        store=store, store_key=key, progress=lambda done, total: report("choosing on val: encoding", done, total),
    )  # fmt: skip
    tried = 0

    def accuracy() -> float:
        nonlocal tried
        tried += 1
        report("choosing on val", tried, tried)
        scores = score_plan(method, bank, val.plan, val.class_text, batch=val.batch)
        return float(100 * (scores.prediction == val.plan.labels).mean())

    return method.fit(accuracy)


def _embedding_store(method, keys: Keys) -> tuple[Path, str] | None:
    """Where frozen features are cached for all methods; None for a method that changes the encoder."""
    from fsar_bench.io import cache_folder

    if not method.shares_embedding:
        return None
    return cache_folder() / "features", f"{keys.embedding}|{keys.weights}"


def _write_json(path: Path, data: dict) -> None:
    from fsar_bench.io import to_json, write_atomically

    write_atomically(path, to_json(data))
