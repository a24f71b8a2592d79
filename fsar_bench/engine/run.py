"""run_cell: one cell from its resolved config to its stored result, in this process."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from fsar_bench.config.cell import LOG, Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.data.dataset import Dataset, open_dataset, split_closed
from fsar_bench.data.decode import ReadPlan
from fsar_bench.data.frames import FrameSource, closing_sources, frame_source
from fsar_bench.engine.bank import BankPlace, BankStore, FeatureBank, build_bank
from fsar_bench.engine.checkpoint import load_best, load_named
from fsar_bench.engine.components import build_method
from fsar_bench.engine.controls import check_takes_differences
from fsar_bench.engine.device import choose_device, reset_peak_memory
from fsar_bench.engine.episodes import EvaluationEpisodes, encode_class_text, prepare_method
from fsar_bench.engine.hashing import hash_splits
from fsar_bench.engine.keys import Keys, make_keys
from fsar_bench.engine.leaks import LeakCheck
from fsar_bench.engine.locks import alone_in
from fsar_bench.engine.memory import Room
from fsar_bench.engine.places import remember_places
from fsar_bench.engine.record import make_cost, make_result
from fsar_bench.engine.scoring import PlanScores, ScoreStore, score_plan
from fsar_bench.engine.state import finished_training, note_start
from fsar_bench.engine.sweep import unwritten
from fsar_bench.engine.training import Plans, Trained, train_or_reuse
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.io import cache_folder, naming_disks
from fsar_bench.method import FewShotMethod
from fsar_bench.progress.events import STARTING, Event, Listener, counter, listening, report, silent
from fsar_bench.results.metrics import pair_outcomes
from fsar_bench.results.predictions import measure, pack_predictions
from fsar_bench.results.store import Stored, write
from fsar_bench.writing.streams import open_log

FIT_EPISODES = 1000  # val episodes on which `FewShotMethod.fit` chooses


def run_cell(cell: Cell, options: RunOptions, progress: Listener = silent) -> Stored:
    """Train if needed, choose on val, encode, score and store. Stages that already finished are reused.

    Args:
        cell: what to run.
        options: how to run it.
        progress: is told how far each stage is.

    Raises:
        FsarBenchError: something that the user can fix; the message names it.
    """
    with naming_disks(out=options.out, work_dir=options.work_dir), CellRun.open(cell, options, progress) as run:
        run.check_clips()
        run.train()
        run.learn()
        run.choose()
        bank = run.encode()
        scores = run.score(bank)
        return run.store(bank, scores)


@dataclass
class CellRun:
    """A cell while it runs: its method, its data, and what its stages found out.

    Attributes:
        cell: what runs.
        options: how it runs.
        device: where the method runs.
        dataset: the clips of the training and of val.
        source: frames of the tested clips.
        train_source: frames of the clips of the training and of val.
        method: built, on the device; `train` gives it its trained weights.
        keys: hashes of what stored work depends on.
        test: the episodes that are evaluated.
        trained: the training; None where nothing was trained here.
        checkpoint: SHA-256 of the trained weights; empty where there are none.
        fitted: what the method chose on val; None where it chooses nothing.
        learned_from: SHA-256 of the train clips whose statistics the score uses; None where it uses none.
    """

    cell: Cell
    options: RunOptions
    device: torch.device
    dataset: Dataset
    source: FrameSource
    train_source: FrameSource
    method: FewShotMethod
    keys: Keys
    test: EvaluationEpisodes
    trained: Trained | None = None
    checkpoint: str = ""
    fitted: dict[str, float | str] | None = None
    learned_from: str | None = None
    _test_text: Tensor | None = field(default=None, init=False)

    @classmethod
    @contextlib.contextmanager
    def open(cls, cell: Cell, options: RunOptions, progress: Listener = silent) -> Iterator[CellRun]:
        """Lock the work folder, build the method and open its data, whose decode processes end with this.

        Raises:
            BusyError: another run works in the folder.
            ResultError: the folder cannot be written.
            ConfigError: names that do not exist, or a protocol that tests on what the method is trained on.
        """
        with _working(options.work_dir / cell.work_folder, progress) as folder, closing_sources():
            if options.overwrite:
                _clear(folder)
            remember_places(cell, folder)
            report(f"{STARTING}: building the method, opening the data", 0, 1)
            device = choose_device(options.device)
            reset_peak_memory(device)
            method = build_method(cell)
            trains = method.traits.trainable and not cell.setup.checkpoint
            learns_from = {"train": trains or method.reads_train_bank, "val": trains or method.fits}
            if learns_from.get(cell.protocol.split):
                raise ConfigError(
                    f"The protocol tests on {cell.protocol.split!r}, which {cell.name} is trained or selected on."
                )
            if cell.protocol.frames_as == "differences":
                check_takes_differences(method, cell.protocol.frames)
            dataset, train_dataset = (open_dataset(**d.model_dump()) for d in (cell.dataset, cell.train_dataset))
            source, train_source = (source_of(cell, options, method, d) for d in (dataset, train_dataset))
            splits = [train_dataset.split(name) for name in ("train", "val")] if trains else []
            keys = make_keys(cell, method, splits, source, train_source, device)
            note_start(cell, folder, keys.training)
            p = cell.protocol
            test = episodes_of(cell, options, source.plan, p.split, p.way, p.shot, p.query, p.episodes)
            yield cls(cell, options, device, train_dataset, source, train_source, method.to(device), keys, test)

    @property
    def folder(self) -> Path:
        """Where log, score parts and encoded clips are stored."""
        return self.options.work_dir / self.cell.work_folder

    @property
    def training_folder(self) -> Path:
        """Where the training is stored; cells that share it share the folder."""
        return self.options.work_dir / self.cell.training_folder(self.keys.training or "")

    @property
    def bank_store(self) -> BankStore | None:
        """Where encoded clips are stored; frozen plain embeddings go to a cache that all methods share."""
        return self._bank_store(self.keys.embedding)

    def _bank_store(self, embedding: str) -> BankStore | None:
        place = self._bank_place(embedding)
        return place.store(self.checkpoint) if place.weights or self.checkpoint else None

    def _bank_place(self, embedding: str) -> BankPlace:
        if self.method.shares_embedding:
            return BankPlace(cache_folder() / "features", embedding, self.keys.weights)
        folder = self.training_folder if self.keys.training else self.folder
        return BankPlace(folder / "bank", embedding)

    @property
    def test_text(self) -> Tensor:
        """Text features of the tested classes, `[classes, C]`."""
        if self._test_text is None:
            self._test_text = encode_class_text(
                self.method.backbone, self.test.split, self.test.template, self.test.class_texts
            )
        return self._test_text

    def train(self) -> None:
        """Train, reuse a finished training, or load the checkpoint that the cell names; the method has its weights then."""
        checkpoint = self.cell.setup.checkpoint
        if checkpoint:
            self.checkpoint = self.cell.identity.inputs["checkpoint"]
        elif self.keys.training:
            store = self._bank_store(self.keys.train_embedding)
            plans = Plans(self.train_source.plan, self.source.plan)
            where = self.training_folder, self.keys.training
            place = self._bank_place(self.keys.embedding)
            self.trained = train_or_reuse(self.cell, self.options, plans, *where, store, place, self.device)
            self.checkpoint = self.trained.sha
        if not self.checkpoint:
            return
        prepare_method(self.method, self.dataset, self.cell.protocol.template, self.cell.identity.class_texts)
        self.method.to(self.device)
        if checkpoint:
            load_named(checkpoint, self.method)
        elif self.trained and self.keys.training:
            load_best(self.trained.checkpoint, self.method, made_from=self.keys.training, sha=self.trained.sha)

    def check_clips(self) -> None:
        """Read the tested clips whose contents are not known, and look for leaks, before a long training.

        The contents of the clips of the training are known since `open`.

        Raises:
            DataError: a clip is missing, empty, unreadable, or not the one that its annotation records.
            ProtocolError: a tested clip is one that the method learns from.
        """
        of_method = {"train": self.method.reads_train_bank, "val": self.method.fits}
        learns_from = [name for name, learns in of_method.items() if learns]
        hash_splits([*map(self.dataset.split, learns_from), self.test.split])
        LeakCheck()(self.cell, learns_from=("train", "val") if self.keys.training else tuple(learns_from))

    def need_training(self) -> None:
        """Raise `ResultError` unless the training of the cell is finished or not needed."""
        if self.keys.training and finished_training(self.training_folder, self.keys.training) is None:
            raise ResultError(
                f"The trained weights of {self.cell.label.row} are not in {self.training_folder}. Name the work_dir= of the "
                "run, or train again with fsar-bench run and overwrite=true."
            )

    def learn(self) -> None:
        """Let the method learn statistics of the train split, each clip encoded once; the test split stays closed."""
        if not self.method.reads_train_bank:
            return
        with split_closed("test"):
            split = self.dataset.split("train")
            clips = np.array([n for n, clip in enumerate(split.clips) if clip.id not in split.missing])
            bank = build_bank(
                self.method,
                split,
                clips,
                encode_class_text(self.method.backbone, split, self.cell.protocol.template),
                self.train_source,
                frames_as=self.cell.protocol.frames_as,
                queries_alone=True,
                store=self._bank_store(self.keys.train_embedding),
                room=self._room(),
                progress=counter("statistics of train: encoding"),
            )
            classes = torch.from_numpy(np.array(split.class_of)[clips].astype(np.int64)).to(self.device)
            self.method.learn_from_bank(bank.query.to(self.device), classes)
            self.learned_from = split.fingerprint

    def choose(self) -> None:
        """Let the method choose weights of its score on val episodes; the test split stays closed."""
        if not self.method.fits:
            return
        with split_closed("test"):
            p = self.cell.protocol
            plan = self.train_source.plan
            val = episodes_of(self.cell, self.options, plan, "val", p.way, p.shot, 1, FIT_EPISODES, tested=False)
            text = encode_class_text(self.method.backbone, val.split, val.template, val.class_texts)
            store = self._bank_store(self.keys.train_embedding)
            bank = self._bank(val, text, self.train_source, store, "choosing on val: encoding")
            tried = 0

            def accuracy() -> float:
                nonlocal tried
                tried += 1
                report("choosing on val", tried, tried)
                scores = score_plan(self.method, bank, val.plan, text, batch=self.options.score_batch)
                return float(100 * (scores.prediction == val.plan.labels).mean())

            self.fitted = self.method.fit(accuracy)

    def encode(self) -> FeatureBank:
        """Encode the clips of the test plan, each once per role."""
        return self._bank(self.test, self.test_text, self.source, self.bank_store, "encoding")

    def _bank(
        self, episodes: EvaluationEpisodes, text: Tensor, source: FrameSource, store: BankStore | None, stage: str
    ) -> FeatureBank:
        clips, control = episodes.plan.used_clips, self.cell.protocol.frames_as if episodes is self.test else "as_is"
        arguments = self.method, episodes.split, clips, text, source
        room = replace(self._room(), is_half=self.cell.protocol.features == "float16")
        return build_bank(*arguments, frames_as=control, store=store, room=room, progress=counter(stage))

    def _room(self) -> Room:
        """Memory for the clips of a plan, as much as there is now."""
        return Room.of(self.options.bank_budget, self.folder, self.device)

    def score(self, bank: FeatureBank) -> PlanScores:
        """Score the test plan. Partial scores are reused only if weights, checkpoint, fitted values and clips are unchanged."""
        state = f"{self.keys.embedding}|{self.keys.weights}|{self.checkpoint}|{self.test.split.fingerprint}"
        state += f"|{self.fitted}" if self.fitted else ""
        state += f"|{self.learned_from}" if self.learned_from else ""
        folder = self.folder / f"scores-{hashlib.sha256(state.encode()).hexdigest()[:8]}"
        return score_plan(
            self.method,
            bank,
            self.test.plan,
            self.test_text,
            batch=self.options.score_batch,
            store=ScoreStore(folder, f"{self.cell.hash}|{self.test.plan.realised}|{state}"),
            progress=counter("scoring"),
        )

    def store(self, bank: FeatureBank, scores: PlanScores) -> Stored:
        """Write the plan, the predictions, the cost and the record."""
        plan, out = self.test.plan, self.options.out
        pair = pair_outcomes(scores.total, plan, self.test.split.reverse)
        packed = pack_predictions(scores.prediction, pair)
        result = make_result(self, measure(scores.prediction, plan.labels, pair), packed)
        return write(out / "results", result, packed, make_cost(self, bank, scores), plan)


def source_of(cell: Cell, options: RunOptions, method: FewShotMethod, dataset: Dataset) -> FrameSource:
    """Frames of the clips of a dataset as a cell reads them."""
    plan = ReadPlan(
        reader="images" if dataset.frames else cell.identity.reader,
        resize=method.backbone.resize,
        crop=method.backbone.crop,
        frames=cell.protocol.frames,
        whole_up_to=cell.setup.whole_clips_up_to,
        modules=tuple(cell.identity.custom_imports),
        folders=cell.setup.module_folders,
    )
    return frame_source(plan, workers=options.workers, seconds=options.decode_timeout)


def episodes_of(
    cell: Cell,
    options: RunOptions,
    plan: ReadPlan,
    split: str,
    way: int,
    shot: int,
    query: int,
    episodes: int,
    *,
    tested: bool = True,
) -> EvaluationEpisodes:
    """Episodes of the tested dataset, or of that of the training."""
    return EvaluationEpisodes(
        split=split,
        dataset=(cell.dataset if tested else cell.train_dataset).model_dump(),
        frames={**vars(plan), "workers": options.workers, "seconds": options.decode_timeout},
        template=cell.protocol.template,
        class_texts=cell.identity.class_texts,
        way=way,
        shot=shot,
        query=query,
        episodes=episodes,
        seed=cell.protocol.seed,
        group_disjoint=cell.protocol.group_disjoint,
    )


@contextlib.contextmanager
def _working(folder: Path, progress: Listener) -> Iterator[Path]:
    """Hold the lock of a work folder; what libraries print goes to its log, and progress to the listener."""
    folder.mkdir(parents=True, exist_ok=True)
    outside = _outside(progress)
    with (
        open_log(folder / LOG, lambda error: outside(unwritten(folder / LOG, error))) as log,
        alone_in(folder),
        _printing_to(log, outside),
    ):
        yield folder


def _outside(progress: Listener) -> Listener:
    """The listener, with standard streams as they are now: it must not print to the log, least of all of a failed write there."""
    out, err = sys.stdout, sys.stderr

    def outside(event: Event) -> None:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            progress(event)

    return outside


@contextlib.contextmanager
def _printing_to(log: TextIO, outside: Listener) -> Iterator[None]:
    # Without a handler of ours, the first message of a library would make one, which would keep this log for ever.
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with listening(outside), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        logging.getLogger().removeHandler(handler)


def _clear(folder: Path) -> None:
    """Delete scores and encoded clips of an earlier run."""
    for path in (*folder.glob("scores-*"), folder / "bank"):
        shutil.rmtree(path, ignore_errors=True)
