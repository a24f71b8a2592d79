"""`fsar-bench doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fsar_bench import __version__
from fsar_bench.io import WEIGHT_SUFFIXES, cache_folder, data_folder

PACKAGES = ("torch", "torchvision", "mmengine", "mmaction2", "open_clip_torch", "timm", "decord", "av", "pandas")
GOOD, BAD, NOTE = "[green]✓[/]", "[red]✗[/]", "[yellow]–[/]"


def doctor_command() -> int:
    """Print one page; returns the exit code (1 if something keeps the built-in run from working)."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]fsar-bench {__version__}[/], Python {platform.python_version()}, {platform.platform()}")
    found = [_packages(console), _devices(console), _readers(console)]
    _weights(console)
    _datasets(console)
    free = shutil.disk_usage(_existing(cache_folder())).free / 1e9
    sign, advice = (
        (GOOD, "") if free > 5 else (NOTE, ": frames and features need room; move them with $FSAR_BENCH_CACHE")
    )
    console.print("\n[bold]Disk[/]")
    console.print(f"{sign} {free:.1f} GB free below {cache_folder()}{advice}")
    return 0 if all(found) else 1


def _packages(console: Console) -> bool:
    console.print("\n[bold]Packages[/]")
    fine = True
    for name in PACKAGES:
        try:
            console.print(f"{GOOD} {name} {version(name)}")
        except PackageNotFoundError:
            optional = name == "decord"  # it has no wheel on some platforms
            fine &= optional
            advice = "use reader=pyav" if optional else "install fsar-bench again"
            console.print(f"{NOTE if optional else BAD} {name} is not installed: {advice}")
    return fine


def _devices(console: Console) -> bool:
    console.print("\n[bold]Devices[/]")
    import torch

    console.print(f"{GOOD} CPU, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        console.print(f"{NOTE} no CUDA device: device=auto takes the CPU")
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
    for name in ("decord", "pyav"):
        pool = DecodePool(ReadPlan(name, 60, 60, 8), workers=1, seconds=30)
        try:
            frames, _ = pool.submit(Request(clip)).result()
            works[name] = frames.shape == (8, 60, 60, 3)
            console.print(f"{GOOD} {READERS.get(name).version}")
        except FsarBenchError as error:
            works[name] = False
            console.print(f"{BAD} {name}: {escape(str(error))}")
        finally:
            pool.close()
    if works["pyav"] and not works["decord"]:
        console.print("  say reader=pyav")
    return any(works.values())


def _weights(console: Console) -> None:
    folder = cache_folder() / "weights"
    console.print(f"\n[bold]Weights[/] in {folder}")
    files = sorted(f for f in folder.glob("*") if f.suffix in WEIGHT_SUFFIXES) if folder.is_dir() else []
    for file in files:
        console.print(f"{GOOD} {escape(file.name)}, {file.stat().st_size / 1e6:.1f} MB")
    if not files:
        console.print(f"{NOTE} none: put MODEL-TAG.safetensors there, or name a file with pretrained=")
    _hub(console)


def _hub(console: Console) -> None:
    """What the libraries have fetched before: tags and hf-hub: ids that work offline."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots"))
    for folder in folders:
        name = folder.parent.name.removeprefix("models--").replace("--", "/")
        console.print(f"{GOOD} hf-hub:{escape(name)}, in the hub's cache {HF_HUB_CACHE}")
    if not folders:
        console.print(f"{NOTE} the hub's cache {HF_HUB_CACHE} holds no models")


def _datasets(console: Console) -> None:
    console.print(f"\n[bold]Datasets[/] in {data_folder()}")
    prepared = sorted(data_folder().glob("*/annotation.json"))
    for path in prepared:
        try:
            clips = json.loads(path.read_text(encoding="utf-8"))["clips"]
            here = sum(row["path"] is not None and Path(row["path"]).exists() for row in clips)
        except (OSError, ValueError, KeyError, TypeError):
            console.print(f"{BAD} {path.parent.name}: its annotation is damaged; run fsar-bench data prepare again")
            continue
        listed = sum(row["path"] is not None for row in clips)
        said = f"{here} of {len(clips)} clips on this disk"
        if here < listed:
            said += f", {listed - here} gone since it was prepared: run fsar-bench data prepare again"
        console.print(f"{GOOD if here == listed else BAD} {path.parent.name}: {said}")
    if not prepared:
        console.print(f"{NOTE} none prepared: fsar-bench data prepare NAME --root DIR")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
