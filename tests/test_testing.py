"""The tester of methods is tested: for each property a method that breaks it on purpose, and one that breaks none."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.method import FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.testing import MethodTester


class Good(FewShotMethod):
    """Cosine to the mean shot through one trained layer."""

    role_free = True
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=False)

    def __init__(self, backbone):
        super().__init__(backbone)
        self.layer = nn.Linear(backbone.embedding_width, backbone.embedding_width)

    def encode(self, features, class_text):
        return VideoFeatures(video=F.normalize(self.layer(features.frames.mean(1)), dim=-1))

    def score(self, support, query, class_text):
        return Scores(query.video @ support.video.mean(2).transpose(1, 2))


class WrongShape(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total[..., :-1])


class NotFinite(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total / 0)


class AllEqual(Good):
    def score(self, support, query, class_text):
        return Scores(0 * super().score(support, query, class_text).total)


class Noisy(Good):
    def score(self, support, query, class_text):
        return Scores(F.dropout(super().score(support, query, class_text).total))


class FavoursTheFirstLabel(Good):
    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores(total + torch.arange(total.shape[-1]) * 1e-3)


class LastShotOnly(Good):
    def score(self, support, query, class_text):
        return Scores(query.video @ support.video[:, :, -1].transpose(1, 2))


class SumsShots(Good):
    def score(self, support, query, class_text):
        return Scores(query.video @ support.video.sum(2).transpose(1, 2))


class SaysItSumsShots(Good):
    shots_average = False


class LooksAtOtherQueries(Good):
    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores(total - total.mean(1, keepdim=True))


class SaysItIsTransductive(Good):
    traits = Traits(uses_class_names=False, trainable=True, transductive=True, order_sensitive=False)


class IgnoresSupports(Good):
    def score(self, support, query, class_text):
        return Scores(query.video[..., :1] + 0 * super().score(support, query, class_text).total)


class LooksAtOtherEpisodes(Good):
    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores(total - total.mean(0, keepdim=True))


class LooksAtOtherVideos(Good):
    def encode(self, features, class_text):
        video = super().encode(features, class_text).video
        return VideoFeatures(video=video - 0.5 * video.mean(0))


class HasARole(Good):
    def encode(self, features, class_text):
        video = super().encode(features, class_text).video
        return VideoFeatures(video=video if class_text is None else 2 * video)


class FirstFrameOnly(Good):
    def encode(self, features, class_text):
        return super().encode(VideoFeatures(frames=features.frames[:, :1]), class_text)


class SaysItSeesOrder(Good):
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)


class ReadsNames(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total + query.video @ class_text.transpose(1, 2))


class SaysItReadsNames(Good):
    traits = Traits(uses_class_names=True, trainable=True, transductive=False, order_sensitive=False)


class HasAnIdleParameter(Good):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.idle = nn.Parameter(torch.zeros(3))


class HasAParameterWithoutEffect(HasAnIdleParameter):
    def loss(self, episodes):
        return {"loss": super().loss(episodes)["loss"] + 0 * self.idle.sum()}


class MovesBuffersOfTheBackbone(Good):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.backbone.register_buffer("statistic", torch.zeros(()))

    def loss(self, episodes):
        self.backbone.statistic += 1
        return super().loss(episodes)


class ReportsMoreThanLosses(Good):
    def loss(self, episodes):
        return {**super().loss(episodes), "accuracy": torch.rand(())}


class ScoresInSinglePrecision(Good):
    def score(self, support, query, class_text):
        return Scores(query.video.float() @ support.video.mean(2).transpose(1, 2).float())


class SaysItIsTrainingFree(Good):
    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=False)


class LossIsNotANumber(Good):
    def loss(self, episodes):
        return {"loss": super().loss(episodes)["loss"] * float("nan")}


class TrainsWhatIsFrozen(Good):
    def loss(self, episodes):
        with torch.no_grad():
            next(self.backbone.parameters()).add_(1e-3)
        return super().loss(episodes)


class LearnsNothing(Good):
    def loss(self, episodes):
        loss = super().loss(episodes)["loss"]
        return {"loss": loss.detach() + 0 * loss}


class CancelsDigits(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total + 1e8 - 1e8)


BROKEN = {
    "scores have the shape and are finite": [WrongShape, NotFinite, AllEqual],
    "evaluation is deterministic": [Noisy],
    "permuting the labels permutes the scores": [FavoursTheFirstLabel],
    "order of shots changes nothing": [LastShotOnly],
    "duplicated shots": [SumsShots, SaysItSumsShots],
    "queries are independent unless declared transductive": [LooksAtOtherQueries, SaysItIsTransductive],
    "supports matter": [IgnoresSupports],
    "batches of episodes change nothing": [LooksAtOtherEpisodes],
    "videos encoded one by one score the same": [LooksAtOtherVideos],
    "role free if declared": [HasARole],
    "order of frames matters as declared": [FirstFrameOnly, SaysItSeesOrder],
    "class names are used as declared": [ReadsNames, SaysItReadsNames],
    "gradients reach what is trained and nothing else": [
        HasAnIdleParameter, HasAParameterWithoutEffect, MovesBuffersOfTheBackbone, SaysItIsTrainingFree,
        LossIsNotANumber, TrainsWhatIsFrozen,
    ],
    "loss falls when trained on one episode": [LearnsNothing],
    "predictions survive float32": [CancelsDigits],
}  # fmt: skip


@cache
def outcomes(kind: type) -> dict[str, str]:
    def build():
        torch.manual_seed(0)
        return kind(CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32))

    return {o.name: o.state for o in MethodTester(build, frames=4, crop=32, text_width=24).run()}


@pytest.mark.parametrize("kind", [Good, ReportsMoreThanLosses, ScoresInSinglePrecision])
def test_a_sound_method_passes_everything(kind):
    states = outcomes(kind)
    assert set(BROKEN) | {"cpu and cuda agree"} == set(states)
    assert "broken" not in states.values()
    assert [name for name, state in states.items() if state == "skipped"] in ([], ["cpu and cuda agree"])


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in BROKEN.items() for k in kinds])
def test_each_property_catches_what_breaks_it(name, kind):
    assert outcomes(kind)[name] == "broken"


def test_a_tester_of_ones_own_adds_properties():
    class Stricter(MethodTester):
        def test_it_is_called_good(self):
            assert type(self.build()).__name__ == "Good"

    kit = Stricter(lambda: Good(CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)),
                   frames=4, crop=32, text_width=24)  # fmt: skip
    names = [outcome.name for outcome in kit.run()]
    assert names[-1] == "it is called good"
    assert len(names) == 17


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_property_catches_what_breaks_it():
    class OtherOnCuda(Good):
        def score(self, support, query, class_text):
            total = super().score(support, query, class_text).total
            return Scores(total * (1.01 if total.is_cuda else 1.0))

    assert outcomes(OtherOnCuda)["cpu and cuda agree"] == "broken"
