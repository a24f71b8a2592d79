"""Generators made from (seed, purpose, index): nothing here reads or writes global random state."""

from __future__ import annotations

import zlib

import numpy as np

_MASK = (1 << 64) - 1


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A numpy generator for one use, independent of what was drawn before it."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *index])


def integer_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for generators that take one integer (torch)."""
    return int(generator(seed, purpose, *index).integers(0, 2**63 - 1))


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The SplitMix64 output function on uint64: add the golden gamma, then mix (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        values: uint64 array of any shape.

    Returns:
        uint64 array of the same shape; arithmetic is modulo 2**64.
    """
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def stream_key(seed: int, purpose: str) -> np.uint64:
    """Start of a SplitMix64 key chain: splitmix64(splitmix64(seed) xor crc32(purpose))."""
    first = splitmix64(np.array([seed & _MASK], np.uint64))
    return splitmix64(first ^ np.uint64(zlib.crc32(purpose.encode())))[0]


def seed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Seed torch's global generators, which dropout and initialisers read. Nothing else in the suite seeds them."""
    import torch

    torch.manual_seed(integer_seed(seed, purpose, step))
