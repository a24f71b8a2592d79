"""Tester: properties as methods, and what became of each; what the testers of methods, backbones and matchers share.

Every property is a method named `test_...` that returns None, or raises `BrokenError` with the observation. The first two are the
form of what the component returns, and that it returns the same twice. If one of them is broken, the others cannot be judged:
they are skipped, so that one fault is reported once.
"""

from __future__ import annotations

import copy
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from fsar_bench.errors import ConfigError, suggest

M = TypeVar("M", bound=nn.Module)
SURE = 0.75  # share of pairs from which copies clearly prefer their own class; 1 - SURE is clearly the opposite
_PACKAGE = Path(__file__).parents[1]
_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


class BrokenError(Exception):
    """A property does not hold; the message describes the observation."""


class NotTestedError(Exception):
    """A property cannot be tested here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """Result of testing one property.

    Attributes:
        name: name of the property.
        state: "holds", "broken" or "skipped".
        reason: the observation if it is broken, the cause if it is skipped.
    """

    name: str
    state: Literal["holds", "broken", "skipped"]
    reason: str = ""


class Tester(Generic[M]):
    """Tests the contract of one component.

    Subclasses add properties as further methods named `test_...`.

    Attributes:
        foundations: number of properties that must hold for the others to be judged.

    Args:
        build: builds the component. It is called once; every property works on its own copy (`copy.deepcopy`), or on one built
            for it if it cannot be copied.
    """

    foundations = 2

    def __init__(self, build: Callable[[], M]) -> None:
        self.build = build
        self._built: M | None = None

    def run(self) -> list[Outcome]:
        """Test all properties, in the order in which they are written.

        If a foundation is broken, the others are skipped. A failure that has the very same words as an earlier one is skipped
        as well.
        """
        outcomes: list[Outcome] = []
        properties = self._properties()
        for place, name in enumerate(properties):
            outcome = self._outcome(name)
            earlier = [o.name for o in outcomes if o.state == "broken" and o.reason == outcome.reason]
            if outcome.state == "broken" and earlier:
                outcome = replace(outcome, state="skipped", reason=f"fails as {earlier[0]!r} does")
            outcomes.append(outcome)
            if outcome.state == "broken" and place < self.foundations:
                reason = f"cannot be judged before {outcome.name!r} holds"
                return [*outcomes, *(Outcome(_title(rest), "skipped", reason) for rest in properties[place + 1 :])]
        return outcomes

    def check(self, name: str) -> Outcome:
        """Test one property.

        Args:
            name: name of the property as `Outcome` has it, such as "order of shots changes nothing".

        Raises:
            ConfigError: there is no such property.
        """
        properties = {_title(prop): prop for prop in self._properties()}
        if name not in properties:
            raise ConfigError(f"No property is named {name!r}.{suggest(name, properties)}")
        return self._outcome(properties[name])

    def _properties(self) -> list[str]:
        kinds = reversed(type(self).__mro__)
        return list(dict.fromkeys(name for kind in kinds for name in vars(kind) if name.startswith("test_")))

    def _outcome(self, name: str) -> Outcome:
        title = _title(name)
        try:
            getattr(self, name)()
        except BrokenError as error:
            return Outcome(title, "broken", str(error))
        except NotTestedError as error:
            return Outcome(title, "skipped", str(error))
        except Exception as error:
            return Outcome(title, "broken", describe_error(error))
        return Outcome(title, "holds")

    def fresh(self) -> M:
        """Return the component as `build` returns it, unaffected by earlier properties."""
        if self._built is None:
            self._built = self.build()
        try:
            return copy.deepcopy(self._built)
        except (RuntimeError, TypeError):  # a tensor with a graph, or an object that cannot be copied
            return self.build()


def _title(name: str) -> str:
    """Name of a property as people read it."""
    return name.removeprefix("test_").replace("_", " ")


def describe_error(error: BaseException) -> str:
    """An exception as one line: type, message, and the file and line of the user's code that it comes from, if any.

    Args:
        error: the exception; for an error of fsar-bench that was caused by another one, the place is that of the cause.
    """
    cause = error.__cause__ if isinstance(error, ConfigError) and error.__cause__ is not None else error
    lines = str(error).splitlines() or ["(no message)"]
    text = lines[0][:300] if isinstance(error, ConfigError) else f"{type(error).__name__}: {lines[0][:300]}"
    place = _place(cause)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str:
    """File and line of the deepest frame that is neither ours nor a library's; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        is_library = path.is_relative_to(_STANDARD) or {"site-packages", "dist-packages"} & set(path.parts)
        if path.is_file() and not is_library and not path.is_relative_to(_PACKAGE):
            return f"{path.name}:{frame.lineno}"
    return ""


# Comparisons that testers share.


def describe_value(value: object) -> str:
    """A value as errors name it: a tensor with its shape, anything else by its type."""
    if isinstance(value, Tensor):
        return f"a Tensor of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def expect_tensor(value: object, what: str, letters: str, shape: tuple[int | None, ...]) -> Tensor:
    """Return a value that must be a finite tensor of a shape.

    Args:
        value: what was returned.
        what: what it is, for the message.
        letters: the shape in letters, such as "[E, Q, N]".
        shape: the sizes; None stands for any size.

    Raises:
        BrokenError: it is not.
    """
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    expected = f"a Tensor {letters} = [{sizes}] is expected"
    if not isinstance(value, Tensor):
        raise BrokenError(f"{what} is {describe_value(value)}: {expected}.")
    fits = value.ndim == len(shape) and all(
        size in (None, actual) for size, actual in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise BrokenError(f"{what} has the shape {list(value.shape)}: {expected}.")
    if not value.is_floating_point():
        raise BrokenError(f"{what} holds {value.dtype}: floating-point numbers are expected.")
    if not torch.isfinite(value).all():
        raise BrokenError(f"{what} contains numbers that are not finite.")
    return value


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Compute the largest difference of two tensors, relative to the mean spread (maximum - minimum) of their last dimension."""
    spread = (a.amax(-1) - a.amin(-1)).mean().clamp_min(1e-12)
    return float((a - b).abs().max() / spread)


def share_of_matched_pairs(scores: Tensor) -> float | None:
    """Compute how often two queries prefer their own classes to each other's.

    For every two classes i and j of an episode, s[i, i] + s[j, j] is compared with s[i, j] + s[j, i]. A class that random
    weights favour for every query, and a query with high scores for every class, cancel.

    Args:
        scores: `[E, N, N]`, higher is better; query i of an episode is of class i.

    Returns:
        The share of pairs in which the queries prefer their own classes, 0.5 by chance; None if no pair differs.
    """
    N = scores.shape[-1]
    i, j = torch.triu_indices(N, N, 1)
    gain = scores[:, i, i] + scores[:, j, j] - scores[:, i, j] - scores[:, j, i]
    if float(gain.abs().max()) <= 1e-9 * float(scores.abs().max().clamp_min(1e-12)):
        return None
    return float((gain > 0).double().mean())


def with_noise(module: M, generator: torch.Generator) -> M:
    """Move the trained parameters of a module away from their initial values, so that those that start at zero take part."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return module


def smooth_videos(count: int, frames: int, crop: int, generator: torch.Generator) -> Tensor:
    """Draw random videos, uint8 `[count, frames, 3, crop, crop]`: smooth colour patterns that change over time."""
    coarse = torch.rand(count * frames, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(crop, crop), mode="bilinear")
    return (255 * smooth).to(torch.uint8).unflatten(0, (count, frames))


def shuffled(frames: int) -> Tensor:
    """An order of at least two frames in which every frame moves and, where there are four or more, neighbours separate."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(frames, generator=generator)
        follows = (order[1:] == order[:-1] + 1).any() and frames > 3
        if not (order == torch.arange(frames)).any() and not follows:
            return order


def parameters_without_gradient(named: dict[str, Any]) -> list[str]:
    """Names of the parameters that a backward pass did not reach, sorted."""
    return sorted(name for name, parameter in named.items() if parameter.grad is None or not parameter.grad.any())
