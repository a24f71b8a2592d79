"""The `fsar-bench` command. Imports nothing heavy: verbs import what they need when they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fsar_bench import __version__
from fsar_bench.cli.signals import answering_signals
from fsar_bench.errors import ConfigError, FsarBenchError
from fsar_bench.io import disk_error, reason_of, user_path
from fsar_bench.texts.characters import plain
from fsar_bench.texts.terminal import plain_output
from fsar_bench.writing.streams import forgiving


class _Commands(TyperGroup):
    """All commands; what typer says of a wrong argument quotes it in plain text."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the arguments that come before a command."""
        with _plain_faults():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of a command, and run it."""
        with _plain_faults():
            return super().invoke(ctx)


@contextmanager
def _plain_faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "typer":  # it shows them by a console of its own
            vars(error).update({name: plain(text) for name, text in vars(error).items() if isinstance(text, str)})
        raise


app = typer.Typer(
    name="fsar-bench",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot action recognition: train and evaluate methods on the very same episodes, and make leaderboards.",
)


def _complete_pairs(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from fsar_bench.cli.completion import pairs

    return pairs(ctx.params.get("pairs") or [], incomplete)


def _complete(kind: str, *others: str) -> Any:
    """Completion by the names of a kind, and other words."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from fsar_bench.cli.completion import named

        return named(kind, incomplete, *others)

    return complete


def _complete_checked(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    kind = "backbones" if ctx.params.get("backbone") else "matchers" if ctx.params.get("matcher") else "methods"
    return _complete(kind, "all")(incomplete)  # type: ignore[no-any-return]


def _complete_words(*words: str) -> Any:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


Pairs = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings; commas make several cells.")]


RunPairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE…", help="Settings; commas make several cells.", autocompletion=_complete_pairs),
]


class _WithKeys(TyperCommand):
    """A command whose help ends in the list of keys, made from the typed settings when it is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Add the keys, and show the help."""
        from fsar_bench.config.keys import keys
        from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, Protocol, RunOptions

        described = [*keys(Choices), *keys(Protocol, PROTOCOL_KEYS), *keys(RunOptions)]
        lines = [f"{key.name}={key.default}: {key.description}" for key in described]
        more = "method.* and train.*: fsar-bench list keys METHOD"
        self.help = "\n".join([self.help or "", "", "\b", "Keys with their defaults:", *lines, more])
        super().format_help(ctx, formatter)


@app.command(cls=_WithKeys)
def run(
    pairs: RunPairs = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing: list the cells, what is stored of them, and their time.")
    ] = False,
) -> None:
    """Train and evaluate methods; ends in a table.

    \b
    fsar-bench run methods=ma_clip,clip_fsar
    fsar-bench run methods=ma_clip,clip_fsar --dry-run
    fsar-bench run methods=ma_clip dataset=synthact_order shot=1,5 method.alpha=0.3
    fsar-bench run methods=./my_method.py

    """
    try:
        from fsar_bench.cli.run import run_command

        code = run_command(pairs or [], dry_run=dry_run)
    except (
        KeyboardInterrupt
    ):  # before or after the cells, or the second one: typer would end the program without a word
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


@app.command()
def plan(
    pairs: RunPairs = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            "--machine", help="What methods take on a machine, as fsar-bench profile --machine FILE wrote it."
        ),
    ] = None,
) -> None:
    """Tell what a study costs before it starts: hours, disk and memory. Takes the settings of run; runs nothing.

    \b
    fsar-bench plan methods=all shot=1,5 seed=0,1,2
    fsar-bench plan methods=ma_clip,clip_fsar dataset=ssv2_small jobs=8 --machine a100.json
    """
    from fsar_bench.cli.plan import plan_command

    raise typer.Exit(plan_command(pairs or [], user_path(machine) if machine else None))


class _WithTuneKeys(TyperCommand):
    """A command whose help ends in the keys that tuning has beside those of run."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Add the keys, and show the help."""
        from fsar_bench.config.keys import keys
        from fsar_bench.engine.tuning.subject import OF_CHOICES, OF_PROTOCOL, OF_TRAINING, TuneOptions

        lines = [f"{key.name}={key.default}: {key.description}" for key in keys(TuneOptions)]
        more = f"Of fsar-bench run: dataset, {', '.join((*OF_CHOICES, *OF_PROTOCOL, *OF_TRAINING))}, jobs, work_dir, device, …"
        self.help = "\n".join([self.help or "", "", "\b", "Keys with their defaults:", *lines, more])
        super().format_help(ctx, formatter)


@app.command(cls=_WithTuneKeys)
def tune(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHODS… [KEY=VALUE…]",
            help="Names of methods or paths of their configs, or all; then settings.",
            autocompletion=_complete("methods", "all"),
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Tune nothing: show what earlier tunings chose.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tune nothing: list the methods, their search spaces and the time.")
    ] = False,
) -> None:
    """Choose settings of methods on val, with as many trials and training episodes for each; run takes them from then on.

    \b
    fsar-bench tune ma_clip,clip_fsar,otam dataset=synthact budget=16
    fsar-bench tune all dataset=synthact,synthact_order --dry-run
    fsar-bench tune ./my_method.py dataset=hmdb51 train.episodes=2000 budget=8 jobs=4
    fsar-bench tune --show ma_clip dataset=synthact

    """
    try:
        from fsar_bench.cli.tune import tune_command

        code = tune_command(arguments or [], show=show, dry_run=dry_run)
    except KeyboardInterrupt:  # before or after the trials, or the second one
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


@app.command()
def leaderboard(
    pairs: Pairs = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the tables are stale.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Also write leaderboard.html, a page to look at.")] = False,
) -> None:
    """Rebuild the tables (markdown, CSV, LaTeX, JSON) from result files alone.

    \b
    fsar-bench leaderboard
    fsar-bench leaderboard --html
    fsar-bench leaderboard out=./my_results --check
    """
    from fsar_bench.cli.leaderboard import leaderboard_command

    raise typer.Exit(leaderboard_command(pairs or [], check=check, html=html))


Row = Annotated[
    str,
    typer.Argument(
        help="A method, a title, the beginning of a config hash, or a result's folder.",
        autocompletion=_complete("methods"),
    ),
]


@app.command()
def compare(one: Row, two: Row, pairs: Pairs = None) -> None:
    """Compare two results on the same episodes: difference, intervals, p-value, where they differ.

    \b
    fsar-bench compare clip_fsar otam dataset=synthact shot=1
    fsar-bench compare clip_fsar otam within=1   # and whether they are within 1 point of each other
    fsar-bench compare 6f8e5154 b90fd976 out=./my_results
    """
    from fsar_bench.cli.compare import compare_command

    raise typer.Exit(compare_command(one, two, pairs or []))


@app.command()
def explain(
    result: Row,
    pairs: Pairs = None,
    episode: Annotated[int, typer.Option("--episode", "-e", help="Number of the episode, from 0.")] = 0,
    query: Annotated[int | None, typer.Option("--query", "-q", help="Number of the query; default: all.")] = None,
) -> None:
    """Draw an episode: frames, the score of each class in its parts, the alignment of frames. Writes PNG and HTML.

    \b
    fsar-bench explain leaderboards/results/synthact/5way_1shot/otam_frozen-…  --episode 12
    fsar-bench explain d03e8cab --query 2      (names and hashes are looked up in ./leaderboards)
    Settings: results (./leaderboards, where names and hashes are looked up), out (./explained), work_dir (./work_dirs,
    where trained weights are), run options such as device, and the places of files that the result does not tell:
    pretrained, checkpoint, and custom configs as methods, backbone, dataset, train_on, protocol or imports.
    """
    from fsar_bench.cli.explain import explain_command

    raise typer.Exit(explain_command(result, pairs or [], episode=episode, query=query))


@app.command()
def show(result: Row, pairs: Pairs = None) -> None:
    """Show one result: the command that repeats it, accuracy, settings, data, where its training is stored, cost.

    \b
    fsar-bench show leaderboards/results/synthact/5way_1shot/otam-…
    fsar-bench show otam dataset=synthact way=5 shot=1
    fsar-bench show 6f8e5154 out=./my_results
    Settings: out (./leaderboards), work_dir (./work_dirs), dataset, way and shot to choose, and the places of files that
    the result does not tell: methods, dataset, train_on, backbone, pretrained and checkpoint.
    """
    from fsar_bench.cli.show import show_command

    raise typer.Exit(show_command(result, pairs or []))


results = typer.Typer(no_args_is_help=True, help="Result files: merge those of other machines.")
app.add_typer(results, name="results")


@results.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results (those that out= named elsewhere).")],
    out: Annotated[Path, typer.Option("--out", help="The folder that they are merged into.")] = Path("leaderboards"),
) -> None:
    """Merge results of other machines: checked, scored again from their predictions; all or nothing.

    \b
    fsar-bench results merge ~/from_lab_a ~/from_lab_b --out ./leaderboards
    """
    from fsar_bench.cli.results import merge_command

    raise typer.Exit(merge_command([user_path(folder) for folder in folders], user_path(out)))


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="methods, ablations, datasets, backbones, matchers, protocols or keys; default: all but keys.",
            autocompletion=_complete_words(
                "methods", "ablations", "datasets", "backbones", "matchers", "protocols", "keys"
            ),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="With keys: a method, for its own keys too.", autocompletion=_complete("methods")),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the whole card of each.")] = False,
) -> None:
    """List what a run can name: methods, datasets and so on, and its keys.

    \b
    fsar-bench list
    fsar-bench list methods --verbose
    fsar-bench list keys ma_clip
    """
    from fsar_bench.cli.list import list_command

    list_command(kind, name, verbose=verbose)


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME… [KEY=VALUE…]",
            help="Names or paths; all for the built-in ones.",
            autocompletion=_complete_checked,
        ),
    ] = None,
    backbone: Annotated[bool, typer.Option("--backbone", help="The names are backbones, or paths of configs.")] = False,
    matcher: Annotated[
        bool, typer.Option("--matcher", help="The names are matchers, or paths of modules that register them.")
    ] = False,
) -> None:
    """Test the contract of methods, backbones or matchers on tiny random input, in seconds.

    \b
    fsar-bench check ./my_method.py
    fsar-bench check ma_clip method.alpha=0.3 matcher=TRX
    fsar-bench check all
    fsar-bench check --backbone ./my_backbone.py
    fsar-bench check --backbone vit_b_16 pretrained=none      (random weights)
    fsar-bench check --matcher ./my_matcher_code.py
    """
    from fsar_bench.cli.check import Kind, check_command

    if backbone and matcher:
        raise ConfigError("--backbone and --matcher exclude each other: check one kind at a time.")
    given = names or []
    kind: Kind = "backbone" if backbone else "matcher" if matcher else "method"
    raise typer.Exit(check_command([g for g in given if "=" not in g], [g for g in given if "=" in g], kind))


@app.command(name="profile")
def profile_(
    method: Annotated[
        str,
        typer.Argument(help="Name of a method, or path of its config.", autocompletion=_complete("methods")),
    ],
    pairs: Pairs = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Where the trace is written; METHOD_trace.json in this folder.")
    ] = None,
    machine: Annotated[
        Path | None, typer.Option("--machine", help="Also write what was measured to this profile, for plan --machine.")
    ] = None,
) -> None:
    """Measure where the time of a method goes: encoding, scoring, a training step, memory, the most expensive operators.

    \b
    fsar-bench profile ./my_method.py
    fsar-bench profile ma_clip dataset=ssv2_small backbone=vit_b_16 --machine a100.json
    Takes the settings of run that make one cell; writes no result.
    """
    from fsar_bench.cli.profile import profile_command

    paths = [user_path(path) if path else None for path in (trace, machine)]
    raise typer.Exit(profile_command(method, pairs or [], *paths))


cache = typer.Typer()
app.add_typer(cache, name="cache")
Days = Annotated[int, typer.Option("--days", min=0, help="Days without use after which a file is stale.")]


@cache.callback(invoke_without_command=True)
def cache_(context: typer.Context, days: Days = 30) -> None:
    """Show the cache of this machine by kind: files, size, and what is stale; clear it.

    \b
    fsar-bench cache
    fsar-bench cache --days 90
    fsar-bench cache clear --stale
    fsar-bench cache clear features
    """
    if context.invoked_subcommand is None:
        from fsar_bench.cli.cache import cache_command

        raise typer.Exit(cache_command(days))


@cache.command()
def clear(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND…",
            help="frames, features, statistics, verify, weights or datasets; default: all but weights and datasets.",
            autocompletion=_complete_words("frames", "features", "statistics", "verify", "weights", "datasets"),
        ),
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Delete what is stale alone.")] = False,
    days: Days = 30,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete files of the cache; what is deleted is computed again when it is needed.

    \b
    fsar-bench cache clear --stale
    fsar-bench cache clear features --yes
    fsar-bench cache clear weights      (only where they are named: they cannot be computed)
    """
    from fsar_bench.cli.cache import clear_command

    raise typer.Exit(clear_command(kinds or [], stale_only=stale, days=days, yes=yes))


data = typer.Typer(no_args_is_help=True, help="Real datasets: import published lists, find clips on a disk.")
app.add_typer(data, name="data")


@data.command(name="import")
def import_(
    dataset: Annotated[
        str, typer.Argument(help="hmdb51, ucf101, kinetics100, ssv2_small, ssv2_full or epic_kitchens.")
    ],
    lists: Annotated[Path, typer.Option("--lists", help="Folder of the published list files, or one file.")],
    accept: Annotated[bool, typer.Option("--accept", help="Use lists that are none of the known ones.")] = False,
) -> None:
    """Read the published split lists of any repository, and identify them.

    \b
    fsar-bench data import kinetics100 --lists ~/CMN/kinetics-100
    """
    from fsar_bench.cli.data import import_command

    raise typer.Exit(import_command(dataset, user_path(lists), accept=accept))


@data.command()
def prepare(
    root: Annotated[Path, typer.Option("--root", help="Folder of the clips (your own: or a CSV).")],
    dataset: Annotated[
        str | None, typer.Argument(help="Name of a published dataset; none, or custom, for your own clips.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of your own clips, for dataset=NAME.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Divide your classes at random: numbers TRAIN/VAL/TEST.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace other clips stored under this name.")] = False,
) -> None:
    """Find the clips of a dataset on this disk, in any layout, and write its annotation.

    \b
    fsar-bench data prepare hmdb51 --root /data/hmdb51
    fsar-bench data prepare --name gestures --root /data/mine       (train/CLASS/CLIP, val/…, test/…)
    fsar-bench data prepare --name gestures --root /data/mine.csv   (columns path, class, split; also text, recording)
    fsar-bench data prepare --name gestures --root /data/mine --classes 6/3/3     (CLASS/CLIP)
    """
    from fsar_bench.cli.data import prepare_command

    raise typer.Exit(prepare_command(dataset, user_path(root), name=name, classes=classes, replace=replace))


DatasetName = Annotated[
    str,
    typer.Argument(
        help="Name of a dataset, your own too, or path of its config.", autocompletion=_complete("datasets")
    ),
]


@data.command()
def verify(
    dataset: DatasetName,
    reader: Annotated[
        str | None, typer.Option("--reader", help="Another one than runs take: pyav, decord or mmaction2_pyav.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Decode processes.")] = 2,
    seconds: Annotated[float, typer.Option("--timeout", help="Seconds that one clip may take to decode.")] = 60.0,
    accept: Annotated[bool, typer.Option("--accept", help="Treat bad clips as missing from now on.")] = False,
) -> None:
    """Decode every clip once, name bad ones and what is odd about others; an interrupted verification resumes.

    \b
    fsar-bench data verify hmdb51
    """
    from fsar_bench.cli.data import verify_command

    raise typer.Exit(verify_command(dataset, reader=reader, workers=workers, seconds=seconds, accept=accept))


@data.command()
def parity(
    dataset: DatasetName,
    readers: Annotated[str, typer.Option("--readers", help="Two of pyav, decord and mmaction2_pyav.")] = "decord,pyav",
    count: Annotated[int, typer.Option("--sample", help="Clips to compare.")] = 20,
    workers: Annotated[int, typer.Option("--workers", help="Decode processes.")] = 2,
    seconds: Annotated[float, typer.Option("--timeout", help="Seconds that one clip may take to decode.")] = 60.0,
) -> None:
    """Compare the frames that two readers give for a sample of clips.

    \b
    fsar-bench data parity hmdb51 --readers decord,pyav --sample 50
    """
    from fsar_bench.cli.data import parity_command

    raise typer.Exit(parity_command(dataset, readers=readers, count=count, workers=workers, seconds=seconds))


@data.command()
def stats(dataset: DatasetName) -> None:
    """Count classes, clips, and queries that share a source recording with a support clip of their class.

    \b
    fsar-bench data stats ucf101
    """
    from fsar_bench.cli.data import stats_command

    raise typer.Exit(stats_command(dataset))


@app.command()
def doctor() -> None:
    """Check this machine: packages, devices, readers, weights, datasets, disk, and what to do about problems."""
    from fsar_bench.cli.doctor import doctor_command

    raise typer.Exit(doctor_command())


@app.command()
def convert(
    method: Annotated[str, typer.Argument(help="Name of the method.")],
    checkpoint: Annotated[str, typer.Argument(help="The official checkpoint.")],
    pairs: Pairs = None,
) -> None:
    """Turn an official checkpoint into one that `run … checkpoint=FILE` evaluates.

    \b
    fsar-bench convert clip_fsar checkpoint_epoch_00014.pyth backbone=vit_b_16 out=clip_fsar.safetensors
    """
    from fsar_bench.cli.convert import convert_command

    raise typer.Exit(convert_command(method, checkpoint, pairs or []))


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _start_again_in_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the locale names files in another encoding.

    Annotations, lists and configs are UTF-8 everywhere, so the files that they name are too, as are those that libraries read
    for us. Python chooses the encoding of file names when it starts. A program that calls `main` is left as it is.
    """
    program = Path(getattr(sys.modules["__main__"], "__file__", None) or "").stem
    is_command = __name__ == "__main__" or program == "fsar-bench"
    if sys.getfilesystemencoding() != "utf-8" and is_command and os.environ.get("PYTHONUTF8") != "1":  # once
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _open_closed_streams() -> None:
    """Let standard streams that were closed before the start (`>&-`) lead nowhere.

    Python has None in their place, and the next files that are opened, such as results, would get their numbers: what a child
    prints would be written into them.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _print_any_text() -> None:
    """Let a terminal that cannot show "±" or a name show something else, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Entry point: user errors become one message and exit code 1."""
    _start_again_in_utf8()
    _open_closed_streams()
    _print_any_text()
    unprinted: list[OSError] = []
    sys.stdout, sys.stderr = forgiving(sys.stdout, unprinted.append), forgiving(sys.stderr, lambda error: None)
    with plain_output():  # last: what it puts in the place of a stream is no file
        _run(unprinted)


def _run(unprinted: list[OSError]) -> None:
    """Run the command; `unprinted` has the errors of standard output in the end."""
    try:
        with answering_signals():
            app(prog_name="fsar-bench")
    except FsarBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        text = disk_error(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before or between what typer and the verbs catch
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    finally:
        _flush(unprinted)


def _flush(unprinted: list[OSError]) -> None:
    """Flush standard output; what the disk of a file that it goes to refused is an error, told once all is done."""
    sys.stdout.flush()
    if unprinted:
        print(f"error: Standard output is not whole ({reason_of(unprinted[0])}).", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
