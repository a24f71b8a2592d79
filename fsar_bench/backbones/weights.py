"""Where weights are searched for, how they are fitted to a network, what is wrong with them, and the fingerprint of tensors."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsar_bench.errors import WeightsError
from fsar_bench.io import WEIGHT_SUFFIXES, is_weight_file, user_path, weight_files

BUILTIN = Path(__file__).with_name("builtin")
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")  # next to the weights in OpenAI's archives
TRANSFORMERS_NAMES = re.compile(
    r"(^|\.)(vision_model|text_model)\.|(^|\.)embeddings\.patch_embeddings?\.|\.layernorm_(before|after)\.|"
    r"\.attention\.attention\.(query|key|value)\."
)
ADAPTER_NAMES = re.compile(r"(^|\.)(lora_\w+|hada_\w+|lokr_\w+|ia3_l|oft_\w+|adapters?|prompt_embeddings)(\.|$)")
QUANTISED_NAMES = re.compile(
    r"\.(qweight|qzeros|SCB|quant_map|nested_absmax|absmax|quant_state\.\w+|weight_scale(_inv)?)$"
)
OTHERS = "Choose the backbone= that it belongs to, or its own weights"
FOLDER_FILES = (  # names of weights in folders of hubs, the first that is there is taken
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
SHOWN = 3  # names of tensors in a message
CHUNK = 2**20  # values that are checked at once
MOST_ZEROS = 0.1  # share of the values of a network's matrices that may stand in matrices of zeros alone
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
        WeightsError: the named file does not exist, or nothing is named.
    """
    if not isinstance(pretrained, str) or not pretrained.strip():
        raise WeightsError(
            f"pretrained={pretrained!r} of {model} names no weights: name a file, a folder, a tag or a hub id, or None for "
            "random weights."
        )
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
    if (folder / "adapter_config.json").exists() or (folder / "adapter_model.safetensors").exists():
        raise WeightsError(
            f"The folder {folder} holds an adapter (LoRA), which is no model: merge it with the model that it adapts, save that "
            f"state dict, and name its file for {model} with pretrained=."
        )
    indices = [path for name in FOLDER_FILES if name.endswith(".json") and (path := folder / name).is_file()]
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    whole = [path for path in files if not re.search(r"-\d{5}-of-\d{5}$", path.stem)]
    if indices and not whole:
        return indices[0]
    stems = {path.stem.replace("pytorch_model", "model") for path in files}  # the same may be there in two formats
    if len(stems) != 1:
        raise WeightsError(
            f"The folder {folder} holds {len(files)} weights files ({', '.join(p.name for p in files) or 'none'}), not one. Name "
            f"the file of {model} with pretrained=/path/to/file."
        )
    return max(files, key=lambda path: path.suffix == ".safetensors")


def folder_file(folder: Path, model: str) -> Path:
    """Return the weights file of a folder as hubs have them, where the same weights may be there in several formats.

    Raises:
        WeightsError: the folder holds none, or several of other names.
    """
    known = (path for name in FOLDER_FILES if (path := folder / name).is_file())
    return next(known, None) or file_in(folder, model)


@dataclass(frozen=True)
class Weights:
    """The contents of a weights file.

    Attributes:
        states: sets of tensors by name, by the key below which the file holds them ("" at its top), in the types of the file.
        quick_gelu: whether they were trained with QuickGELU; None if the file does not say.
        origin: kind of the file, in words.
    """

    states: States
    quick_gelu: bool | None
    origin: str

    def converted(self, function: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Weights:
        """Return the same contents with every set of tensors converted, in float32 where they are in half precision.

        Sets that the function cannot convert are left out.
        """
        states: States = {}
        half = (torch.float16, torch.bfloat16)
        for key, state in self.states.items():
            try:
                states[key] = function({n: t.float() if t.dtype in half else t for n, t in state.items()})
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
            Tensors with the names and shapes of `wanted`, in the types of the file.

        Raises:
            UnfitError: several sets agree, or none does; tensors are missing, are of no use, have another shape, are quantised,
                or hold values that no trained network has.
        """
        key, tensors = self._chosen(wanted, library)
        kept = {n: tensor for n, tensor in tensors.items() if n in wanted or not spare(n)}
        where = f"below the key {key!r}, " if key else ""
        if faults := list(_faults(kept, wanted)):
            raise UnfitError(f"{where}{'; '.join(faults)}. {_advice(kept, wanted)}")
        if fault := _value_fault(kept, wanted):
            raise UnfitError(f"{where}{fault}")
        return {name: tensor.reshape(wanted[name].shape) for name, tensor in kept.items()}

    def _chosen(self, wanted: Mapping[str, Tensor], library: str) -> tuple[str, dict[str, Tensor]]:
        """Return the set of tensors that most names of a network agree with, without its prefix, and the key of this set."""
        found = [(key, prefix, n) for key, state in self.states.items() for prefix, n in _prefixes(state, wanted)]
        most = max((n for _, _, n in found), default=0)
        if 2 * most < len(wanted):
            raise UnfitError(self._foreign(wanted, library, most))
        sets = {
            (key, prefix): {n.removeprefix(prefix): t for n, t in self.states[key].items() if n.startswith(prefix)}
            for key, prefix, n in found
            if n == most
        }
        (key, prefix), tensors = next(iter(sets.items()))
        others = [place for place, other in sets.items() if not _same(tensors, other, wanted)]
        if others:
            keys = list(dict.fromkeys(each for each, _ in [(key, prefix), *others]))
            places = (
                f"below several keys ({', '.join(map(repr, keys))})"
                if len(keys) > 1
                else f"behind several prefixes ({', '.join(repr(each) for _, each in [(key, prefix), *others])})"
            )
            raise UnfitError(f"it holds such weights {places}. Save those that are meant alone, in a file of their own")
        return key, tensors

    def _foreign(self, wanted: Mapping[str, Tensor], library: str, agreeing: int) -> str:
        """Say what a file holds instead of the tensors of a network, with so many names that agree."""
        names = [name for state in self.states.values() for name in state]
        if special := _special(names):
            return special
        of_transformers = [name for name in names if TRANSFORMERS_NAMES.search(name)]
        if of_transformers and library != "transformers":
            return (
                f"its tensors are named as in the library transformers (such as {of_transformers[0]}), not as in {library} "
                f"(such as {next(iter(wanted))}). Take the file of the same weights for {library}"
            )
        below = ", ".join(repr(key) for key in self.states if key)
        return (
            f"it has {agreeing or 'none'} of the model's {len(wanted)} tensors under their names in {library}: it holds "
            f"{len(names)}{f' (below {below})' if below else ''} such as {', '.join(names[:SHOWN])}, the model such as "
            f"{', '.join([*wanted][:SHOWN])}. {OTHERS}"
        )


def _prefixes(state: Iterable[str], wanted: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Find the prefixes without which most names of a state are wanted, and how many these are; no prefix wins a tie."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(
            "".join(f"{part}." for part in parts[:i]) for i in range(len(parts)) if ".".join(parts[i:]) in wanted
        )
    most = max(counts.values(), default=0)
    best = [(prefix, n) for prefix, n in counts.items() if n == most]
    return [("", most)] if counts[""] == most and most else best


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], wanted: Iterable[str]) -> bool:
    """Whether two sets hold the same tensors for a network, as a file that holds them below two keys does."""
    if a is b:
        return True
    return all((n in a) == (n in b) and (n not in a or _equal(a[n], b[n])) for n in wanted)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    try:
        return torch.equal(a, b)
    except RuntimeError:  # types that torch does not compare
        return False


def _special(names: list[str]) -> str:
    """Say what names of tensors show that belong to no network of a library: adapters, quantised formats."""
    adapters = [name for name in names if ADAPTER_NAMES.search(name)]
    if adapters:
        return (
            f"it holds {len(adapters)} tensors of an adapter (LoRA or the like, such as {adapters[0]}). Merge it with the model "
            "that it adapts (in peft: merge_and_unload()), and save that state dict"
        )
    quantised = [name for name in names if QUANTISED_NAMES.search(name)]
    if quantised:
        return (
            f"its weights are quantised ({len(quantised)} tensors such as {quantised[0]}). Take the same weights in float32, "
            "float16 or bfloat16"
        )
    return ""


def _faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """Say in which ways tensors are not those of a network."""
    other = [name for name in tensors if name in wanted and not _fits(tensors[name], wanted[name])]
    if other:
        name = other[0]
        further = f" ({len(other)} tensors differ in shape)" if len(other) > 1 else ""
        shape, needed = list(tensors[name].shape), list(wanted[name].shape)
        yield (
            f"{name} has the shape {shape} in the file, but {needed} in the model{further}: another architecture, image size or "
            "number of frames"
        )
    if missing := [name for name in wanted if name not in tensors]:
        yield f"it lacks {len(missing)} of the model's {len(wanted)} tensors, such as {', '.join(missing[:SHOWN])}"
    if more := [name for name in tensors if name not in wanted]:
        yield f"it holds {len(more)} tensors that the model has not, such as {', '.join(more[:SHOWN])}"


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has a shape; one value may be stored with or without dimensions."""
    return tensor.shape == wanted.shape or (tensor.numel() == wanted.numel() == 1)


def _advice(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    special = _special([name for name in tensors if name not in wanted])
    return f"{special[0].upper()}{special[1:]}" if special else OTHERS


def _value_fault(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say which values no trained network has; empty if there are none."""
    floating = {name: tensor for name, tensor in tensors.items() if wanted[name].is_floating_point()}
    kinds = {name: kind for name, tensor in floating.items() if (kind := _kind(tensor))}
    if kinds:
        name, kind = next(iter(kinds.items()))
        return (
            f"{len(kinds)} of its {len(tensors)} tensors are quantised or of another kind ({name} is {kind}). Take the same "
            "weights in float32, float16 or bfloat16"
        )
    broken = {name: n for name, tensor in floating.items() if (n := _not_finite(tensor))}
    if broken:
        name, count = next(iter(broken.items()))
        return (
            f"{len(broken)} of its {len(tensors)} tensors hold values that are NaN or infinite ({name}: {count} of "
            f"{tensors[name].numel()}), after a training that diverged or in a damaged file. Take another checkpoint, or "
            "download it again"
        )
    matrices = {name: tensor for name, tensor in floating.items() if tensor.ndim > 1}
    zeros = [name for name, tensor in matrices.items() if not tensor.any()]
    total = sum(tensor.numel() for tensor in matrices.values())
    if sum(matrices[name].numel() for name in zeros) > MOST_ZEROS * total:
        return (
            f"{len(zeros)} of its {len(matrices)} matrices are zeros alone, such as {zeros[0]}, as in a download that was not "
            "finished. Download it again"
        )
    return ""


def _kind(tensor: Tensor) -> str:
    """What a tensor is other than plain floating-point numbers; empty if it is not."""
    if tensor.is_meta:
        return "without values"
    if tensor.layout != torch.strided:
        return "sparse"
    is_plain = tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return "" if is_plain else str(tensor.dtype).removeprefix("torch.")


def _not_finite(tensor: Tensor) -> int:
    """Number of values that float32 cannot hold."""
    parts = tensor.flatten().split(CHUNK)  # the check makes copies: small ones
    return sum(part.numel() - int(torch.isfinite(part.float()).sum()) for part in parts)


def first_line(error: Exception, length: int = 300) -> str:
    """Return the type and the first line of an error's message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:length]


def unloadable(model: str, source: str | Path, error: Exception) -> WeightsError:
    """Return the error for a weights file that cannot be loaded into a model.

    Args:
        model: name of the architecture.
        source: the file.
        error: the reason; any but an `UnfitError` and an `OSError` means a damaged file.
    """
    start = f"The weights file {source} cannot be loaded into {model}"
    if isinstance(error, UnfitError):
        return WeightsError(f"{start}: {error}.")
    if isinstance(error, OSError) and error.strerror:
        return WeightsError(f"{start}: it cannot be read ({error.strerror}). Check its permissions and its disk.")
    return WeightsError(
        f"{start} ({first_line(error)}). It is damaged or of another model: replace the file, or choose the backbone= that it "
        "belongs to."
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
    if path.is_symlink() and not path.exists():
        raise WeightsError(
            f"The weights file {path} of {model} is a link to {path.readlink()}, which does not exist. Download it again, or "
            "name the file itself with pretrained=."
        )
    if not path.is_file():
        hint = " A variable ($…) is not replaced in it: write the path in full." if "$" in str(path) else ""
        raise WeightsError(
            f"The weights file {path} of {model} does not exist. Check pretrained=, or put the file there.{hint}"
        )
    return path
