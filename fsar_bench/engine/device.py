"""The machine: its devices, memory and versions."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fsar_bench.errors import ConfigError
from fsar_bench.results.record import Environment, PeakMemory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PACKAGES = ("fsar-bench", "torch", "mmengine", "mmaction2", "open_clip_torch", "numpy", "decord", "av")


def choose_device(name: str) -> torch.device:
    """Torch device for auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"device={name!r} is unknown. Choose from: auto, cpu, cuda, cuda:N.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ConfigError(
                f"device={name!r} does not exist: this machine has {count} CUDA devices. Use device=cpu or auto."
            )
        # Results must not depend on tensor-core rounding: float32 is float32 unless mixed precision is asked for.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    else:  # threads would add to the same place in the order in which they come, as in the gradient of an index
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


def check_devices(name: str, count: int) -> None:
    """Check that there are as many devices as ranks, from the named one on.

    Raises:
        ConfigError: there are fewer GPUs, or this torch has no ranks.
    """
    if not torch.distributed.is_available():
        raise ConfigError(f"devices={count} needs torch.distributed, which this build of torch lacks: use devices=1.")
    device = choose_device(name)
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) + count > there:
        raise ConfigError(
            f"devices={count} from device={name!r} on: this machine has {there} CUDA devices. Use "
            f"devices={there - (device.index or 0)} or less."
        )


def device_of_rank(device: torch.device, rank: int) -> torch.device:
    """The device of a rank of a training that is on `device`: on GPUs the next ones."""
    return torch.device("cuda", (device.index or 0) + rank) if device.type == "cuda" else device


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak memory of a GPU anew; that of the host is the process's own and cannot be reset."""
    if device.type == "cuda":
        torch.cuda.init()  # before it there are no statistics
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> PeakMemory:
    """Peak memory of this process in MB (10^6 bytes), on the host and, on a GPU, on the device."""
    unit = 1024 if sys.platform != "darwin" else 1  # of ru_maxrss, in bytes
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return PeakMemory(host=round(host / 1e6, 1), device=None if on_gpu is None else round(on_gpu / 1e6, 1))


class MemoryMeter:
    """Measures how far the peak of memory rises above what is used now: of the GPU, or of this process.

    The peak of a process can be reset on Linux alone; elsewhere an earlier, higher peak hides what is added.

    Args:
        device: where the work is.

    Attributes:
        before: bytes that are used now.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            reset_peak_memory(device)
        elif _CLEAR.exists():
            with open(_CLEAR, "w", encoding="ascii") as file:
                file.write("5")  # the peak begins at what is used now
        self.before = self._peak()

    @property
    def added(self) -> int:
        """Bytes by which the peak is above what was used."""
        return max(0, self._peak() - self.before)

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        if _STATUS.exists():
            lines = _STATUS.read_text(encoding="utf-8").splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return round(1e6 * peak_memory(self._device).host)


def environment(device: torch.device) -> Environment:
    """Device, threads and versions: what a cost was measured on."""
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        machine=platform.machine(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
