"""`fsar-bench convert`: an official checkpoint to one of ours, for `checkpoint=`."""

from __future__ import annotations

import shlex

from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError
from fsar_bench.io import user_path


def convert_command(method: str, checkpoint: str, pairs: list[str]) -> int:
    """Convert, and print the command that evaluates the result; returns the exit code."""
    outs = [pair.removeprefix("out=") for pair in pairs if pair.startswith("out=")]
    source = user_path(checkpoint)
    out = user_path(outs[0] if outs else source.with_suffix(".safetensors").name)
    others = [pair for pair in pairs if not pair.startswith("out=")]
    cells = resolve([f"methods={method}", "controls=false", *others]).cells
    if len(cells) != 1:
        raise ConfigError(f"A conversion is of one cell; these settings give {len(cells)}.")

    from fsar_bench.engine.convert import convert

    converted = convert(cells[0], source, out)
    print(f"{out} ({converted.tensors} tensors read, SHA-256 {converted.sha[:12]}…)")
    print(shlex.join(["fsar-bench", "run", f"methods={method}", f"checkpoint={out}", *others]))
    return 0
