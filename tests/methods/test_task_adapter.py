"""Task-Adapter: golden tower of the official code, sets and groups, parameter counts, an evaluation end to end."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden, share_of, under
from helpers import clip_tower, vit_b_16_on_meta

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.backbones.adapters import SpaceTimeBlock
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods import task_adapter
from fsar_bench.methods.task_adapter import TaskAdapter

T, CROP, D, C = 4, 32, 32, 24
N, K, Q = 3, 2, 4
NAMES = {"t_adapter": "time", "task_adapter": "across", "s_adapter": "space", "MLP_adapter": "joint"}


def ours(state: dict, layers: int) -> dict:
    """The trained state, from official names; the official code has unused adapters in the first blocks too."""
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer."))
    trained = {"temporal_embedding": state["temporal_embedding"][0][:, None]}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "transformer" and parts[3] in NAMES and (place := int(parts[2]) - depth + layers) >= 0:
            layer = {"D_fc1": "down", "D_fc2": "up"}[parts[4]]
            trained[f"adapted.{place}.{NAMES[parts[3]]}.{layer}.{parts[5]}"] = value
    return trained


def encode(method: TaskAdapter, frames, *, role: str = "query"):
    """Frame features `[V, T, C]` of videos that are one set."""
    embedded = method.embed(frames, None)
    text = torch.zeros(1, 1, 1) if role == "support" else None
    return method.encode_set(VideoFeatures(tokens=embedded.tokens[None]), text).frames[0]


@golden("task_adapter")
@torch.no_grad()
def test_golden_tower(arrays):
    state, layers = under(arrays, "w."), int(arrays["layers_adapted"])
    frames = arrays["frames"].transpose(1, 2)
    hidden, D = state["transformer.resblocks.0.s_adapter.D_fc1.weight"].shape
    settings = {"layers": layers, "frames": frames.shape[1], "adapter_ratio": share_of(hidden, D)}
    towers = {
        group: TaskAdapter(clip_tower(state, int(arrays["heads"])), query_group=group, **settings).eval()
        for group in (None, 1)
    }
    for method in towers.values():
        left_out = method.load_state_dict(ours(state, layers), strict=False)
        assert not left_out.unexpected_keys
        assert all(name.startswith("backbone.") for name in left_out.missing_keys)
    assert_close(encode(towers[None], frames), arrays["features"], relative=1e-5)
    assert_close(encode(towers[1], frames), arrays["features_each_alone"], relative=1e-5)
    assert_close(encode(towers[1], frames, role="support"), arrays["features"], relative=1e-5)


@pytest.mark.parametrize(("layers", "trainable"), [(None, 7_107_072), (6, 7_107_072), (2, 2_373_120)])
def test_parameter_counts_on_b_16(layers, trainable):
    with torch.device("meta"):
        assert TaskAdapter(vit_b_16_on_meta(), layers=layers).parameter_counts()["trainable"] == trainable


@pytest.fixture(scope="module")
def backbone() -> CLIPBackbone:
    """A tiny CLIP of random weights, not to be changed by tests."""
    torch.manual_seed(0)
    return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=CROP, crop=CROP).eval()


def make(backbone, *, stirred: bool = True, **changes) -> TaskAdapter:
    torch.manual_seed(1)
    method = TaskAdapter(backbone, **{"frames": T, **changes}).eval()
    if stirred:
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return method


def videos(count: int, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, T, 3, CROP, CROP), dtype=torch.uint8, generator=g)


def batch(E: int = 1) -> EpisodeBatch:
    pixels = videos(E * (N * K + Q), seed=4)
    return EpisodeBatch(
        support=pixels[: E * N * K].unflatten(0, (E, N, K)),
        query=pixels[E * N * K :].unflatten(0, (E, Q)),
        labels=torch.tensor([[0, 1, 2, 0]] * E),
        classes=torch.arange(N)[None].expand(E, -1),
        class_text=torch.randn(E, N, C, generator=torch.Generator().manual_seed(5)),
    )


@torch.no_grad()
def total(method, episodes: EpisodeBatch):
    support, query = method.episode_features(episodes)
    return method.score_episodes(support, query, episodes.class_text).total


def test_only_the_adapter_across_videos_is_not_zero_at_the_start(backbone):
    for name, parameter in make(backbone, stirred=False).named_parameters():
        if parameter.requires_grad and ".up." in name:
            assert bool(parameter.any()) == ("across" in name), name


@torch.no_grad()
def test_without_the_adapter_across_videos_it_starts_as_the_frozen_tower(backbone):
    method = make(backbone, stirred=False)
    frames = videos(3)
    assert not torch.allclose(encode(method, frames), backbone.encode_frames(frames), atol=1e-3)
    for block in method.adapted:
        torch.nn.init.zeros_(block.across.up.weight)
        torch.nn.init.zeros_(block.across.up.bias)
    assert torch.allclose(encode(method, frames), backbone.encode_frames(frames), atol=1e-6)


@torch.no_grad()
def test_without_the_adapter_across_videos_it_is_space_time_adaptation_of_the_last_layers(backbone):
    method, frames = make(backbone, layers=1), videos(3)
    for block in method.adapted:
        for parameter in block.across.up.parameters():
            parameter.zero_()
    plain = SpaceTimeBlock(D, ratio=0.25, joint_scale=1.0)
    assert plain.load_state_dict(method.adapted[0].state_dict(), strict=False).missing_keys == []
    x = backbone.blocks()[0](backbone.embed_tokens(frames, method.temporal_embedding))
    x = plain(x.unflatten(0, (3, 1, T)), backbone.blocks()[1])
    expected = backbone.read_tokens(x.flatten(0, 2)).unflatten(0, (3, T))
    assert torch.allclose(encode(method, frames), expected, atol=1e-6)


@torch.no_grad()
def test_permuting_a_set_permutes_its_features(backbone):
    method, frames, order = make(backbone), videos(4), [2, 0, 3, 1]
    together = encode(method, frames)
    assert torch.allclose(encode(method, frames[order]), together[order], atol=1e-5)
    other = frames.clone()
    other[0] = 255 - other[0]
    assert not torch.allclose(encode(method, other)[1:], together[1:], atol=1e-3)


@torch.no_grad()
def test_a_video_alone_attends_to_itself(backbone):
    """One token in the sequence: the adapter still acts, on the value of the token itself."""
    method, frames = make(backbone, layers=1), videos(1)
    block, adapted = backbone.blocks()[-1], method.adapted[0]
    x = method.embed(frames, None).tokens[None]
    alone = adapted(x, block)
    x = x + adapted.time(block.attend(block.norm1(x)[0, 0].transpose(0, 1), T).transpose(0, 1)[None, None])
    x = x + adapted.space(block.attend(block.norm1(x)[0, 0], x.shape[3])[None, None])
    value = block.attend(block.norm1(x).reshape(-1, 1, D), 1).view(x.shape)
    x = x + adapted.across(value)
    z = block.norm2(x)
    assert torch.allclose(alone, x + block.mlp(z) + adapted.joint(z), atol=1e-5)
    assert adapted.across(value).abs().max() > 1e-3


@torch.no_grad()
def test_supports_do_not_see_queries_and_queries_see_each_other_unless_alone(backbone):
    episodes = batch()
    other = videos(Q, seed=7)[None]
    other[:, 0] = episodes.query[:, 0]
    changed = EpisodeBatch(**{**vars(episodes), "query": other})
    for group, is_inductive in ((None, False), (1, True)):
        method = make(backbone, query_group=group)
        assert method.traits.transductive is not is_inductive
        same = torch.allclose(total(method, episodes)[:, 0], total(method, changed)[:, 0], rtol=1e-4, atol=1e-5)
        assert same is is_inductive
        supports, text = method.episode_features(episodes)[0].tokens.flatten(1, 2), episodes.class_text
        together = method.encode_set(VideoFeatures(tokens=supports), text).frames
        alone = torch.cat([encode(method, v[None], role="support") for v in episodes.support[0].flatten(0, 1)])
        assert not torch.allclose(together[0], alone, atol=1e-3)  # supports are one set in either form


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 5, 8, 1000])
@pytest.mark.parametrize("group", [None, 1])
def test_chunks_and_batches_change_nothing(backbone, monkeypatch, chunk, group):
    method, episodes = make(backbone, query_group=group), batch(E=3)
    monkeypatch.setattr(task_adapter, "CHUNK", chunk)
    alone = [
        total(method, EpisodeBatch(**{name: value[i : i + 1] for name, value in vars(episodes).items()}))
        for i in range(3)
    ]
    assert torch.allclose(total(method, episodes), torch.cat(alone), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_score_is_the_product_of_two_cosines(backbone):
    method, g = make(backbone), torch.Generator().manual_seed(3)
    support, query = torch.randn(1, N, K, T, C, generator=g), torch.randn(1, Q, T, C, generator=g)
    text = torch.randn(1, N, C, generator=g)
    scores = method.score(VideoFeatures(frames=support), VideoFeatures(frames=query), text)
    for q in range(Q):
        for n in range(N):
            video, prototype = query[0, q].mean(0), support[0, n].mean(0).mean(0)
            cosines = [torch.cosine_similarity(video, other, 0) for other in (prototype, text[0, n])]
            assert torch.allclose(scores.total[0, q, n], 64 * cosines[0] * cosines[1], atol=1e-4)


def test_only_adapters_and_temporal_embedding_are_trained_and_reached(backbone):
    method = make(backbone)
    method.loss(batch())["loss"].backward()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert all(name.startswith(("adapted.", "temporal_embedding")) for name in trained)
    assert all(p.grad is not None and p.grad.any() for p in trained.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "layers=3 must be from 1 to 2"),
        ({"layers": 0}, "layers=0 must be from 1 to 2"),
        ({"query_group": 2}, "query_group=2 must be none .* or 1"),
    ],
)
def test_impossible_settings_are_refused(backbone, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(backbone, **changes)
