"""`fsar-bench convert`: an official checkpoint to one of ours, for `checkpoint=`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError, WeightsError


def convert_command(method: str, checkpoint: str, pairs: list[str]) -> int:
    """Convert, check the shapes against the method on the backbone asked for, and write safetensors; returns the exit code."""
    import torch

    from fsar_bench.engine.checkpoint import load_trainable, save_best
    from fsar_bench.engine.run import build_method

    outs = [pair.removeprefix("out=") for pair in pairs if pair.startswith("out=")]
    source = Path(checkpoint).expanduser()
    out = Path(outs[0] if outs else source.with_suffix(".safetensors").name)
    others = [pair for pair in pairs if not pair.startswith("out=")]
    cells = resolve([f"methods={method}", "controls=false", *others]).cells
    if len(cells) != 1:
        raise ConfigError(f"A conversion is of one cell; these settings give {len(cells)}.")
    if not source.is_file():
        raise ConfigError(f"The checkpoint {source} does not exist (looked for {source.resolve()}).")
    if out.exists():
        raise ConfigError(f"{out} exists. Name another file with out=, or delete it.")
    cell = cells[0]
    cell["backbone"] = {**cell["backbone"], "pretrained": None}  # the checkpoint holds the image tower
    built = build_method(cell, for_training=True)
    try:
        file = torch.load(source, map_location="cpu", weights_only=True)
        state = file.get("model_state", file)
        state = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise WeightsError(
            f"The checkpoint {source} is damaged or not one of tensors and plain values ({reason})."
        ) from error
    load_trainable(built, type(built).from_official(state), source)
    save_best(out, built)
    sha = hashlib.sha256(out.read_bytes()).hexdigest()
    print(f"{out} ({len(state)} tensors read, SHA-256 {sha[:12]}…)")
    print(f"fsar-bench run methods={method} checkpoint={out} {' '.join(others)}".rstrip())
    return 0
