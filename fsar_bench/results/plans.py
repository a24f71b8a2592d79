"""Plans of results: the episodes that a result names are those of its plan, checked before anything is unpacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fsar_bench.errors import ResultError
from fsar_bench.plan import EpisodePlan, PlanSizes, digest_of_names, plan_sizes
from fsar_bench.results.record import Result
from fsar_bench.results.store import Stored


def require_plan(stored: Stored) -> None:
    """Check that the plan of a result is there.

    Raises:
        ResultError: it is not.
    """
    if not stored.plan_file.is_file():
        raise ResultError(
            f"The episode plan {stored.plan_file} of {stored.folder} is missing. Copy plans/ along with results/, or run the "
            "cell again with overwrite=true."
        )


def check_claims(result: Result, plan_file: Path) -> None:
    """Check that a plan has the sizes that a record claims, before it or any predictions are unpacked.

    Raises:
        ResultError: the plan is missing or damaged, or has others.
    """
    p, data, sizes = result.protocol, result.data, plan_sizes(plan_file)
    recorded = sizes.recorded  # clips that only the counts of a published list know have none
    is_recorded = recorded is None if data.recordings is None else recorded is not None and recorded <= data.clips
    if not is_recorded or sizes != PlanSizes(p.episodes, p.way, p.shot, p.query, recorded):
        raise _other_plan(plan_file, result.folder)


def _other_plan(plan_file: Path, folder: Path) -> ResultError:
    return ResultError(f"{plan_file} is not the plan that {folder} names. Copy the right one there.")


def checked_plan(stored: Stored, load: Callable[[Path], EpisodePlan] = EpisodePlan.load) -> EpisodePlan:
    """The episodes of a result as they were on its machine.

    Args:
        stored: the result.
        load: reads a plan.

    Raises:
        ResultError: the plan is missing, damaged, or not the one that the result names.
    """
    require_plan(stored)
    check_claims(stored.result, stored.plan_file)
    plan = load(stored.plan_file)
    p, episodes, data = stored.result.protocol, stored.result.episodes, stored.result.data
    expected = {
        "list": data.list_hash,
        "way": p.way,
        "shot": p.shot,
        "query": p.query,
        "episodes": p.episodes,
        "seed": p.seed,
        "purpose": p.split,
    }
    fits = (
        (plan.digest, plan.realised) == (episodes.plan, episodes.realised)
        and plan.recordings_digest == data.recordings
        and plan.query.shape == (p.episodes, p.way, p.query)
        and plan.support.shape == (p.episodes, p.way, p.shot)
        and plan.classes.max() < data.classes
        and max(plan.query.max(), plan.support.max()) < data.clips
        and all(plan.header.get(key) == value for key, value in expected.items())
    )
    if not fits:
        raise _other_plan(stored.plan_file, stored.folder)
    if len(plan.names) != data.classes or digest_of_names(plan.names) != data.class_names:
        raise ResultError(
            f"{stored.plan_file} names other classes than those of {stored.folder}. Copy the right one there."
        )
    return plan
