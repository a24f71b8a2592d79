"""Which values are tried next.

The first trial has the untuned settings. The next ones fill the space evenly: a Halton sequence, shifted at random by the
seed. The later ones are proposed by Optuna's TPE sampler, `ROUND` at a time. A larger budget begins with the trials of a
smaller one.

Proposals are deterministic: a round is a function of the space, the seed, the number of the round, and the values and
accuracies of the trials before it, in their order. Each round makes a new study and a new sampler, seeded by the number of the
round, tells it these trials one after the other, and then asks for all trials of the round at once. Nothing depends on which
trial of a round ends first, how many run at a time, or how often the program was started: no state is kept between rounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fsar_bench.config.search import Choice, Range, Scalar, Space, Values
from fsar_bench.config.tuned import Trial
from fsar_bench.errors import ConfigError
from fsar_bench.randomness import generator, integer_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EVEN = 8  # trials that do not depend on others, the untuned settings among them
ROUND = 4  # trials that are proposed at once
DIVERGED = 0.0  # accuracy that the sampler is told of a training that diverged: it looks elsewhere
VERSION = 1  # raised when other values are proposed


def require_optuna() -> None:
    """Raise `ConfigError` unless Optuna is installed."""
    if find_spec("optuna") is None:
        raise ConfigError("fsar-bench tune needs the package optuna: pip install 'fsar-bench[tune]'")


def rounds(trials: int) -> list[range]:
    """Numbers of the trials that are proposed together."""
    later = [range(first, min(first + ROUND, trials)) for first in range(EVEN, trials, ROUND)]
    return [range(min(EVEN, trials)), *later]


def propose(
    space: Space, untuned: Values, before: Sequence[Trial], wanted: range, seed: int, purpose: str
) -> list[Values]:
    """The values of a round.

    Args:
        space: what can be tried.
        untuned: values of the first trial.
        before: all earlier trials, in their order.
        wanted: numbers of the trials of the round.
        seed: of the tuning.
        purpose: tells this tuning from others of the same seed.
    """
    if wanted.start == 0:
        return [untuned, *_even(space, len(wanted) - 1, seed, purpose)]
    return _by_tpe(space, before, len(wanted), integer_seed(seed, purpose, wanted.start) % 2**32)


def _even(space: Space, count: int, seed: int, purpose: str) -> Iterator[Values]:
    from scipy.stats.qmc import Halton

    shifts = generator(seed, purpose).random(len(space))
    sequence = Halton(len(space), scramble=False).random(count + 1)[1:]  # its first point is the corner of all zeros
    for places in (sequence + shifts) % 1.0:
        yield {key: values.at(place) for (key, values), place in zip(space.items(), places.tolist(), strict=True)}


def _by_tpe(space: Space, before: Sequence[Trial], count: int, seed: int) -> list[Values]:
    import optuna

    distributions = {key: _distribution(values) for key, values in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in before:
            if all(space[key].holds(value) for key, value in trial.values.items()):  # the untuned ones may be outside
                told = {key: _told(space[key], value) for key, value in trial.values.items()}
                accuracy = DIVERGED if trial.accuracy is None else trial.accuracy
                study.add_trial(optuna.trial.create_trial(params=told, distributions=distributions, value=accuracy))
        asked = [study.ask(distributions).params for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [{key: _tried(space[key], values[key]) for key in space} for values in asked]


def _distribution(values: Range | Choice) -> BaseDistribution:
    import optuna

    if isinstance(values, Choice):  # by number: values of any kind
        return optuna.distributions.CategoricalDistribution(range(len(values.choices)))
    if values.is_whole:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _told(values: Range | Choice, value: Scalar) -> Scalar:
    """A value as the sampler knows it."""
    if isinstance(values, Range):
        return value
    return next(n for n, choice in enumerate(values.choices) if type(choice) is type(value) and choice == value)


def _tried(values: Range | Choice, asked: int | float) -> Scalar:
    """A value that the sampler asks for as it is tried."""
    return values.rounded(asked) if isinstance(values, Range) else values.choices[int(asked)]
