"""Errors meant for users: one message that names the thing and the fix. The command line prints them without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from fsar_bench.texts.characters import plain


class FsarBenchError(Exception):
    """Base class of errors that the user can fix; their messages may quote any text, and are plain wherever they are shown."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ConfigError(FsarBenchError):
    """A name, key or value of the command line or a config is wrong."""


class NotApplicableError(ConfigError):
    """A method cannot work with what it is given, such as class names without a text encoder; a control is left out then."""


class DataError(FsarBenchError):
    """A clip, list or annotation cannot be used."""


class WeightsError(FsarBenchError):
    """Weights or a checkpoint are missing or damaged."""


class ProtocolError(FsarBenchError):
    """The protocol cannot be carried out, or something tried to break it."""


class TrainingError(FsarBenchError):
    """Training went wrong."""


class CellCrashedError(FsarBenchError):
    """The process of a cell died, or met an error that is not the user's."""


class ProcessError(FsarBenchError):
    """A process cannot be started, or does not live long enough to start its work."""


class ResultError(FsarBenchError):
    """A result file is missing, damaged or cannot be written."""


class LimitError(FsarBenchError):
    """The machine ran out of what a run needs, such as open files or memory."""


class BusyError(ResultError):
    """Another run is working on the cell at this moment."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Text that lists close matches first, then every choice; "ViT-B/16" is close to "vit_b_16"."""
    choices = sorted(choices)
    plain = {choice: _plain(choice) for choice in choices}
    wanted = _plain(name)
    close = [choice for choice in choices if wanted and wanted == plain[choice]]
    if not close:
        order = difflib.get_close_matches(wanted, sorted(set(plain.values())), n=3, cutoff=0.5)
        close = [choice for match in order for choice in choices if plain[choice] == match][:3]
    if not close and len(wanted) > 2:
        close = [choice for choice in choices if plain[choice].startswith(wanted)][:3]
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Choose from: {', '.join(choices) or '(none)'}."


def _plain(name: str) -> str:
    """A name without case and signs, so that spellings of one name agree; dots keep their meaning in keys."""
    return re.sub(r"[^a-z0-9.]", "", name.casefold())
