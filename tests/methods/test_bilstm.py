"""BiLSTM pooling: its parameters, its pooling by hand, and its direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.bilstm import BiLSTM


def make(width: int = 16) -> BiLSTM:
    torch.manual_seed(0)
    return BiLSTM(GivenFeatures(width)).double().eval()


def test_parameters_at_width_512():
    with torch.device("meta"):
        method = BiLSTM(GivenFeatures(512))
    assert sum(p.numel() for p in method.lstm.parameters()) == 1_576_960
    assert method.parameter_counts() == {"trainable": 1_576_961, "total": 1_576_961}  # and the scale


@torch.no_grad()
def test_video_is_the_mean_of_states_of_both_directions():
    method, frames = make(), torch.randn(1, 5, 16).double()
    cells = []
    for suffix, sequence in (("", frames[0]), ("_reverse", frames[0].flip(0))):
        cell = torch.nn.LSTMCell(16, 8).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(method.lstm, f"{name}_l0{suffix}"))
        state, states = None, []
        for frame in sequence:
            state = cell(frame[None], state)
            states.append(state[0][0])
        cells.append(torch.stack(states).mean(0))
    expected = F.normalize(torch.cat(cells), dim=0)
    assert torch.allclose(method.encode(VideoFeatures(frames=frames), None).video[0], expected)


@torch.no_grad()
def test_scores_are_scaled_cosines_to_the_mean_shot():
    torch.manual_seed(1)
    support, query = torch.randn(4, 3, 5, 16).double(), torch.randn(6, 5, 16).double()
    method = make()
    total = score_features(method, support, query).total[0]
    video = method.encode(VideoFeatures(frames=query), None).video
    shots = method.encode(VideoFeatures(frames=support.flatten(0, 1)), None).video.unflatten(0, (4, 3))
    assert torch.allclose(total, 10 * F.cosine_similarity(video[:, None], shots.mean(1)[None], dim=-1))
    assert not torch.allclose(total, score_features(method, support, query.flip(1)).total[0], atol=1e-6)


def test_odd_width_is_refused():
    with pytest.raises(ConfigError, match="embedding width 15"):
        make(15)
