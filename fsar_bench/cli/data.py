"""`fsar-bench data`: import published lists, find clips on a disk, and check them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fsar_bench.data.dataset import SPLITS, Dataset
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing.lists import PublishedList, read_lists, recognise, store_recognised
from fsar_bench.errors import ConfigError

SHOWN = 10  # rows of one kind that are printed


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def import_command(dataset: str, lists: Path, *, accept: bool) -> int:
    """Read published lists, report their lineage and their faults, and keep them.

    Args:
        dataset: name of the dataset, with or without a lineage.
        lists: folder with the list files, or one file.
        accept: keep lists of no known lineage.

    Returns:
        The exit code.
    """
    console = _console()
    published = read_lists(dataset, lists)
    for split in SPLITS:
        rows = published.rows.get(split)
        if rows:
            console.print(f"{split}: {len({row.class_name for row in rows})} classes, {len(rows)} videos")
    _print_faults(console, published)
    recognition = recognise(published)
    console.print(recognition.lineage.title if recognition.lineage else "\n".join(recognition.differences))
    stored = store_recognised(dataset, published, recognition, accept=accept)
    console.print(f"kept as {stored.path}. Next: fsar-bench data prepare {stored.name} --root DIR")
    return 0


def _print_faults(console: Console, published: PublishedList) -> None:
    for kind, faults in published.faults().items():
        for fault in faults[:SHOWN]:
            console.print(f"[yellow]{kind}[/]: {escape(fault)}")
        if len(faults) > SHOWN:
            console.print(f"[yellow]{kind}[/]: {len(faults) - SHOWN} more")


def prepare_command(dataset: str, root: Path) -> int:
    """Find the clips of a dataset, report what is missing, and write its annotation.

    Args:
        dataset: name of the dataset, or "custom".
        root: folder of the clips; for custom clips it may be a CSV.

    Returns:
        The exit code.
    """
    preparing.check_name(dataset)
    console = _console()
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("looking for clips")

        def progress(count: int) -> None:
            bar.update(task, description=f"looking for clips: {count}")

        prepared = preparing.prepare_any(dataset, root, progress)
    path = preparing.store(prepared)
    _print_coverage(console, prepared)
    if prepared.missing:
        console.print(f"{len(prepared.missing)} clips are missing; their ids: {path.with_name('missing.txt')}")
        console.print(
            "The episodes stay those of the full list: a missing clip is replaced within its episode, and the row says so."
        )
    console.print(f"annotation: {path}\nNext: fsar-bench run methods=all dataset={dataset}")
    return 0


def _print_coverage(console: Console, prepared: preparing.Prepared) -> None:
    coverage = prepared.coverage()
    report = _table("split", "classes", "clips found", "of", "coverage %")
    for split in SPLITS:
        classes = [row for row in coverage if row.split == split]
        if classes:
            available, listed = sum(row.available for row in classes), sum(row.listed for row in classes)
            report.add_row(split, str(len(classes)), str(available), str(listed), f"{100 * available / listed:.2f}")
    console.print(report)
    incomplete = [row for row in coverage if row.available < row.listed]
    for row in sorted(incomplete, key=lambda row: row.share)[:SHOWN]:
        console.print(f"{row.split}, {escape(row.class_name)}: {row.available} of {row.listed}")
    if len(incomplete) > SHOWN:
        console.print(f"{len(incomplete) - SHOWN} more classes lack clips")
    for clip, path in sorted(prepared.ambiguous.items())[:SHOWN]:
        console.print(f"[yellow]several files[/] have {escape(clip)}; taken: {escape(path)}")
    if len(prepared.ambiguous) > SHOWN:
        console.print(f"[yellow]several files[/] have {len(prepared.ambiguous) - SHOWN} more clips")


def _dataset(name: str) -> Dataset:
    """A dataset by config name or path."""
    from fsar_bench.config.resolve import dataset_config

    return Dataset(**dataset_config(name).dataset.model_dump())


def verify_command(name: str, *, reader: str, workers: int, seconds: float, accept: bool) -> int:
    """Decode every clip once and name the bad ones.

    Args:
        name: name of the dataset, or path of its config.
        reader: registered name of the reader.
        workers: number of decode processes.
        seconds: time limit per clip.
        accept: leave the bad clips of a prepared dataset out from now on.

    Returns:
        The exit code: 1 if bad clips are not accepted.
    """
    from fsar_bench.data.importing.verify import verify_dataset

    dataset = _dataset(name)
    console = _console()
    columns = (TextColumn("decoding"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        verification = verify_dataset(
            dataset,
            reader=reader,
            workers=workers,
            seconds=seconds,
            accept=accept,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    count = len(verification.verdicts)
    for verdict in verification.bad:
        console.print(f"[red]✗[/] {verdict.split}, {escape(verdict.clip.class_name)}: {escape(verdict.reason)}")
    console.print(f"{count - len(verification.bad)} of {count} clips decode")
    if not verification.bad:
        return 0
    if verification.is_left_out:
        console.print(f"Left out from now on, as missing clips: {verification.quarantine}")
        return 0
    advice = (
        f"replace the files, or leave them out with fsar-bench data verify {name} --accept"
        if verification.can_be_left_out
        else "restore the files"
    )
    console.print(f"Listed in {verification.quarantine}. Runs stop at these clips: {advice}.")
    return 1


def parity_command(name: str, *, readers: str, count: int, workers: int, seconds: float) -> int:
    """Print how much two readers differ on a sample of clips.

    Args:
        name: name of the dataset, or path of its config.
        readers: registered names of two readers, separated by a comma.
        count: number of clips.
        workers: number of decode processes.
        seconds: time limit per clip.

    Returns:
        The exit code.
    """
    from fsar_bench.data.importing.verify import compare_readers

    names = [part.strip() for part in readers.split(",")]
    if len(names) != 2:
        raise ConfigError(f"--readers={readers} must name two readers, such as decord,pyav.")
    first, second = names
    differences = compare_readers(_dataset(name), (first, second), count=count, workers=workers, seconds=seconds)
    report = _table("clip", "mean difference", "largest")
    for row in sorted(differences, key=lambda row: -row.mean)[:SHOWN]:
        report.add_row(escape(f"{row.clip.class_name}/{row.clip.id}"), f"{row.mean:.3f}", f"{row.largest:.0f}")
    console = _console()
    console.print(report)
    mean = sum(row.mean for row in differences) / len(differences)
    console.print(
        f"{first} and {second}, {len(differences)} clips: mean difference {mean:.3f} of 255; the largest are listed above"
    )
    return 0


def stats_command(name: str) -> int:
    """Print the classes and clips of each split, and the leak audit.

    Args:
        name: name of the dataset, or path of its config.

    Returns:
        The exit code.
    """
    from fsar_bench.data.importing.audit import leak_audit
    from fsar_bench.data.importing.summary import durations, split_sizes

    dataset = _dataset(name)
    console = _console()
    report = _table("split", "classes", "clips", "missing", "clips per class")
    for size in split_sizes(dataset):
        per_class = f"{size.smallest} to {size.largest}"
        report.add_row(size.split, str(size.classes), str(size.clips), str(size.missing), per_class)
    console.print(report)
    seconds = durations(dataset)
    if seconds:
        console.print(
            f"seconds of {seconds.count} clips, spread over all: {seconds.shortest:.1f} to {seconds.longest:.1f}, "
            f"median {seconds.median:.1f}"
        )
    leaks = leak_audit(dataset)
    if leaks is None:
        console.print("leak audit: the names of these clips do not tell their source recording")
        return 0
    for leak in leaks:
        protocol = f"{leak.split}, {leak.way}-way {leak.shot}-shot"
        if leak.percent is None:
            console.print(f"{protocol}: {leak.reason}")
        else:
            console.print(
                f"leak, {protocol}: {leak.percent:.1f} % of queries share their source recording with a support clip of their "
                "class"
            )
    return 0
