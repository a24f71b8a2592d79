"""`fsar-bench data`: published lists in, clips on a disk found, annotations out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing.classes import SPLITS, table
from fsar_bench.data.importing.lists import PublishedList, read_lists, recognise
from fsar_bench.errors import ConfigError, DataError

SHOWN = 10  # names of one kind of fault
SHOTS = (1, 5)  # of the leak audit
SAMPLE = 200  # clips whose duration is looked up


def import_command(dataset: str, lists: Path, *, accept: bool) -> int:
    """Read published lists, say which lineage they are and what is wrong with them, and keep them; returns the exit code."""
    console = Console(soft_wrap=True, highlight=False)
    read = read_lists(dataset, lists)
    for split in SPLITS:
        rows = read.rows.get(split)
        if rows:
            console.print(f"{split}: {len({name for name, _ in rows})} classes, {len(rows)} videos")
    _faults(console, read)
    lineage, differences = recognise(read)
    console.print(lineage.title if lineage else "\n".join(differences))
    base, _, wanted = dataset.partition("@")
    if lineage is None and not accept:
        raise DataError(
            f"These are not the lists of {table(dataset).title} that others use. Results on them compare with nothing published: "
            "say --accept to use them all the same."
        )
    if lineage and wanted and lineage.name != wanted:
        raise DataError(f"These are the lists of {base}@{lineage.name}, not of {dataset}.")
    name = dataset
    if f"{base}@{lineage.name}" in preparing.known_names() if lineage else False:
        name = f"{base}@{lineage.name}"
    if name not in preparing.known_names():
        raise ConfigError(
            f"{base} has several lists: name one of {', '.join(n for n in preparing.known_names() if n.startswith(base))}."
        )
    path = preparing.store_list(name, read, lineage.name if lineage else "")
    console.print(f"kept as {path}. Next: fsar-bench data prepare {name} --root DIR")
    return 0


def _faults(console: Console, read: PublishedList) -> None:
    kinds = {
        "stands twice": [f"{split}: {name}/{video}" for split, name, video in read.duplicates],
        "stands in several splits": [f"{video} ({', '.join(splits)})" for video, splits in read.in_two_splits.items()],
        "has several spellings": [f"{name} ({', '.join(found)})" for name, found in read.spellings.items()],
        "is in another split": read.misplaced,
    }
    for what, rows in kinds.items():
        for row in rows[:SHOWN]:
            console.print(f"[yellow]{what}[/]: {escape(row)}")
        if len(rows) > SHOWN:
            console.print(f"[yellow]{what}[/]: {len(rows) - SHOWN} more")


def prepare_command(dataset: str, root: Path) -> int:
    """Find the clips of a dataset, say what is missing, and write its annotation; returns the exit code."""
    preparing.check_name(dataset)
    console = Console(soft_wrap=True, highlight=False)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("looking for clips")

        def progress(count: int) -> None:
            bar.update(task, description=f"looking for clips: {count}")

        if dataset == "custom":
            found = preparing.prepare_custom(dataset, root, progress)
        else:
            found = preparing.prepare(dataset, root, progress)
    path = preparing.store(found)
    report = Table("split", "classes", "clips found", "of", "coverage %", box=None, pad_edge=False)
    for split, classes in found.coverage().items():
        here, listed = (sum(pair[i] for pair in classes.values()) for i in (0, 1))
        report.add_row(split, str(len(classes)), str(here), str(listed), f"{100 * here / listed:.2f}")
    console.print(report)
    gaps = [
        (split, name, *pair)
        for split, classes in found.coverage().items()
        for name, pair in classes.items()
        if pair[0] < pair[1]
    ]
    for split, name, here, listed in sorted(gaps, key=lambda gap: gap[2] / gap[3])[:SHOWN]:
        console.print(f"{split}, {escape(name)}: {here} of {listed}")
    if len(gaps) > SHOWN:
        console.print(f"{len(gaps) - SHOWN} more classes lack clips")
    for clip, taken in sorted(found.ambiguous.items())[:SHOWN]:
        console.print(f"[yellow]several files[/] have {escape(clip)}; taken: {escape(taken)}")
    if len(found.ambiguous) > SHOWN:
        console.print(f"[yellow]several files[/] have {len(found.ambiguous) - SHOWN} more clips")
    if found.missing:
        console.print(f"{len(found.missing)} clips are missing; their ids: {path.with_name('missing.txt')}")
        console.print(
            "The episodes stay those of the full list: a missing clip is replaced within its episode, and the row says so."
        )
    console.print(f"annotation: {path}\nNext: fsar-bench run methods=otam_frozen dataset={dataset}")
    return 0


def _dataset(name: str):
    """A dataset by config name or path, and the folder of its verification."""
    from fsar_bench.config.resolve import load
    from fsar_bench.data.dataset import Dataset
    from fsar_bench.io import annotation_file, cache_folder

    config, _, path = load("datasets", name)
    if "dataset" not in config:
        raise ConfigError(f"The dataset config {path} lacks dataset=dict(...).")
    prepared = config["dataset"]["annotation"].startswith("prepared:")
    dataset = Dataset(**config["dataset"])
    own = (
        annotation_file(config["dataset"]["annotation"]).parent
        if prepared
        else cache_folder() / "verify" / dataset.name
    )
    return dataset, own, prepared


def verify_command(name: str, *, reader: str, workers: int, seconds: float, accept: bool) -> int:
    """Decode every clip once and name the bad ones; returns the exit code (1 if bad clips are not accepted)."""
    from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

    from fsar_bench.data.importing.verify import all_clips, verify, write_quarantine

    dataset, folder, prepared = _dataset(name)
    console = Console(soft_wrap=True, highlight=False)
    columns = (TextColumn("decoding"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        verdicts = verify(
            all_clips(dataset),
            reader="images" if dataset.frames else reader,
            workers=workers,
            seconds=seconds,
            log=folder / "verified.jsonl",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    bad = [verdict for verdict in verdicts if verdict.reason]
    for verdict in bad:
        console.print(f"[red]✗[/] {verdict.split}, {escape(verdict.clip.class_name)}: {escape(verdict.reason)}")
    console.print(f"{len(verdicts) - len(bad)} of {len(verdicts)} clips decode")
    if not bad:
        return 0
    path = folder / "quarantine.json"
    write_quarantine(path, bad, accept=accept and prepared)
    if accept and prepared:
        console.print(f"Left out from now on, as missing clips: {path}")
        return 0
    then = (
        f"replace the files, or leave them out with fsar-bench data verify {name} --accept"
        if prepared
        else "restore the files"
    )
    console.print(f"Listed in {path}. Runs stop at these clips: {then}.")
    return 1


def parity_command(name: str, *, readers: str, count: int, workers: int, seconds: float) -> int:
    """Print how much two readers differ on a sample of clips; returns the exit code."""
    from fsar_bench.data.importing.verify import all_clips, parity, sample

    both = tuple(part.strip() for part in readers.split(","))
    if len(both) != 2:
        raise ConfigError(f"--readers={readers} must name two readers, such as decord,pyav.")
    dataset, _, _ = _dataset(name)
    if dataset.frames:
        raise ConfigError(f"The clips of {name} are folders of images: there is one reader for them.")
    console = Console(soft_wrap=True, highlight=False)
    rows = parity(sample(all_clips(dataset), count), both, workers=workers, seconds=seconds)
    report = Table("clip", "mean difference", "largest", box=None, pad_edge=False)
    for clip, mean, largest in sorted(rows, key=lambda row: -row[1])[:SHOWN]:
        report.add_row(escape(f"{clip.class_name}/{clip.id}"), f"{mean:.3f}", f"{largest:.0f}")
    console.print(report)
    whole = sum(mean for _, mean, _ in rows) / len(rows)
    console.print(
        f"{both[0]} and {both[1]}, {len(rows)} clips: mean difference {whole:.3f} of 255; the largest stand above"
    )
    return 0


def stats_command(name: str) -> int:
    """Classes and clips of each split, and the leak audit; returns the exit code."""
    import numpy as np

    from fsar_bench.data.importing.audit import leak, recordings
    from fsar_bench.data.importing.verify import all_clips, sample, seconds_of
    from fsar_bench.errors import ProtocolError
    from fsar_bench.plan import EpisodePlan

    dataset, _, _ = _dataset(name)
    console = Console(soft_wrap=True, highlight=False)
    report = Table("split", "classes", "clips", "missing", "clips a class", box=None, pad_edge=False)
    for split in map(dataset.split, dataset.names):
        sizes = [len(clips) for clips in split.list.clips]
        report.add_row(
            split.name, str(len(sizes)), str(sum(sizes)), str(len(split.missing)), f"{min(sizes)} to {max(sizes)}"
        )
    console.print(report)
    durations = [found for clip in sample(all_clips(dataset), SAMPLE) if (found := seconds_of(clip)) is not None]
    if durations:
        low, middle, high = (float(np.quantile(durations, q)) for q in (0.0, 0.5, 1.0))
        console.print(
            f"seconds of {len(durations)} clips, spread over all: {low:.1f} to {high:.1f}, median {middle:.1f}"
        )
    for split in map(dataset.split, dataset.names):
        recording = recordings(dataset.name, split)
        if recording is None:
            continue
        for shot in SHOTS:
            try:
                plan = EpisodePlan.sample(
                    split.list,
                    way=5,
                    shot=shot,
                    query=1,
                    episodes=10_000,
                    seed=0,
                    purpose=split.name,
                    missing=split.missing,
                )
            except ProtocolError as error:
                console.print(f"{split.name}, 5-way {shot}-shot: {error}")
                continue
            console.print(
                f"leak, {split.name}, 5-way {shot}-shot: {leak(plan, recording):.1f} % of queries share their source recording "
                "with a support clip of their class"
            )
    if recordings(dataset.name, dataset.split(dataset.names[0])) is None:
        console.print("leak audit: the names of these clips do not tell their source recording")
    return 0
