"""What a method builds for its training classes is where the method is."""

from __future__ import annotations

import pytest
import torch

from fsar_bench.config.files import names
from fsar_bench.engine import episodes
from fsar_bench.engine.contract import cells_to_check, make_tester


class AnyDataset:
    """Its training classes are known by their texts alone, which another function encodes."""

    def split(self, name: str) -> None:
        """None is read."""


@pytest.mark.parametrize("name", names("methods"))
def test_what_prepare_builds_is_on_the_device_of_the_texts(name, monkeypatch):
    """The device of tensors without data stands for a GPU."""
    (cell,) = cells_to_check(name, [])
    kit = make_tester(cell)
    method = kit.fresh().to("meta")
    monkeypatch.setattr(episodes, "encode_class_text", lambda *_: torch.zeros(7, kit.text_width, device="meta"))
    episodes.prepare_method(method, AnyDataset(), "{}")
    elsewhere = [key for key, tensor in method.named_parameters() if tensor.device.type != "meta"]
    assert not elsewhere
