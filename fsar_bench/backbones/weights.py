"""Where weights are searched for, how weights files are read and fitted to a network, and the fingerprint of tensors."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fsar_bench.errors import WeightsError
from fsar_bench.io import WEIGHT_SUFFIXES, is_weight_file, user_path, weight_files

BUILTIN = Path(__file__).with_name("builtin")
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")  # next to the weights in OpenAI's archives
TRANSFORMERS_NAMES = re.compile(
    r"(^|\.)(vision_model|text_model)\.|(^|\.)embeddings\.patch_embeddings?\.|\.layernorm_(before|after)\.|"
    r"\.attention\.attention\.(query|key|value)\."
)
States = dict[str, dict[str, Tensor]]


class UnfitError(ValueError):
    """A file holds no weights, or other weights than a network needs; the message says what it holds and what to do."""


def resolve(model: str, pretrained: str) -> str:
    """Turn the `pretrained` key into the source to load.

    Args:
        model: name of the architecture.
        pretrained: "builtin", a path, or a tag of the library such as "openai".

    Returns:
        A file, a folder, or a tag or hub id that the library fetches itself.

    Raises:
        WeightsError: the named file does not exist.
    """
    if pretrained == "builtin":
        return str(_existing(BUILTIN / f"{model}.safetensors", model))
    if user_path(pretrained).is_dir():
        return str(user_path(pretrained))
    if is_weight_file(pretrained):
        return str(_existing(user_path(pretrained), model))
    for path in weight_files(model, pretrained):
        if path.is_file():
            return str(path)
    return pretrained


def file_in(folder: Path, model: str) -> Path:
    """Return the weights file of a folder.

    Raises:
        WeightsError: the folder holds none, or several.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len({path.stem for path in files}) != 1:  # the same weights may be there in two formats
        raise WeightsError(
            f"The folder {folder} holds {len(files)} weights files ({', '.join(p.name for p in files) or 'none'}), not one. Name "
            f"the file of {model} with pretrained=/path/to/file."
        )
    return max(files, key=lambda path: path.suffix == ".safetensors")


@dataclass(frozen=True)
class Weights:
    """The contents of a weights file.

    Attributes:
        states: sets of tensors by name, by the key below which the file holds them ("" at its top); half precision is
            converted to float32.
        quick_gelu: whether they were trained with QuickGELU; None if the file does not say.
        origin: kind of the file, in words.
    """

    states: States
    quick_gelu: bool | None
    origin: str

    def converted(self, function: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Weights:
        """Return the same contents with every set of tensors converted; sets that the function cannot convert are left out."""
        states: States = {}
        for key, state in self.states.items():
            try:
                states[key] = _plain(function(dict(state)))
            except Exception:  # converters of libraries fail in any way on tensors of another model
                continue
        return Weights(states, self.quick_gelu, self.origin)

    def fit(
        self, wanted: Mapping[str, Tensor], *, library: str, spare: Callable[[str], bool] = lambda name: False
    ) -> dict[str, Tensor]:
        """Choose the tensors of a network: the set whose names agree, without a prefix that they share.

        Args:
            wanted: the network's tensors by name.
            library: the library whose names these are.
            spare: whether a name that the network lacks may be dropped, such as a classifier's.

        Returns:
            Tensors with the names and shapes of `wanted`.

        Raises:
            UnfitError: several sets agree, or none does; tensors are missing, are of no use, or have another shape.
        """
        hits = {key: _prefix(state, wanted) for key, state in self.states.items()}
        most = max((count for _, count in hits.values()), default=0)
        if 2 * most < len(wanted):
            raise UnfitError(self._foreign(wanted, library))
        agreeing = [key for key, (_, count) in hits.items() if count == most]
        if len(agreeing) > 1:
            raise UnfitError(
                f"it holds such weights below several keys ({', '.join(map(repr, agreeing))}). Save those that are meant alone, "
                "in a file of their own"
            )
        prefix = hits[agreeing[0]][0]
        state = self.states[agreeing[0]]
        tensors = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        kept = {name: tensor for name, tensor in tensors.items() if name in wanted or not spare(name)}
        if faults := list(_faults(kept, wanted)):
            where = f"below the key {agreeing[0]!r}, " if agreeing[0] else ""
            raise UnfitError(f"{where}{'; '.join(faults)}. Choose the backbone= that it belongs to, or its own weights")
        return kept

    def _foreign(self, wanted: Mapping[str, Tensor], library: str) -> str:
        """Say what a file holds instead of the tensors of a network."""
        names = [name for state in self.states.values() for name in state]
        of_transformers = [name for name in names if TRANSFORMERS_NAMES.search(name)]
        if of_transformers and library != "transformers":
            return (
                f"its tensors are named as in the library transformers (such as {of_transformers[0]}), not as in {library} "
                f"(such as {next(iter(wanted))}). Take the file of the same weights for {library}"
            )
        below = ", ".join(repr(key) for key in self.states if key)
        return (
            f"few of its {len(names)} tensors{f' (below {below})' if below else ''} are named as in {library}: it has such as "
            f"{names[0]}, the model such as {next(iter(wanted))}. Choose the backbone= that it belongs to, or its own weights"
        )


def _prefix(state: Iterable[str], wanted: Mapping[str, Tensor]) -> tuple[str, int]:
    """Find the prefix without which most names of a state are wanted, and how many these are; no prefix wins a tie."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(
            "".join(f"{part}." for part in parts[:i]) for i in range(len(parts)) if ".".join(parts[i:]) in wanted
        )
    return max(counts.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))


def _faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterable[str]:
    """Say in which ways tensors are not those of a network."""
    for name, tensor in tensors.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            yield (
                f"{name} has the shape {list(tensor.shape)} in the file, but {list(wanted[name].shape)} in the model (another "
                "architecture, image size or number of frames)"
            )
            break
    if missing := [name for name in wanted if name not in tensors]:
        yield f"it lacks {len(missing)} of the model's {len(wanted)} tensors, such as {missing[0]}"
    if more := [name for name in tensors if name not in wanted]:
        yield f"it holds {len(more)} tensors that the model has not, such as {more[0]}"


def read_weights(path: Path) -> Weights:
    """Read safetensors, a state dict at the top or below keys, or an OpenAI-style TorchScript archive.

    The format is read from the content, not from the name. Pickled Python objects are never loaded.

    Raises:
        UnfitError: the file is empty, a git-lfs pointer, a web page, or holds objects or no tensors by name.
        Exception: any error of the library that reads a damaged file.
    """
    with path.open("rb") as file:
        head = file.read(1000)
    _refuse_other_content(head)
    if head[8:9] == b"{":
        return Weights({"": _plain(load_file(path))}, None, "safetensors")
    if _is_torchscript(path):
        archive = torch.jit.load(path, map_location="cpu")
        code = "".join(_code(path))  # x * sigmoid(1.702 x), or gelu(x)
        quick = True if "torch.sigmoid(" in code else False if "torch.gelu(" in code else None
        return Weights({"": _plain(archive.state_dict())}, quick, "a TorchScript archive")
    states = dict(_states(_load_pickle(path)))
    if not states:
        raise UnfitError("it holds no tensors by name. Replace it by a state dict or safetensors")
    names = {name.rpartition(".")[2] for state in states.values() for name in state}
    plain = {key: tensors for key, state in states.items() if (tensors := _plain(state))}
    from_openai = names.issuperset(OPENAI_ENTRIES)
    return Weights(plain, True if from_openai else None, "OpenAI's state dict" if from_openai else "a state dict")


def _refuse_other_content(head: bytes) -> None:
    """Refuse what people have in place of weights, by the first bytes of a file."""
    if not head:
        raise UnfitError("it is empty (0 bytes). Download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UnfitError(
            "it is a git-lfs pointer, not the weights themselves. Run `git lfs pull` in the repository that it is from, or "
            "download the file itself"
        )
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", head, re.IGNORECASE):
        raise UnfitError(
            "it is a web page (HTML), as a download leaves it that needs a login or is gone. Download it again"
        )


_NO_FILE = "it is no file of torch, or damaged. Download it again"


def _load_pickle(path: Path) -> object:
    """Load a file of torch.save without running any code of its pickles."""
    try:
        with path.open("rb") as file:  # by its name torch would take a file for another format
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kinds = re.findall(r"GLOBAL ([\w.]+)", str(error))
        if kinds:
            raise UnfitError(
                f"it holds pickled Python objects ({kinds[0]}), which are never loaded, because they can run code. Where you "
                "trust the file, load it with torch and save its state dict alone in a file of its own"
            ) from error
        raise UnfitError(_NO_FILE) from error
    except (
        KeyError,
        ValueError,
        IndexError,
        EOFError,
        AttributeError,
        TypeError,
    ) as error:  # as the unpickler meets junk
        raise UnfitError(_NO_FILE) from error


def _states(value: object, key: str = "", depth: int = 0) -> Iterable[tuple[str, Mapping[str, object]]]:
    """Find all dictionaries with tensors by name in what a file holds, by their keys."""
    if not isinstance(value, Mapping) or depth > 3:
        return
    if any(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()):
        yield key, value
    for name, inner in value.items():
        yield from _states(inner, f"{key}.{name}" if key else str(name), depth + 1)


def _plain(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Keep the tensors with names: in float32 where they are in half precision, without what DataParallel adds to names."""
    tensors = {
        n: t for n, t in state.items() if isinstance(t, Tensor) and str(n).rpartition(".")[2] not in OPENAI_ENTRIES
    }
    if all(str(name).startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    half = (torch.float16, torch.bfloat16)
    return {str(name): tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}


def _is_torchscript(path: Path) -> bool:
    return zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist())


def _code(path: Path) -> list[str]:
    """Return the source texts inside a TorchScript archive."""
    with zipfile.ZipFile(path) as archive:
        return [archive.read(n).decode() for n in archive.namelist() if "/code/" in n and n.endswith(".py")]


def first_line(error: Exception, length: int = 300) -> str:
    """Return the type and the first line of an error's message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:length]


def unloadable(model: str, source: str | Path, error: Exception) -> WeightsError:
    """Return the error for a weights file that cannot be loaded into a model.

    Args:
        model: name of the architecture.
        source: the file.
        error: the reason; any but an `UnfitError` means a damaged file.
    """
    if isinstance(error, UnfitError):
        return WeightsError(f"The weights file {source} cannot be loaded into {model}: {error}.")
    return WeightsError(
        f"The weights file {source} cannot be loaded into {model} ({first_line(error)}). It is damaged or of another model: "
        "replace the file, or choose the backbone= that it belongs to."
    )


def missing(model: str, tag: str, reason: object, fetch: str) -> WeightsError:
    """Return the error for weights that are not on this machine and could not be fetched.

    Args:
        model: name of the architecture.
        tag: tag or hub id of the weights.
        reason: why fetching failed.
        fetch: Python code that downloads the weights.
    """
    looked = "\n  ".join(str(path) for path in weight_files(model, tag))
    return WeightsError(
        f"The weights {tag!r} of {model} are not on this machine and could not be fetched ({reason}).\nLooked for:\n  {looked}\n"
        "and in the library's own cache. Put a state dict or safetensors file at one of these places, name any file with "
        "pretrained=/path/to/file (pretrained=none takes random weights), or run once on a machine with network access:\n"
        f'  python -c "{fetch}"'
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and float32 values of tensors, independent of the file that held them."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().float().cpu().contiguous()
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def _existing(path: Path, model: str) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"The weights file {path} of {model} does not exist. Check pretrained=, or put the file there."
        )
    return path
