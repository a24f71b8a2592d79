"""Start-up: the verbs that must be quick beside importing torch, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = {
    "python alone": "pass",
    "--help": "import sys; sys.argv=['fsar-bench','--help']; from fsar_bench.cli.main import main; main()",
    "list": "import sys; sys.argv=['fsar-bench','list']; from fsar_bench.cli.main import main; main()",
    "import torch": "import torch",
}


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark, name):
    command = [sys.executable, "-c", COMMANDS[name]]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, check=True), rounds=3, warmup_rounds=1
    )
    assert done.returncode == 0
