"""Which launcher a run has, and whether it can be used here: told before the first cell starts. Imports no cluster's package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.launchers.drive import Drive
from fsar_bench.engine.sweep import ListenerOf
from fsar_bench.errors import ConfigError

PACKAGES = {"ray": "ray", "slurm": "submitit"}  # what each launcher needs: the extra `cluster`


def driver(options: RunOptions, listener_of: ListenerOf, tell_slots: Callable[[int], None]) -> Drive:
    """What runs cells on the cluster of a run; arguments as for `Drive`."""
    if options.launcher == "ray":
        from fsar_bench.engine.launchers.ray import opened

        return Drive(options, opened, listener_of, tell_slots)
    from fsar_bench.engine.launchers import slurm

    return Drive(options, slurm.opened, listener_of, tell_slots, slurm.claimed(options))


def check_launcher(options: RunOptions) -> None:
    """Check that a launcher can be used on this machine; nothing is connected to.

    Raises:
        ConfigError: its package is not installed, or one of its options does not exist.
    """
    if options.launcher == "local":
        return
    package = PACKAGES[options.launcher]
    if find_spec(package) is None:
        raise ConfigError(f"launcher={options.launcher} needs the package {package}: pip install 'fsar-bench[cluster]'")
    if options.launcher == "ray":
        from fsar_bench.engine.launchers.ray import check
    else:
        from fsar_bench.engine.launchers.slurm import check
    check(options)
