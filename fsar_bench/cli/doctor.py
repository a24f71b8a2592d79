"""`fsar-bench doctor`: what this machine has, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from fsar_bench import __version__
from fsar_bench.data.dataset import Annotation
from fsar_bench.io import WEIGHT_SUFFIXES, cache_folder, data_folder, probe, read_json, reason_of
from fsar_bench.texts.console import PlainConsole

PACKAGES = ("torch", "torchvision", "mmengine", "mmaction2", "open_clip_torch", "timm", "decord", "av", "pandas")
OPTIONAL = {  # packages that may be missing, and what is to be known then
    "decord": "reader=pyav, the default, does without it",  # some platforms have no wheel of it
    "ray": "launcher=ray needs it (pip install 'fsar-bench\\[cluster]')",
    "submitit": "launcher=slurm needs it (pip install 'fsar-bench\\[cluster]')",
}
GOOD, BAD, NOTE = "[green]✓[/]", "[red]✗[/]", "[yellow]–[/]"


def doctor_command() -> int:
    """Print one page; returns the exit code (1 if something keeps the built-in run from working)."""
    console = PlainConsole(soft_wrap=True, highlight=False, markup=True)
    console.print(f"[bold]fsar-bench {__version__}[/], Python {platform.python_version()}, {platform.platform()}")
    checks = [_packages(console), _devices(console), _readers(console)]
    _weights(console)
    _datasets(console)
    _disk(console)
    return 0 if all(checks) else 1


def _disk(console: Console) -> None:
    """Whether the cache has space and can be written: what it lacks costs time, not the run."""
    folder = cache_folder()
    console.print("\n[bold]Disk[/]")
    try:
        probe(folder)
    except OSError as error:
        reason = reason_of(error)
        console.print(
            f"{NOTE} the cache {escape(str(folder))} cannot be written ({escape(reason)}): every run decodes and encodes again; "
            "move it with $FSAR_BENCH_CACHE"
        )
        return
    free = shutil.disk_usage(folder).free / 1e9
    sign, advice = (
        (GOOD, "") if free > 5 else (NOTE, ": frames and features need space; move them with $FSAR_BENCH_CACHE")
    )
    console.print(f"{sign} {free:.1f} GB free below {escape(str(folder))}{advice}")


def _packages(console: Console) -> bool:
    console.print("\n[bold]Packages[/]")
    fine = True
    for name in dict.fromkeys((*PACKAGES, *OPTIONAL)):
        try:
            console.print(f"{GOOD} {name} {version(name)}")
        except PackageNotFoundError:
            fine &= name in OPTIONAL
            advice = OPTIONAL.get(name, "install fsar-bench again")
            console.print(f"{NOTE if name in OPTIONAL else BAD} {name} is not installed: {advice}")
    return fine


def _devices(console: Console) -> bool:
    console.print("\n[bold]Devices[/]")
    import torch

    console.print(f"{GOOD} CPU, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        console.print(f"{NOTE} no CUDA device: device=auto uses the CPU")
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        console.print(f"{GOOD} cuda:{number} {torch.cuda.get_device_name(number)}, {memory:.0f} GiB")
    return True


def _readers(console: Console) -> bool:
    console.print("\n[bold]Readers[/], on a clip of the built-in data")
    from fsar_bench.data.dataset import Dataset
    from fsar_bench.data.decode import DecodePool, ReadPlan, Request
    from fsar_bench.errors import FsarBenchError
    from fsar_bench.registry import READERS

    READERS.import_from_location()
    clip = Dataset("synthact", "builtin:synthact").split("val").clips[0]
    works = {}
    for name in ("pyav", "decord"):
        pool = DecodePool(ReadPlan(name, 60, 60, 8), workers=1, seconds=30)
        try:
            frames = pool.submit(Request(clip)).result().frames
            works[name] = frames.shape == (8, 60, 60, 3)
            console.print(f"{GOOD} {READERS.get(name).version}")
        except FsarBenchError as error:
            works[name] = False
            sign = BAD if name == "pyav" else NOTE
            console.print(f"{sign} {name}: {escape(str(error))}")
        finally:
            pool.close()
    if not works["decord"]:
        console.print("  reader=pyav, the default, does without decord")
    return works["pyav"]


def _weights(console: Console) -> None:
    folder = cache_folder() / "weights"
    console.print(f"\n[bold]Weights[/] in {escape(str(folder))}")
    files = sorted(f for f in folder.glob("*") if f.suffix in WEIGHT_SUFFIXES) if folder.is_dir() else []
    for file in files:
        console.print(f"{GOOD} {escape(file.name)}, {file.stat().st_size / 1e6:.1f} MB")
    if not files:
        console.print(f"{NOTE} none: put MODEL-TAG.safetensors there, or name a file with pretrained=")
    _hub(console)


def _hub(console: Console) -> None:
    """Models that the libraries have downloaded before: tags and hf-hub: ids that work offline."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots"))
    for folder in folders:
        name = folder.parent.name.removeprefix("models--").replace("--", "/")
        console.print(f"{GOOD} hf-hub:{escape(name)}, in the hub's cache {escape(HF_HUB_CACHE)}")
    if not folders:
        console.print(f"{NOTE} the hub's cache {escape(HF_HUB_CACHE)} holds no models")


def _datasets(console: Console) -> None:
    console.print(f"\n[bold]Datasets[/] in {escape(str(data_folder()))}")
    annotations = sorted(data_folder().glob("*/annotation.json"))
    for path in annotations:
        console.print(_dataset(path))
    if not annotations:
        console.print(
            f"{NOTE} none prepared: fsar-bench data prepare NAME --root DIR, or --name NAME for your own clips"
        )


def _dataset(annotation: Path) -> str:
    """One line on a prepared dataset: how many of its clips are on this disk."""
    name = escape(annotation.parent.name)
    try:
        clips = Annotation.model_validate_json(read_json(annotation)).clips
    except (OSError, ValidationError):
        return f"{BAD} {name}: its annotation is damaged; run fsar-bench data prepare again"
    listed = [Path(clip.path) for clip in clips if clip.path is not None]
    present = sum(os.path.exists(path) for path in listed)
    text = f"{name}: {present} of {len(clips)} clips on this disk"
    if present == len(listed):
        return f"{GOOD} {text}"
    advice = "run fsar-bench data prepare again, with --replace if the clips moved"
    return f"{BAD} {text}, {len(listed) - present} gone since it was prepared: {advice}"
