"""`fsar-bench data`: import published lists, find clips on a disk, and check them."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fsar_bench.data.contents import contents_or_faults
from fsar_bench.data.dataset import SPLITS, Dataset
from fsar_bench.data.decode import DEFAULT_READER
from fsar_bench.data.faults import examples
from fsar_bench.data.importing import prepare as preparing
from fsar_bench.data.importing.layout import Division
from fsar_bench.data.importing.lists import CUSTOM, PublishedList, read_lists, recognise, store_recognised
from fsar_bench.data.importing.storing import Storage, check_own_name, store, write_config
from fsar_bench.data.leaks import Contents, described, named, repeats
from fsar_bench.errors import ConfigError
from fsar_bench.progress.task import Task
from fsar_bench.texts.characters import counted
from fsar_bench.texts.console import PlainConsole

if TYPE_CHECKING:
    from fsar_bench.config.files import DatasetConfig
    from fsar_bench.data.importing.audit import Leak
    from fsar_bench.data.importing.verify import Verdict

SHOWN = 10  # rows of one kind that are printed
EXAMPLES = 3  # of clips with the same fault or oddity


def _console() -> Console:
    return PlainConsole(soft_wrap=True, highlight=False)


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
    with Task(console, "reading lists", "files") as task:
        published = read_lists(dataset, lists, progress=task)
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
            console.print(f"[yellow]{kind}[/]: {escape(fault)}", markup=True)
        if len(faults) > SHOWN:
            console.print(f"[yellow]{kind}[/]: {len(faults) - SHOWN} more", markup=True)


def prepare_command(
    dataset: str | None, root: Path, *, name: str | None = None, classes: str | None = None, replace: bool = False
) -> int:
    """Find the clips of a dataset, report what is missing, and write its annotation.

    Args:
        dataset: name of a published dataset, or "custom"; None where `name` names the user's clips.
        root: folder of the clips; for the user's clips it may be a CSV.
        name: what the user's clips are called.
        classes: how many classes train, val and test get at random, such as "64/12/24".
        replace: replace other clips that are stored under this name.

    Returns:
        The exit code.
    """
    called = _called(dataset, name)
    console = _console()
    with Task(console, "looking for clips", "found") as task:
        prepared = _prepared(called, root, classes, task)
    storage = store(prepared, replace=replace)
    config, note = _config(called)
    _print_coverage(console, prepared)
    _print_division(console, prepared)
    _print_passed_over(console, prepared)
    if prepared.missing:
        console.print(f"{len(prepared.missing)} clips are missing; their ids: {storage.path.with_name('missing.txt')}")
        console.print(
            "The episodes stay those of the full list: a missing clip is replaced within its episode, and the row says so."
        )
    console.print(f"annotation: {storage.path} ({_became(storage)})")
    if note:
        console.print(note)
    _print_first_run(console, called, config)
    return 0


def _called(dataset: str | None, name: str | None) -> str:
    """The name under which a dataset is stored."""
    if dataset is None and name is None:
        raise ConfigError("Which dataset? Name a published one, or say --name NAME for your own clips.")
    if name is None:
        preparing.check_name(str(dataset))
        return str(dataset)
    if dataset not in (None, CUSTOM):
        raise ConfigError(f"{dataset} keeps its name: leave --name={name} out, or {dataset} if the clips are your own.")
    from fsar_bench.config.files import names

    check_own_name(name, names("datasets"))
    return name


def _is_own(called: str) -> bool:
    """Whether a name stands for the user's own clips."""
    return called == CUSTOM or called not in preparing.known_names()


def _prepared(called: str, root: Path, classes: str | None, progress: Task) -> preparing.Prepared:
    if _is_own(called):
        division = Division.parse(classes) if classes else None
        return preparing.prepare_custom(called, root, progress, division)
    if classes:
        raise ConfigError(f"{called} has splits of its own: leave --classes={classes} out.")
    return preparing.prepare(called, root, progress)


def _became(storage: Storage) -> str:
    texts = {
        "new": "new",
        "unchanged": "unchanged",
        "described": "updated: the same clips, described anew",
        "updated": "updated: other clips of its list are on this disk than before",
        "replaced": "replaced: what was verified before no longer counts",
    }
    return texts[storage.state]


def _config(called: str) -> tuple[DatasetConfig, str]:
    """The config of a prepared dataset; that of the user's own is written first, unless there is one, and told."""
    from fsar_bench.config.resolve import dataset_config

    if called == CUSTOM or not _is_own(called):
        return dataset_config(called), ""
    default = dataset_config(CUSTOM)
    path = write_config(called, {"backbone": default.backbone, "controls": default.controls})
    return dataset_config(str(path)), f"config: {path} (its title, backbone and controls may be edited)"


def _print_first_run(console: Console, called: str, config: DatasetConfig) -> None:
    """For which ways and shots a dataset suffices, and commands that run on it here."""
    from fsar_bench.cli.first_run import first_run
    from fsar_bench.data.importing.summary import split_sizes

    advice = first_run(called, config, split_sizes(Dataset(**config.dataset.model_dump())))
    for note in advice.notes:
        console.print(note)
    if advice.command:
        console.print(f"Next: {advice.command}")
    if advice.training:
        console.print(f"How long a short training takes: {advice.training}")
    if advice.weights:
        console.print(advice.weights)


def _print_division(console: Console, prepared: preparing.Prepared) -> None:
    """Which classes were put into which split at random."""
    if prepared.division:
        console.print(f"classes divided at random ({prepared.division['classes']}, seed {prepared.division['seed']}):")
        for split in SPLITS:
            names = [row.name for row in prepared.classes if row.split == split]
            if names:
                console.print(f"  {split}: {', '.join(names)}")


def _print_passed_over(console: Console, prepared: preparing.Prepared) -> None:
    """What lies there and is no part of the dataset, and what is odd about the clips that are."""
    if prepared.outside:
        count, path = len(prepared.outside), escape(str(prepared.outside[0]))
        console.print(f"[yellow]passed over[/]: {count} clips in no folder of a class, such as {path}", markup=True)
    for line in prepared.passed_over.lines():
        console.print(f"[yellow]passed over[/]: {escape(line)}", markup=True)
    if prepared.gapped:
        console.print(
            f"[yellow]frames are missing[/] by their numbers in {prepared.gapped} clips; the others are read in order",
            markup=True,
        )
    if prepared.surplus:
        count, example = len(prepared.surplus), "/".join(prepared.surplus[0])
        console.print(
            f"[yellow]not in the published list[/]: {count} clips by their names, such as {escape(example)}. They are taken, so "
            "results are on a list of their own. fsar-bench data import keeps to the published list.",
            markup=True,
        )
    if prepared.unlisted:
        total = sum(row.listed for row in prepared.published)
        found = sum(row.available for row in prepared.published)
        console.print(
            f"[yellow]incomplete[/]: {found} of the {total} clips of {escape(prepared.title)} are here. Episodes are drawn from "
            "these alone; results record the coverage, and are ranked only with others on the very same clips.",
            markup=True,
        )


def _print_coverage(console: Console, prepared: preparing.Prepared) -> None:
    coverage = prepared.coverage()
    report = _table("split", "classes", "clips found", "of", "coverage %")
    for split in SPLITS:
        classes = [row for row in coverage if row.split == split]
        if classes:
            available, listed = sum(row.available for row in classes), sum(row.listed for row in classes)
            present = sum(row.available > 0 for row in classes)
            of_classes = str(present) if present == len(classes) else f"{present} of {len(classes)}"
            report.add_row(split, of_classes, str(available), str(listed), f"{100 * available / listed:.2f}")
    console.print(report)
    incomplete = [row for row in coverage if row.available < row.listed]
    absent = {
        split: [row.class_name for row in incomplete if row.split == split and not row.available] for split in SPLITS
    }
    for split, names in absent.items():
        if names:
            shown = escape(", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])]))
            console.print(f"{split}: [yellow]no clip[/] of {len(names)} classes: {shown}", markup=True)
    incomplete = [row for row in incomplete if row.available]
    for row in sorted(incomplete, key=lambda row: row.share)[:SHOWN]:
        console.print(f"{row.split}, {escape(row.class_name)}: {row.available} of {row.listed}", markup=True)
    if len(incomplete) > SHOWN:
        console.print(f"{len(incomplete) - SHOWN} more classes lack clips")
    for clip, path in sorted(prepared.ambiguous.items())[:SHOWN]:
        console.print(f"[yellow]several files[/] have {escape(clip)}; taken: {escape(path)}", markup=True)
    if len(prepared.ambiguous) > SHOWN:
        console.print(f"[yellow]several files[/] have {len(prepared.ambiguous) - SHOWN} more clips", markup=True)


def verify_command(name: str, *, reader: str | None = None, workers: int, seconds: float, accept: bool) -> int:
    """Decode every clip once and name the bad ones.

    Args:
        name: name of the dataset, or path of its config.
        reader: registered name of the reader; None takes the one that runs take.
        workers: number of decode processes.
        seconds: time limit per clip.
        accept: leave the bad clips of a prepared dataset out from now on.

    Returns:
        The exit code: 1 if bad clips are not accepted.

    Raises:
        ConfigError: no such reader, or `accept` for one that runs do not take.
    """
    from fsar_bench.config.resolve import dataset_config
    from fsar_bench.data.importing.verify import all_clips, verify_dataset

    config = dataset_config(name)
    usual = config.reader or DEFAULT_READER
    if accept and reader not in (None, usual):
        raise ConfigError(f"--accept leaves clips out of runs, which read with {usual}: leave --reader={reader} out.")
    dataset = Dataset(**config.dataset.model_dump(), with_quarantined=True)
    console = _console()
    with Task(console, "hashing", "clips") as task:
        contents_or_faults([listed.clip for listed in all_clips(dataset)], task)
    with Task(console, "decoding", "clips") as task:
        verification = verify_dataset(
            dataset,
            reader=reader or usual,
            workers=workers,
            seconds=seconds,
            accept=accept,
            decides=reader in (None, usual),
            progress=task,
        )
    _print_frame_notes(console, dataset)
    count = len(verification.verdicts)
    _print_remarks(console, verification.verdicts)
    _print_repeats(console, dataset, {verdict.clip.path for verdict in verification.bad})
    for verdict in verification.bad:
        console.print(
            f"[red]✗[/] {verdict.split}, {escape(verdict.clip.class_name)}: {escape(verdict.reason)}", markup=True
        )
    console.print(f"{count - len(verification.bad)} of {count} clips decode")
    if not verification.bad:
        return 0
    if verification.is_left_out:
        console.print(f"Left out of runs, as missing clips: {verification.quarantine}")
        return 0
    if reader not in (None, usual):
        console.print(f"Runs read with {usual}, unless reader={reader} is said: they do not stop at these clips.")
        return 1
    advice = (
        f"replace the files, or leave them out with fsar-bench data verify {name} --accept"
        if verification.can_be_left_out
        else "restore the files"
    )
    listed = f"Listed in {verification.quarantine}. " if verification.quarantine else ""
    console.print(f"{listed}Runs stop at these clips: {advice}.")
    return 1


def _print_remarks(console: Console, verdicts: list[Verdict]) -> None:
    """What is odd about good clips: the number of clips of each kind, with examples."""
    remarks: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        for remark in verdict.remarks:
            remarks[remark.kind].append(f"{named(verdict.clip)}: {remark.text}")
    for texts in remarks.values():
        such = "such as " if len(texts) > 1 else ""
        console.print(f"[yellow]note[/]: {counted(len(texts), 'clip', 'clips')}, {such}{escape(texts[0])}", markup=True)
        for text in texts[1:EXAMPLES]:
            console.print(f"  {escape(text)}", markup=True)


def _print_repeats(console: Console, dataset: Dataset, bad: set[Path]) -> None:
    """Clips that a split holds twice, or that two splits share."""
    splits = [split for split in map(dataset.split, dataset.names) if not bad & {clip.path for clip in split.clips}]
    contents = [Contents.of(split) for split in splits]
    for one in contents:
        if text := repeats(one, dataset.name):
            console.print(f"[yellow]note[/]: {escape(text)}", markup=True)
    for one, other in combinations(contents, 2):
        if pairs := one.shared_with(other):
            count = counted(len(pairs), "clip is", "clips are")
            where = f"in {one.split.name} and in {other.split.name}"
            console.print(f"[yellow]note[/]: {count} {where}: {escape(described(pairs))}", markup=True)


def _print_frame_notes(console: Console, dataset: Dataset) -> None:
    """Folders of images with images that are no frames, or with gaps."""
    from fsar_bench.data.importing.summary import frame_notes

    notes = frame_notes(dataset)
    for clip, note in notes[:SHOWN]:
        console.print(f"[yellow]images[/] of {escape(clip.id)}: {escape(note)}", markup=True)
    if len(notes) > SHOWN:
        console.print(f"[yellow]images[/] of {len(notes) - SHOWN} more clips have such notes", markup=True)


def parity_command(name: str, *, readers: str, count: int, workers: int, seconds: float) -> int:
    """Print how much two readers differ on a sample of clips.

    Args:
        name: name of the dataset, or path of its config.
        readers: registered names of two readers, separated by a comma; one alone is compared with the default reader.
        count: number of clips.
        workers: number of decode processes.
        seconds: time limit per clip.

    Returns:
        The exit code.
    """
    from fsar_bench.config.resolve import dataset_config
    from fsar_bench.data.importing.verify import compare_readers

    names = [part.strip() for part in readers.split(",")]
    if len(names) == 1:
        names.append(DEFAULT_READER)
    if len(set(names)) != 2:
        raise ConfigError(f"--readers={readers} must name two readers, such as decord,pyav.")
    first, second = names
    dataset = Dataset(**dataset_config(name).dataset.model_dump())
    console = _console()
    with Task(console, "decoding", "clips") as task:
        differences = compare_readers(
            dataset, (first, second), count=count, workers=workers, seconds=seconds, progress=task
        )
    report = _table("clip", "mean difference", "largest")
    compared = [row for row in differences if not row.refusal]
    refused = [row for row in differences if row.refusal]
    for row in refused[:EXAMPLES]:
        console.print(f"[yellow]refused[/]: {escape(row.refusal)}", markup=True)
    if refused:
        console.print(f"refused by a reader: {len(refused)} of {len(differences)} clips")
    if not compared:
        return 1
    for row in sorted(compared, key=lambda row: -row.mean)[:SHOWN]:
        report.add_row(named(row.clip), f"{row.mean:.3f}", f"{row.largest:.0f}")
    console.print(report)
    mean = sum(row.mean for row in compared) / len(compared)
    console.print(
        f"{first} and {second}, {len(compared)} clips: mean difference {mean:.3f} of 255; the largest are listed above"
    )
    return 0


def stats_command(name: str) -> int:
    """Print the classes and clips of each split, and the leak audit.

    Args:
        name: name of the dataset, or path of its config.

    Returns:
        The exit code.
    """
    from fsar_bench.config.resolve import dataset_config
    from fsar_bench.data.importing.audit import leak_audit
    from fsar_bench.data.importing.summary import durations, split_sizes

    config = dataset_config(name)
    dataset = Dataset(**config.dataset.model_dump())
    console = _console()
    report = _table("split", "classes", "clips", "missing", "clips per class")
    for size in split_sizes(dataset):
        per_class = str(size.smallest) if size.smallest == size.largest else f"{size.smallest} to {size.largest}"
        report.add_row(size.split, str(size.classes), str(size.clips), str(size.missing), per_class)
    console.print(report)
    with Task(console, "reading durations", "clips") as task:
        seconds = durations(dataset, progress=task)
    if seconds:
        console.print(
            f"seconds of {seconds.count} clips, spread over all: {seconds.shortest:.1f} to {seconds.longest:.1f}, "
            f"median {seconds.median:.1f}"
        )
    _print_recordings(console, dataset)
    _print_leaks(console, leak_audit(dataset))
    _print_first_run(console, name, config)
    return 0


def _print_recordings(console: Console, dataset: Dataset) -> None:
    """How many source recordings each split has, of which they are not known, and which are in two splits."""
    from fsar_bench.data.importing.audit import recording_counts, shared_recordings

    counts = recording_counts(dataset)
    for count in counts:
        console.print(f"{count.split}: {count.clips} clips of {counted(count.recordings, 'recording', 'recordings')}")
    if unknown := [name for name in dataset.names if name not in {count.split for count in counts}]:
        console.print(
            f"note: the clips of {', '.join(unknown)} do not tell their source recording: intervals over clips will take them as "
            "independent of each other. Prepare them from a CSV with the column recording to change that."
        )
    for (one, other), names in shared_recordings(dataset).items():
        note = f"note: {len(names)} recordings have clips in {one} and in {other}: {examples(names, ', ')}"
        console.print(note)


def _print_leaks(console: Console, leaks: list[Leak] | None) -> None:
    if leaks is None:
        console.print("leak audit: needs the source recordings of all splits")
        return
    for leak in leaks:
        protocol = f"{leak.split}, {leak.way}-way {leak.shot}-shot"
        if leak.percent is None:
            console.print(f"{protocol}: no episodes ({leak.reason.split('. ')[0].rstrip('.')})")
        else:
            console.print(
                f"leak, {protocol}: {leak.percent:.1f} % of queries share their source recording with a support clip of their "
                "class"
            )
