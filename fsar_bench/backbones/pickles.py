"""What Python objects a pickled file holds, found without loading it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

OF_STATE_DICTS = re.compile(  # what tensors by name need
    r"torch\.(\w*Storage|Size|Tensor|device|[a-z]+\d+(_\w+)?|bool)|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter|"
    r"torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout|torch\.storage\.\w+|_codecs\.encode|"
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|bytearray|frozenset)"
)
DANGEROUS = re.compile(
    r"(os|posix|nt|subprocess|sys|runpy|importlib|imp|shutil|socket|pty|ctypes|webbrowser|commands)\..*|"
    r"(builtins|__builtin__)\.(eval|exec|execfile|compile|open|file|__import__|input|breakpoint)"
)
RESAVE = (
    "Pickled objects are never loaded, because they can run code. In the code that wrote the file, save the state dict alone: "
    "torch.save(model.state_dict(), 'weights.pt')"
)
MOST_NAMES = 3
LEGACY_PICKLES = 4  # of a file of torch before 1.6: magic number, protocol, machine, objects


def objects_in(path: Path) -> list[str]:
    """Return the names of the classes and functions in a file of torch.save that a state dict does not need."""
    names: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for record in archive.namelist():
                    if record.endswith("data.pkl"):
                        with archive.open(record) as file:
                            names.update(dict.fromkeys(_globals(file)))
        else:
            with path.open("rb") as file:
                for _ in range(LEGACY_PICKLES):
                    for name in _globals(file):
                        names[name] = None
    except Exception:  # junk after the part that could be read
        pass
    return [name for name in names if not OF_STATE_DICTS.fullmatch(name)]


def about(objects: list[str]) -> str:
    """Say what a file with such objects is, and what to do."""
    if bad := next((name for name in objects if DANGEROUS.fullmatch(name)), None):
        return (
            f"it holds pickled Python objects that call {bad} when they are loaded: they can run commands, and no weights need "
            "that. Nothing of it was run. Do not load it elsewhere, and take the weights from a source that you trust"
        )
    others = f" and {len(objects) - MOST_NAMES} more" if len(objects) > MOST_NAMES else ""
    if any(name.startswith(("torch.nn.modules.", "torch.nn.parallel.")) for name in objects):
        return f"it is a whole pickled model (class {objects[0]}), not a state dict. {RESAVE}"
    return f"it holds pickled Python objects ({', '.join(objects[:MOST_NAMES])}{others}), not tensors alone. {RESAVE}"


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Read the names that the next pickle of a file looks up, in their order."""
    memo: dict[int, str] = {}
    texts: list[str] = ["", ""]
    for code, argument, _ in pickletools.genops(file):
        name = code.name
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif "UNICODE" in name:
            texts.append(str(argument))
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif name.endswith("PUT"):
            memo[int(str(argument))] = texts[-1]
        elif name.endswith("GET"):
            texts.append(memo.get(int(str(argument)), ""))
