"""Machine profiles: what methods take on a machine, measured by `fsar-bench profile`, for `fsar-bench plan`. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictFloat

from fsar_bench.config.settings import Frozen, Text
from fsar_bench.engine.forecast import Known
from fsar_bench.errors import ConfigError
from fsar_bench.io import load_json, to_json, write_atomically
from fsar_bench.progress.estimate import Work

Amount = Annotated[int, Field(ge=0, le=10**15)]
Seconds = Annotated[StrictFloat, Field(ge=0, le=10**9)]
Key = Annotated[str, Field(max_length=1000)]


class MethodProfile(Frozen):
    """What a method takes on a machine.

    Attributes:
        method: with its backbone and settings, as `forecast.method_of` names it.
        backbone: with its number of frames, as `forecast.backbone_of` names it.
        title: of both, for people.
        roles: how often a clip is encoded: 2 where supports and queries are encoded differently.
        encode: seconds per clip and role.
        score: seconds per episode, in the episodes that were measured.
        train: seconds per clip of a training episode; None where nothing is trained.
        clip: bytes of a clip as it is stored, per role.
        indexed: bytes of a clip in memory when episodes are scored, per role.
        shared: stored clips serve all methods of the backbone.
        arrays: arrays of scores that an episode has.
        trained: number of trained parameters.
        process: bytes of a process that has loaded the method.
        training: bytes that a training step adds to them, at most; 0 where nothing is trained.
        training_clips: clips of that step.
    """

    method: Key
    backbone: Key
    title: Text
    roles: Annotated[int, Field(ge=1, le=2)]
    encode: Seconds
    score: Seconds
    train: Seconds | None
    clip: Amount
    indexed: Amount
    shared: bool
    arrays: Annotated[int, Field(ge=1, le=100)]
    trained: Amount
    process: Amount
    training: Amount = 0
    training_clips: Amount = 0


class MachineProfile(Frozen):
    """What some methods take on one device.

    Attributes:
        device: its name.
        methods: each measured by `fsar-bench profile`.
    """

    device: Text
    methods: Annotated[list[MethodProfile], Field(max_length=10_000)] = Field([])

    @classmethod
    def read(cls, path: Path) -> MachineProfile:
        """A profile from its file.

        Raises:
            ConfigError: the file is missing, or holds no profile.
        """
        fix = f"Measure a method with fsar-bench profile METHOD --machine {path}."
        return load_json(path, cls, f"The machine profile {path}", fix, ConfigError)

    @classmethod
    def add(cls, path: Path, device: str, method: MethodProfile) -> MachineProfile:
        """Put a method into the profile in a file, which is made where there is none; an older measurement is replaced.

        Raises:
            ConfigError: the file holds no profile, or that of another device.
        """
        profile = cls.read(path) if path.exists() else cls(device=device)
        if profile.device != device:
            raise ConfigError(
                f"The machine profile {path} is that of {profile.device!r}, and this was measured on {device!r}: name another "
                "file."
            )
        others = [other for other in profile.methods if other.method != method.method]
        added = cls(device=device, methods=sorted([*others, method], key=lambda one: one.method))
        write_atomically(path, to_json(added.model_dump(mode="json")))
        return added

    def known(self, path: Path) -> Known:
        """What it tells a forecast."""
        known = Known(source=f"{path}, measured on {self.device}")
        for one in self.methods:
            work = Work(one.method, one.backbone)
            known.rates.remember("encode", work, one.encode, 1)
            known.rates.remember("score", work, one.score, 1)
            known.rates.remember("train", work, one.train or 0.0, 1)
            known.roles[one.method] = one.roles
            known.trained[one.method] = one.trained
        return known
