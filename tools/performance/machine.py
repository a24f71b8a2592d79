"""The machine: what it is, and the rates that floors are measured by, taken in the same run as everything else."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from tools.performance.floors import Product, Work

SQUARES = (64, 256, 1024)
COPIED = 1 << 28  # bytes; larger than any cache
EXPONENTIALS = 1 << 15  # that stay in the cache
SECONDS = 0.05  # that one measurement takes at least


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best(function: Callable[[], object], device: torch.device, seconds: float = SECONDS, least: int = 3) -> float:
    """Seconds of the quickest of several calls, at least `least` and for at least `seconds`, after one that is not counted."""
    function()
    synchronise(device)
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        began = perf_counter()
        function()
        synchronise(device)
        taken.append(perf_counter() - began)
    return min(taken)


@dataclass
class Rates:
    """Rates of a device, each measured once.

    Attributes:
        device: it.
        copy: bytes per second that are copied into memory that was written before.
        fresh: the same into memory that the system has not given yet.
        exponentials: per second.
        squares: operations per second of square products, by their size.
    """

    device: torch.device
    copy: float
    fresh: float
    exponentials: float
    squares: dict[int, float]
    _products: dict[Product, float] = field(default_factory=dict)

    @classmethod
    def measured(cls, device: torch.device, *, quick: bool) -> Rates:
        """Measure the device."""
        size = COPIED // 8 if quick else COPIED
        source, target = (torch.ones(size // 4, device=device) for _ in range(2))
        copy = size / best(lambda: target.copy_(source), device)
        fresh = size / best(source.clone, device) if device.type == "cpu" else copy
        x = torch.rand(EXPONENTIALS, device=device)
        out = torch.empty_like(x)
        exponentials = EXPONENTIALS / best(lambda: torch.exp(x, out=out), device)
        squares = {n: _rate(Product(1, n, n, n), 1, device) for n in (SQUARES[:2] if quick else SQUARES)}
        return cls(device, copy, fresh, exponentials, squares)

    def of(self, product: Product) -> float:
        """Operations per second of products of a size, at the number of episodes at which they are quickest."""
        if product not in self._products:
            self._products[product] = max(_rate(product, episodes, self.device) for episodes in (1, 4, 16, 64))
        return self._products[product]

    def seconds(self, work: Work) -> Floor:
        """The least seconds of an episode on this device."""
        return Floor(
            products=sum(product.operations / self.of(product) for product in work.products),
            functions=work.functions / self.exponentials,
            bytes=work.bytes / self.copy,
        )


@dataclass(frozen=True)
class Floor:
    """The least seconds of an episode, by what is counted."""

    products: float
    functions: float
    bytes: float

    @property
    def seconds(self) -> float:
        """Of all: memory may move while the processor computes."""
        return max(self.bytes, self.products + self.functions)


def _rate(product: Product, episodes: int, device: torch.device) -> float:
    """Operations per second of the products of some episodes."""

    def factor(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device)

    p = product
    if p.is_shared:
        left, right = factor(episodes * p.batch * p.rows, p.inner), factor(p.inner, p.columns)
    else:
        left, right = factor(episodes * p.batch, p.rows, p.inner), factor(episodes * p.batch, p.inner, p.columns)
    out = torch.matmul(left, right)
    return episodes * p.operations / best(lambda: torch.matmul(left, right, out=out), device)


def described(device: torch.device) -> dict[str, str]:
    """What the machine is, by what it is called."""
    words = {"processor": _processor(), "cores": str(os.cpu_count()), "memory": f"{_memory() / 1e9:.0f} GB"}
    if device.type == "cuda":
        words["GPU"] = torch.cuda.get_device_name(device)
    return {**words, "threads used": str(torch.get_num_threads()), "torch": torch.__version__.split("+")[0]}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
