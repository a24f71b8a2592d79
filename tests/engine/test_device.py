"""The device of a run: what is computed there repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsar_bench.engine.device import choose_device


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_do_not_change_the_order_of_a_sum(two_threads):
    """The gradient of gathered rows, as TRX and STRM gather frames, beside NumPy's additions one after the other."""
    choose_device("cpu")
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 4, (200_000,), generator=random)
    weights = torch.randn(200_000, 8, generator=random)
    frames = torch.zeros(4, 8, requires_grad=True)
    expected = np.zeros((4, 8), np.float32)
    np.add.at(expected, rows.numpy(), weights.numpy())
    for _ in range(5):
        (gradient,) = torch.autograd.grad((frames[rows] * weights).sum(), frames)
        np.testing.assert_array_equal(gradient.numpy(), expected)
