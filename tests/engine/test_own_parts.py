"""A matcher, a reader and a hook of one's own, named by `imports=` alone; and their code as part of the identity."""

from __future__ import annotations

PARTS = """
import numpy as np
from pathlib import Path
from mmengine.hooks import Hook

from fsar_bench.matching.bi_mhm import BiMHM
from fsar_bench.registry import HOOKS, MATCHERS, READERS


@MATCHERS.register_module(force=True)
class OwnMatcher(BiMHM):
    pass


@READERS.register_module(name="own_reader", force=True)
class OwnReader:
    version = "own 1"

    def open(self, path):
        return {"total_frames": 20, "path": path}

    def read(self, clip, indices, *, resize, crop):
        side = crop or resize
        seed = sum(clip["path"].encode())
        frames = np.random.default_rng(seed).integers(0, 255, (20, side, side, 3)).astype(np.uint8)
        return frames[indices]


@HOOKS.register_module(force=True)
class OwnHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (Path(runner.work_dir) / "own_hook.txt").write_text(str(batch_idx + 1))
"""


def test_parts_that_imports_names_are_used_in_every_process(run_tiny, tmp_path):
    (tmp_path / "own_parts.py").write_text(PARTS)
    (stored,) = run_tiny(
        "otam", controls=False, imports=tmp_path / "own_parts.py", matcher="OwnMatcher", reader="own_reader",
        **{"train.hooks": [{"type": "OwnHook"}]},
    )  # fmt: skip
    result = stored.result
    assert result.frames.reader == "own 1"
    assert result.cell.identity.method["matcher"]["type"] == "OwnMatcher"
    assert result.cell.identity.custom_imports == ["own_parts"]
    assert [name for name in result.cell.identity.inputs if name.startswith("module")] == [
        "module own_parts own_parts.py"
    ]
    (note,) = (tmp_path / "work_dirs").rglob("own_hook.txt")
    assert note.read_text() == "8"
