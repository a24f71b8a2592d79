"""`fsar-bench cache`: how large the cache of this machine is, what of it is stale, and clearing it."""

from __future__ import annotations

import sys

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fsar_bench.cache import KEPT, KINDS, Content, Freed, content, delete, knows_use, unknown
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import cache_folder
from fsar_bench.texts.console import PlainConsole

MANY = 1000  # files from which a bar is shown


def cache_command(days: int) -> int:
    """Print what is in the cache, by kind; returns the exit code."""
    console = PlainConsole(highlight=False)
    console.print(Text(f"{cache_folder()} ($FSAR_BENCH_CACHE moves it)"), soft_wrap=True)
    contents = [content(kind) for kind in KINDS]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for heading in ("files", "size", f"stale ({days} days)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is")
    for each in contents:
        stale = each.stale(days)
        stale_size = "" if each.kind in KEPT else size(stale.size)
        table.add_row(each.kind, f"{len(each.files):,}", size(each.size), stale_size, KINDS[each.kind])
    table.add_section()
    computed = [each for each in contents if each.kind not in KEPT]
    files, total = sum(len(each.files) for each in contents), sum(each.size for each in contents)
    table.add_row("all", f"{files:,}", size(total), size(sum(each.stale(days).size for each in computed)), "")
    console.print(table)
    abandoned = sum(file.is_abandoned for each in computed for file in each.files)
    if abandoned:
        console.print(f"{abandoned} {_files(abandoned)} left half written by a process that died; counted as stale.")
    if others := unknown():
        console.print(
            Text(f"Not of this suite, never deleted: {', '.join(path.name for path in others)}"), soft_wrap=True
        )
    _say_what_is_not_known(console)
    console.print("fsar-bench cache clear --stale deletes what is stale; it is computed again when it is needed.")
    return 0


def _say_what_is_not_known(console: Console) -> None:
    if not knows_use():
        console.print("This file system does not note when files are read: stale means written so many days ago.")


def clear_command(kinds: list[str], *, stale_only: bool, days: int, yes: bool) -> int:
    """Delete kinds of files, or what is stale of them, after a question; returns the exit code."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"The cache has no {kind!r}.{suggest(kind, KINDS)}")
    console = PlainConsole(highlight=False)
    contents = [content(kind) for kind in kinds or [kind for kind in KINDS if kind not in KEPT]]
    chosen = [each for each in (one.stale(days) if stale_only else one for one in contents) if each.files]
    if not chosen:
        console.print("Nothing to delete.")
        return 0
    if stale_only:
        _say_what_is_not_known(console)
    for each in chosen:
        console.print(Text(f"{each.kind}: {_count(each)} in {each.folder}"), soft_wrap=True)
    if not yes and not _confirmed():
        console.print("Nothing was deleted.")
        return 1
    return _report(console, [_delete(console, each) for each in chosen])


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("Nobody can be asked here whether to delete this. Say --yes.")
    return typer.confirm("Delete them?")


def _delete(console: Console, chosen: Content) -> Freed:
    if len(chosen.files) < MANY or not console.is_terminal:
        return delete(chosen)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"deleting {chosen.kind}", total=len(chosen.files))
        return delete(chosen, lambda count: bar.update(task, completed=count))


def _report(console: Console, freed: list[Freed]) -> int:
    files, failed = sum(each.files for each in freed), sum(each.failed for each in freed)
    console.print(f"Freed {size(sum(each.size for each in freed))}: {files:,} {_files(files)} deleted.")
    if failed:
        reason = next(each.reason for each in freed if each.reason)
        print(f"error: {failed} {_files(failed)} could not be deleted ({reason}).", file=sys.stderr)
    return 1 if failed else 0


def _count(chosen: Content) -> str:
    return f"{len(chosen.files):,} {_files(len(chosen.files))}, {size(chosen.size)}"


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def size(count: int) -> str:
    """Bytes in powers of 1000, such as "1.5 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
