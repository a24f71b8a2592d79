"""What a study costs before it starts: time, disk and memory of its cells, from what was measured before. Imports no torch.

Disk, in bytes, for cells that are not finished and nothing of which is stored yet:

- results: E Q for predictions, 4 E N (1 + K + q) for each distinct plan, both before they are packed, and 10 kB per cell;
- scores: 4 E Q N for each array of scores, kept in the work folder;
- checkpoints: 16 per trained parameter of a training: the best weights, and the last ones with two moments of AdamW;
- clips: encoded ones, as many bytes as a profile measured, per role; those of frozen encoders are stored once for all methods;
- frames: 3 bytes per pixel of the crop of each frame: T of tested and val clips, and of train clips as many as are cached whole.

Memory of a cell: the process, and the larger of its encoded clips and of a training step, whose memory grows with its clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fsar_bench.config.cell import Cell
from fsar_bench.config.fields import bytes_from_text
from fsar_bench.config.settings import RunOptions
from fsar_bench.data.dataset import datasets_kept_open, open_dataset
from fsar_bench.engine.forecast import Forecast, Known, backbone_of, forecast, method_of, stored_knowledge, work_of
from fsar_bench.engine.jobs import job_options
from fsar_bench.engine.machine import MachineProfile, MethodProfile
from fsar_bench.progress.estimate import Kind, Source, Work

RECORDS = 10_000  # bytes of the record and the cost of a cell
PER_PARAMETER = 16  # bytes of the checkpoints of a training: float32 of the best weights, the last ones and two moments
CROP = 224  # pixels, where the config of a backbone does not tell
STORED = 1 << 20  # bytes per clip above which encoded clips are not stored


@dataclass
class MethodCost:
    """What the cells of a method cost that are not finished.

    Attributes:
        title: of the method, with its backbone.
        cells: number of cells, the finished ones included.
        finished: number of those.
        trainings: distinct trainings that are not finished.
        seconds: of each kind of work; None where a rate is not known.
        sources: what the seconds of each kind follow from.
        disk: bytes by what they hold; None where too little is known.
        memory: bytes of its largest cell; None where too little is known.
        is_measured: the memory is that of such a cell that was run before.
    """

    title: str
    cells: int = 0
    finished: int = 0
    trainings: int = 0
    seconds: dict[Kind, float | None] = field(default_factory=dict)
    sources: dict[Kind, Source | None] = field(default_factory=dict)
    disk: dict[str, int | None] = field(default_factory=dict)
    memory: int | None = 0
    is_measured: bool = False

    @property
    def total(self) -> float | None:
        """Seconds of all kinds of work; None where one is not known."""
        return _sum(self.seconds.values())

    def add(self, what: str, size: int | None) -> None:
        """Add to the bytes on the disk."""
        before = self.disk.get(what, 0)
        self.disk[what] = None if before is None or size is None else before + size


@dataclass(frozen=True)
class Study:
    """What all cells cost.

    Attributes:
        methods: each of them.
        shared: bytes on the disk that methods share: frames, and encoded clips of frozen encoders.
        wall: seconds until all are done, with the jobs that the options ask for; None where too little is known.
        jobs: their number.
        source: where what is known comes from, in words; empty where nothing is.
    """

    methods: list[MethodCost]
    shared: dict[str, int]
    wall: float | None
    jobs: int
    source: str

    @property
    def seconds(self) -> float | None:
        """Seconds that devices are busy."""
        return _sum(method.total for method in self.methods)

    @property
    def disk(self) -> dict[str, int | None]:
        """Bytes by what they hold."""
        total: dict[str, int | None] = dict(self.shared)
        for method in self.methods:
            for what, size in method.disk.items():
                before = total.get(what, 0)
                total[what] = None if before is None or size is None else before + size
        return total

    @property
    def memory(self) -> int | None:
        """Bytes of the largest cell, as far as it is known of any."""
        return max((method.memory for method in self.methods if method.memory is not None), default=None)


@datasets_kept_open()
def study_of(cells: list[Cell], options: RunOptions, profile: tuple[MachineProfile, Known] | None = None) -> Study:
    """What cells cost.

    Args:
        cells: of the study.
        options: how they would run.
        profile: of the machine, and what it tells; None for what the results in `out` tell.

    Raises:
        DataError: a dataset is not prepared or damaged.
        ProtocolError: a dataset has no clips in a split.
        ResultError: a stored result is damaged.
    """
    known = profile[1] if profile else stored_knowledge(options.out, {backbone_of(cell) for cell in cells})
    foreseen = forecast(cells, options, known)
    measured = {one.method: one for one in profile[0].methods} if profile else {}
    rows: dict[str, MethodCost] = {}
    shared: dict[str, int] = {}
    once: set[object] = set()
    for number, cell in enumerate(cells):
        key = method_of(cell)
        row = rows.setdefault(key, MethodCost(f"{cell.label.row}, {cell.identity.backbone['name']}"))
        _Counter(cell, options, known, measured.get(key), once).count(row, shared, foreseen, number)
    unfinished = sum(state.kind != "finished" for state in foreseen.states)
    return Study(list(rows.values()), shared, foreseen.total, len(job_options(options, unfinished)), known.source)


@dataclass
class _Counter:
    """Adds what one cell costs; `once` has what was counted with an earlier one."""

    cell: Cell
    options: RunOptions
    known: Known
    profile: MethodProfile | None
    once: set[object]

    def count(self, row: MethodCost, shared: dict[str, int], foreseen: Forecast, number: int) -> None:
        """Add the cell to the row of its method, and to what methods share."""
        work, state = foreseen.works[number], foreseen.states[number]
        row.cells += 1
        if work is None:
            row.finished += 1
            return
        self._add_seconds(row, work)
        p = self.cell.protocol
        row.add("results", p.episodes * p.way * p.query + RECORDS)
        row.add("scores", 4 * p.episodes * p.way**2 * p.query * (self.profile.arrays if self.profile else 1))
        if self._is_first("plan", self.cell.identity.dataset.name, p.model_dump_json(exclude={"frames", "template"})):
            row.add("results", 4 * p.episodes * p.way * (1 + p.shot + p.query))
        if work.training and not state.is_trained and self._is_first("training", work.training):
            row.trainings += 1
            trained = self.known.trained.get(work.method)
            row.add("checkpoints", None if trained is None else PER_PARAMETER * trained)
        whole = work_of(self.cell, self.known.roles.get(work.method, 1))
        self._add_clips(row, shared, whole)
        self._add_frames(shared)
        self._add_memory(row, whole)

    def _is_first(self, *key: object) -> bool:
        is_first = key not in self.once
        self.once.add(key)
        return is_first

    def _add_seconds(self, row: MethodCost, work: Work) -> None:
        for kind, units in work.units().items():
            if units:
                rate, before = self.known.rates.seconds(kind, work), row.seconds.get(kind, 0.0)
                row.seconds[kind] = None if rate is None or before is None else before + units * rate
                row.sources[kind] = self.known.rates.source(kind, work)

    def _splits(self) -> Iterator[tuple[str, str, int]]:
        """Splits whose clips the cell reads, as JSON of their source, with their numbers of clips on this disk."""
        train = self.cell.identity.train is not None and not self.cell.setup.checkpoint
        sources = [(self.cell.dataset, self.cell.protocol.split)]
        sources += [(self.cell.train_dataset, name) for name in ("train", "val")] if train else []
        for source, name in sources:
            split = open_dataset(**source.model_dump()).split(name)
            yield source.model_dump_json(), name, len(split.clips) - len(split.missing)

    def _add_clips(self, row: MethodCost, shared: dict[str, int], work: Work) -> None:
        """Encoded clips: those of frozen encoders once for all methods, others once for a training."""
        one = self.profile
        if one is None:
            row.add("clips", None)
        elif one.clip > STORED or not (one.shared or work.training):
            row.add("clips", 0)
        elif one.shared:
            for source, name, count in self._splits():
                if name != "train" and self._is_first("clips", work.backbone, source, name):
                    shared["clips"] = shared.get("clips", 0) + one.clip * count
        else:
            videos = work.videos if self._is_first("clips", work.training, self.cell.protocol.split) else 0
            videos += work.val_videos if self._is_first("clips", work.training, "val") else 0
            row.add("clips", one.clip * videos)

    def _add_frames(self, shared: dict[str, int]) -> None:
        crop, T = int(self.cell.identity.backbone.get("crop", CROP)), self.cell.protocol.frames
        for source, name, count in self._splits():
            frames = T if name != "train" else self.cell.setup.whole_clips_up_to
            if self._is_first("frames", source, name, crop, frames):
                shared["frames"] = shared.get("frames", 0) + count * frames * crop * crop * 3

    def _add_memory(self, row: MethodCost, work: Work) -> None:
        if row.memory is None:
            return
        if self.profile is None:
            stored = self.known.memory.get(work.method)
            row.memory, row.is_measured = (stored or None), stored is not None
            return
        one = self.profile
        clips = one.indexed * max(work.videos, work.val_videos)
        if self.options.bank_budget not in ("auto", "none"):
            clips = min(clips, bytes_from_text(self.options.bank_budget))
        step = one.training * work.episode_videos // one.training_clips if one.training_clips else 0
        row.memory = max(row.memory, one.process + max(clips, step))


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
