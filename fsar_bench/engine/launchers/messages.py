"""What a node tells the driver, as JSON: how far a cell is, its result, or its error. Results are checked, then stored."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError, field_validator

from fsar_bench import errors
from fsar_bench.config.cell import Cell, Sha
from fsar_bench.config.settings import Frozen
from fsar_bench.errors import CellCrashedError, FsarBenchError, ResultError
from fsar_bench.io import read_whole, replacing_all
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import Event
from fsar_bench.results.plans import checked_plan
from fsar_bench.results.predictions import FILE as PREDICTIONS
from fsar_bench.results.store import COST, RECORD, Stored, read, read_record, write
from fsar_bench.writing.temporary import temporary_folder

PLAN = "plan.npz"  # in a parcel: the plan's own name is told by the record
FILES = (RECORD, PREDICTIONS, COST, PLAN)


def _from_text(value: Any) -> Any:
    """Bytes from base64; pydantic refuses what is neither text nor bytes."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Bytes = Annotated[
    bytes,
    BeforeValidator(_from_text),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
]


class Told(Frozen):
    """An event of a cell."""

    kind: Literal["told"] = "told"
    cell: Sha
    stage: str
    done: int
    total: int
    note: str

    @classmethod
    def of(cls, cell: Cell, event: Event) -> Self:
        """The message of an event."""
        return cls(cell=cell.hash, stage=event.stage, done=event.done, total=event.total, note=event.note)

    @property
    def event(self) -> Event:
        """The event."""
        return Event(self.stage, self.done, self.total, self.note)


class Answer(Frozen):
    """How a cell ended.

    Attributes:
        cell: hash of the cell.
        node: name of the machine.
        log: its log, or the end of a long one, where the driver cannot see the node's; else empty.
    """

    cell: Sha
    node: str
    log: Bytes


class Parcel(Answer):
    """A result: the bytes of its files, by name."""

    kind: Literal["parcel"] = "parcel"
    files: dict[str, Bytes]

    @field_validator("files")
    @classmethod
    def _are_known(cls, files: dict[str, bytes]) -> dict[str, bytes]:
        if set(files) != set(FILES):
            raise ValueError(f"it has not the files {', '.join(FILES)}")
        return files


class Failure(Answer):
    """An error of `fsar_bench.errors`, by the name of its class."""

    kind: Literal["failure"] = "failure"
    error: str
    message: str

    def exception(self) -> FsarBenchError:
        """The error."""
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, FsarBenchError):
            return kind(self.message)
        return CellCrashedError(self.message)


Message = Told | Parcel | Failure
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """A message as one line of JSON."""
    return message.model_dump_json().encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises:
        ResultError: it is none.
    """
    try:
        return _MESSAGES.validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))[:200]
        raise ResultError(f"a node sent what is no message ({place}: {fault['msg'][:200]}).") from error


def pack(stored: Stored) -> dict[str, bytes]:
    """The files of a result, for a parcel.

    Raises:
        ResultError: one of them cannot be read.
    """
    files = {name: stored.folder / name for name in FILES if name != PLAN} | {PLAN: stored.plan_file}
    try:
        return {name: read_whole(path) for name, path in files.items()}
    except OSError as error:
        raise ResultError(f"The result in {stored.folder} cannot be read ({error.strerror}).") from error


def accept(parcel: Parcel, cell: Cell, out: Path) -> Stored:
    """Check a result that came back as one that is merged, and against the cell that was sent; then store it.

    Args:
        parcel: what came back.
        cell: what was sent.
        out: folder of results and plans.

    Raises:
        ResultError: it is not a result of this cell, is damaged, or cannot be stored.
    """
    folder = temporary_folder()
    try:
        try:
            stored, plan = _checked(parcel, cell, folder)
        except ResultError as error:
            reason = str(error).replace(f"{folder}/", "")
            raise ResultError(f"What {parcel.node} sent as the result of {cell} is refused: {reason}") from error
        return write(out / "results", stored.result, parcel.files[PREDICTIONS], stored.cost, plan)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(parcel: Parcel, cell: Cell, folder: Path) -> tuple[Stored, EpisodePlan]:
    """Unpack a parcel in a folder, and check it."""
    place = folder / "results" / cell.folder
    with replacing_all(sync=False) as batch:
        for name in (RECORD, PREDICTIONS, COST):
            batch.write(place / name, parcel.files[name])
    result = read_record(place)[0]
    if result.cell != cell or result.submitted:
        raise ResultError(f"it is a result of {result.cell} ({result.config_hash[:8]}), not of this cell.")
    with replacing_all(sync=False) as batch:
        batch.write(folder / "plans" / result.plan_name, parcel.files[PLAN])
    stored = read(place)
    plan = checked_plan(stored)
    if plan.has_a_clip_twice():
        raise ResultError("its plan has a clip twice in one episode.")
    return stored, plan
