"""MethodTester: for each property a method that breaks it on purpose, and methods that break none."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.errors import ConfigError
from fsar_bench.method import FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.testing import BrokenError, MethodTester, Outcome


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


class LooksAtOtherVideosInTraining(Good):
    def embed(self, frames, class_text):
        features = super().embed(frames, class_text).frames
        return VideoFeatures(frames=features - features.mean(0) if self.training else features)


class WrongShape(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total[..., :-1])


class BareTensor(Good):
    def score(self, support, query, class_text):
        return super().score(support, query, class_text).total


class ReturnsNothing(Good):
    def score(self, support, query, class_text):
        super().score(support, query, class_text)


class EncodesToADictionary(Good):
    def encode(self, features, class_text):
        return dict(super().encode(features, class_text).items())


class MergesVideos(Good):
    def encode(self, features, class_text):
        return super().encode(features, class_text)[:1]


class ScoreFails(Good):
    def score(self, support, query, class_text):
        raise RuntimeError("sizes do not match")


class ScoresWholeNumbers(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total.argsort(-1))


class NotFinite(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total / 0)


class AllEqual(Good):
    def score(self, support, query, class_text):
        return Scores(0 * super().score(support, query, class_text).total)


class LowerIsBetter(Good):
    def score(self, support, query, class_text):
        return Scores(-super().score(support, query, class_text).total)


class BlindToCopies(Good):
    """Compares what a video has in one half of its features with what the support has in the other half: not trained."""

    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=False)

    def __init__(self, backbone):
        super().__init__(backbone)
        self.layer.requires_grad_(False)

    def score(self, support, query, class_text):
        half = query.video.shape[-1] // 2
        return Scores(query.video[..., :half] @ support.video[..., half:].mean(2).transpose(1, 2))


class BlindUntilTrained(BlindToCopies):
    """The same of a learned layer: legitimate, and not judged."""

    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=False)

    def __init__(self, backbone):
        super().__init__(backbone)
        self.layer.requires_grad_(True)


class NamesAlone(Good):
    """Zero-shot: the text alone decides."""

    traits = Traits(
        uses_class_names=True, trainable=False, transductive=False, order_sensitive=False, ignores_supports=True
    )

    def __init__(self, backbone):
        super().__init__(backbone)
        self.layer.requires_grad_(False)

    def encode(self, features, class_text):
        return VideoFeatures(video=features.frames.mean(1))

    def score(self, support, query, class_text):
        return Scores(F.normalize(query.video, dim=-1) @ F.normalize(class_text, dim=-1).transpose(1, 2))


class NamesAloneInverted(NamesAlone):
    def score(self, support, query, class_text):
        return Scores(-super().score(support, query, class_text).total)


class IgnoresSupportsByNames(NamesAlone):
    traits = NamesAlone.traits.model_copy(update={"ignores_supports": False})


class DeclaresToIgnoreSupports(Good):
    traits = Good.traits.model_copy(update={"ignores_supports": True})


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


class DeclaresSummedShots(Good):
    shots_average = False


class LooksAtOtherQueries(Good):
    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores(total - total.mean(1, keepdim=True))


class DeclaresTransductive(Good):
    traits = Traits(uses_class_names=False, trainable=True, transductive=True, order_sensitive=False)


class EncodesSets(Good):
    def encode_set(self, features, class_text):
        return VideoFeatures(video=2 * features.video)


class DeclaresSets(Good):
    traits = Good.traits.model_copy(update={"set_wise": True})


class DeclaresWhatItDoes(EncodesSets):
    traits = DeclaresSets.traits


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


class DeclaresOrderSensitive(Good):
    traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)


class ReadsNames(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total + query.video @ class_text.transpose(1, 2))


class ReadsNamesAndDeclaresToIgnoreSupports(ReadsNames):
    traits = Traits(
        uses_class_names=True, trainable=True, transductive=False, order_sensitive=False, ignores_supports=True
    )


class DeclaresClassNames(Good):
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


class DeclaresTrainingFree(Good):
    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=False)


class LossIsNotANumber(Good):
    def loss(self, episodes):
        return {"loss": super().loss(episodes)["loss"] * float("nan")}


class TrainsWhatIsFrozen(Good):
    def loss(self, episodes):
        with torch.no_grad():
            next(self.backbone.parameters()).add_(1e-3)
        return super().loss(episodes)


class LossIsATensor(Good):
    def loss(self, episodes):
        return super().loss(episodes)["loss"]


class LossIsCalledError(Good):
    def loss(self, episodes):
        return {"error": super().loss(episodes)["loss"]}


class LearnsNothing(Good):
    def loss(self, episodes):
        loss = super().loss(episodes)["loss"]
        return {"loss": loss.detach() + 0 * loss}


class CancelsDigits(Good):
    def score(self, support, query, class_text):
        return Scores(super().score(support, query, class_text).total + 1e8 - 1e8)


# Leaks as released code has them.


def own_text(episodes):
    """Class text of each query, by its label: `[E, Q, C]`."""
    return episodes.class_text.gather(1, episodes.labels[..., None].expand(-1, -1, episodes.class_text.shape[-1]))


class AddsTheTrueTextToQueries(Good):
    def episode_features(self, episodes):
        support, query = super().episode_features(episodes)
        return support, VideoFeatures(video=query.video + 0.1 * own_text(episodes))


class AddsTheTrueTextInTraining(Good):
    """Meant for training only, as its comment says."""

    hint = 0.0

    def score(self, support, query, class_text):
        return super().score(support, VideoFeatures(video=query.video + 0.1 * self.hint), class_text)

    def loss(self, episodes):
        self.hint = own_text(episodes)
        losses = super().loss(episodes)
        self.hint = 0.0
        return losses


class KeepsTheTrueText(Good):
    """A loss leaves what it knows of the labels to the next score."""

    hint = 0.0

    def score(self, support, query, class_text):
        return super().score(support, VideoFeatures(video=query.video + 0.1 * self.hint), class_text)

    def loss(self, episodes):
        losses = super().loss(episodes)
        self.hint = own_text(episodes).mean((0, 1))
        return losses


class SeedIsTheMeanTextOfTrueClasses(Good):
    """Harmless only where every class has equally many queries."""

    def episode_features(self, episodes):
        support, query = super().episode_features(episodes)
        return support, VideoFeatures(video=query.video * (1 + own_text(episodes).mean(1, keepdim=True)))


class TransposedProduct(Good):
    """A table (class, query) times a table (query, class): no error where both counts are equal."""

    traits = Traits(uses_class_names=True, trainable=True, transductive=False, order_sensitive=False)

    def score(self, support, query, class_text):
        visual = super().score(support, query, class_text).total
        text = class_text @ query.video.transpose(1, 2)
        return Scores(visual * text if text.shape == visual.shape else visual * text.transpose(1, 2))


class WeighsQueriesByPlace(Good):
    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores(total * (1 + torch.arange(total.shape[1])[:, None]))


class AdaptsQueryByQuery(Good):
    """Transductive, as declared, but the prototypes move with every query, so the order of queries matters."""

    traits = DeclaresTransductive.traits

    def score(self, support, query, class_text):
        prototypes, rows = support.video.mean(2), []
        for video in query.video.unbind(1):
            rows.append((prototypes @ video[..., None]).squeeze(-1))
            prototypes = prototypes + 0.1 * rows[-1].softmax(-1)[..., None] * video[:, None]
        return Scores(torch.stack(rows, 1))


class AttendsAcrossTheBatch(Good):
    """Attention over what it takes for time: the videos of the call."""

    def encode(self, features, class_text):
        video = super().encode(features, class_text).video
        return VideoFeatures(video=(video @ video.T).softmax(-1) @ video)


class SpreadsPredictions(Good):
    """Looks at the other queries only where a class has most of them."""

    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        crowded = F.one_hot(total.argmax(-1), total.shape[-1]).double().mean(1, keepdim=True) > 0.5
        return Scores(total - crowded)


class NeedsCompany(Good):
    traits = DeclaresTransductive.traits

    def score(self, support, query, class_text):
        total = super().score(support, query, class_text).total
        return Scores((total - total.mean(1, keepdim=True)) / total.std(1, correction=0, keepdim=True))


class SeesTheSet(Good):
    """Sound: a set-wise encoder, transductive as it declares."""

    traits = DeclaresTransductive.traits.model_copy(update={"set_wise": True})
    seen = 0.0

    def encode_set(self, features, class_text):
        return VideoFeatures(video=features.video - 0.5 * features.video.mean(1, keepdim=True))


class SetsSeeEachOther(SeesTheSet):
    def encode_set(self, features, class_text):
        return VideoFeatures(video=features.video - 0.5 * features.video.mean((0, 1)))


class SupportsSeeEarlierQueries(SeesTheSet):
    def encode_set(self, features, class_text):
        if class_text is None:
            self.seen = features.video.mean((0, 1))
            return super().encode_set(features, class_text)
        return VideoFeatures(video=features.video - 0.1 * self.seen)


class QueriesSeeEarlierSupports(SeesTheSet):
    def encode_set(self, features, class_text):
        if class_text is not None:
            self.seen = features.video.mean((0, 1))
            return super().encode_set(features, class_text)
        return VideoFeatures(video=features.video - 0.1 * self.seen)


BROKEN = {
    "scores have the shape and are finite": [
        WrongShape, BareTensor, ReturnsNothing, EncodesToADictionary, MergesVideos, ScoreFails, ScoresWholeNumbers, NotFinite,
        AllEqual,
    ],
    "a query equal to a support scores its class highest": [LowerIsBetter, BlindToCopies, NamesAloneInverted],
    "evaluation is deterministic": [Noisy],
    "permuting the labels permutes the scores": [FavoursTheFirstLabel],
    "order of shots changes nothing": [LastShotOnly],
    "duplicated shots": [SumsShots, DeclaresSummedShots],
    "queries are independent unless declared transductive": [LooksAtOtherQueries, DeclaresTransductive],
    "set wise if declared": [EncodesSets, DeclaresSets],
    "permuting the queries permutes the scores": [TransposedProduct, WeighsQueriesByPlace, AdaptsQueryByQuery],
    "a query scores the same alone and in company": [AttendsAcrossTheBatch, LooksAtOtherQueries, NeedsCompany],
    "queries of one class change nothing unless transductive": [
        SpreadsPredictions, LooksAtOtherQueries, SeedIsTheMeanTextOfTrueClasses,
    ],
    "labels of queries never reach a score": [
        AddsTheTrueTextToQueries, AddsTheTrueTextInTraining, KeepsTheTrueText, SeedIsTheMeanTextOfTrueClasses,
    ],
    "supports matter unless declared ignored": [
        IgnoresSupports, IgnoresSupportsByNames, DeclaresToIgnoreSupports, ReadsNamesAndDeclaresToIgnoreSupports,
    ],
    "batches of episodes change nothing": [LooksAtOtherEpisodes, SetsSeeEachOther],
    "sets are encoded apart if set wise": [SetsSeeEachOther, SupportsSeeEarlierQueries, QueriesSeeEarlierSupports],
    "videos encoded one by one score the same": [LooksAtOtherVideos, AttendsAcrossTheBatch],
    "role free if declared": [HasARole],
    "order of frames matters as declared": [FirstFrameOnly, DeclaresOrderSensitive],
    "class names are used as declared": [ReadsNames, DeclaresClassNames],
    "gradients reach what is trained and nothing else": [
        HasAnIdleParameter, HasAParameterWithoutEffect, MovesBuffersOfTheBackbone, DeclaresTrainingFree,
        LossIsNotANumber, LossIsATensor, LossIsCalledError, TrainsWhatIsFrozen,
    ],
    "micro batches give the same gradients": [LooksAtOtherVideosInTraining],
    "loss falls when trained on one episode": [LearnsNothing],
    "predictions survive float32": [CancelsDigits],
}  # fmt: skip


@cache
def tiny_clip() -> CLIPBackbone:
    torch.manual_seed(0)
    return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)


def kit_of(kind: type[FewShotMethod], tester_class: type[MethodTester] = MethodTester) -> MethodTester:
    def build() -> FewShotMethod:
        torch.manual_seed(0)
        return kind(copy.deepcopy(tiny_clip()))

    return tester_class(build, frames=4, crop=32, text_width=24)


def test_a_sound_method_passes_everything():
    states = {outcome.name: outcome.state for outcome in kit_of(Good).run()}
    assert set(BROKEN) | {"cpu and cuda agree"} == set(states)
    assert "broken" not in states.values()
    skipped = {name for name, state in states.items() if state == "skipped"}
    assert skipped - {"cpu and cuda agree"} == {"sets are encoded apart if set wise"}


def test_a_sound_transductive_set_wise_method_passes_everything():
    states = {outcome.name: outcome.state for outcome in kit_of(SeesTheSet).run()}
    assert "broken" not in states.values()
    assert states["sets are encoded apart if set wise"] == "holds"
    assert states["permuting the queries permutes the scores"] == "holds"
    assert states["labels of queries never reach a score"] == "holds"


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", [ReportsMoreThanLosses, ScoresInSinglePrecision, DeclaresWhatItDoes])
def test_unusual_but_sound_methods_pass(kind, name):
    is_apart = name == "sets are encoded apart if set wise" and not kind.traits.set_wise
    expected = "skipped" if is_apart else "holds"
    assert kit_of(kind).check(name).state == expected


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in BROKEN.items() for k in kinds])
def test_each_property_catches_the_method_that_breaks_it(name, kind):
    outcome = kit_of(kind).check(name)
    assert (outcome.name, outcome.state) == (name, "broken")
    assert outcome.reason


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            BareTensor,
            "score returned a Tensor of shape [3, 5, 4]: return Scores(total), with total [E, Q, N] = [3, 5, 4].",
        ),
        (ReturnsNothing, "score returned None: return Scores(total), with total [E, Q, N] = [3, 5, 4]."),
        (EncodesToADictionary, "encode returned a dict: return VideoFeatures(NAME=tensor)."),
        (WrongShape, "total of Scores has the shape [3, 5, 3]: a Tensor [E, Q, N] = [3, 5, 4] is expected."),
        (AllEqual, "all classes get the same score."),
    ],
)
def test_what_a_method_returns_is_judged_once(kind, message):
    """One sentence says what was returned and what is expected; the other properties are skipped, not repeated."""
    first, *others = kit_of(kind).run()
    assert (first.state, first.reason) == ("broken", message)
    assert {(o.state, o.reason) for o in others} == {
        ("skipped", "cannot be judged before 'scores have the shape and are finite' holds")
    }


def test_a_failure_names_the_line_of_the_user():
    source = Path(__file__).read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if 'RuntimeError("sizes' in text)
    assert kit_of(ScoreFails).run()[0].reason == f"RuntimeError: sizes do not match (test_method_tester.py:{line})"


@pytest.mark.parametrize("kind", [LowerIsBetter, LossIsATensor, NamesAloneInverted])
def test_a_fault_is_reported_by_its_property_alone(kind):
    expected = [name for name, kinds in BROKEN.items() if kind in kinds]
    assert [outcome.name for outcome in kit_of(kind).run() if outcome.state == "broken"] == expected


def test_a_score_that_must_be_learned_first_is_not_judged_by_copies():
    outcome = kit_of(BlindUntilTrained).check("a query equal to a support scores its class highest")
    assert outcome.state == "skipped"
    assert "untrained" in outcome.reason
    assert kit_of(NamesAlone).check("a query equal to a support scores its class highest").state == "holds"
    assert kit_of(NamesAlone).check("supports matter unless declared ignored").state == "holds"


def test_a_custom_tester_adds_properties():
    class Stricter(MethodTester):
        def test_it_is_called_good(self):
            assert type(self.build()).__name__ == "Good"

        def test_it_is_called_better(self):
            raise BrokenError(f"it is called {type(self.build()).__name__}.")

    strict = kit_of(Good, Stricter)
    assert strict.check("it is called good") == Outcome("it is called good", "holds")
    assert strict.check("it is called better") == Outcome("it is called better", "broken", "it is called Good.")
    assert strict.check("evaluation is deterministic").state == "holds"


def test_unknown_properties_are_refused_with_close_names():
    with pytest.raises(ConfigError, match="Did you mean 'order of shots changes nothing'"):
        kit_of(Good).check("order of shots change nothing")


def test_the_method_is_built_once_and_properties_do_not_touch_each_other():
    calls = []

    class Counted(Good):
        def __init__(self, backbone):
            super().__init__(backbone)
            calls.append(self)

    kit = kit_of(Counted)
    trains = "loss falls when trained on one episode"
    assert [kit.check(trains), kit.check(trains)] == [Outcome(trains, "holds")] * 2
    (built,) = calls
    torch.manual_seed(0)
    start = Good(copy.deepcopy(tiny_clip())).state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in built.state_dict().items())


def test_a_method_that_cannot_be_copied_is_built_for_each_property():
    class KeepsAGraph(Good):
        def __init__(self, backbone):
            super().__init__(backbone)
            self.norm = self.layer.weight.norm()  # not a leaf: deepcopy refuses it

    assert kit_of(KeepsAGraph).check("evaluation is deterministic").state == "holds"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_property_catches_the_method_that_breaks_it():
    class OtherOnCuda(Good):
        def score(self, support, query, class_text):
            total = super().score(support, query, class_text).total
            return Scores(total * (1.01 if total.is_cuda else 1.0))

    assert kit_of(OtherOnCuda).check("cpu and cuda agree").state == "broken"
