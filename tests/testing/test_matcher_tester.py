"""MatcherTester: for each property a matcher that breaks it on purpose and no other, and matchers that break none."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from fsar_bench.engine.contract import subjects
from fsar_bench.matching.matcher import Alignment, Matcher
from fsar_bench.registry import MATCHERS
from fsar_bench.testing import MatcherTester
from fsar_bench.testing.matchers import WIDTH
from fsar_bench.testing.tester import shuffled


class Good(Matcher):
    """Squared distance of mean frames."""

    def forward(self, query, support):
        return (query.mean(2)[:, :, None] - support.mean((2, 3))[:, None]).square().sum(-1)


class Learned(Good):
    """The same after one layer."""

    learned = True

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, query, support):
        return super().forward(self.layer(query).tanh(), self.layer(support).tanh())


class AddsUp(Good):
    """The sum of a number of the query and one of the class: a copy is like any other query."""

    def forward(self, query, support):
        return query.sum((-1, -2))[:, :, None] + support.sum((-1, -2, -3))[:, None]


class LearnedRelation(Learned):
    """A relation network: blind to copies until it is trained, and legitimate."""

    def __init__(self, width):
        super().__init__(width)
        self.relation = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, query, support):
        x, y = self.layer(query).mean(2), self.layer(support).mean((2, 3))
        (E, Q, C), N = x.shape, y.shape[1]
        pairs = torch.cat([x[:, :, None].expand(E, Q, N, C), y[:, None].expand(E, Q, N, C)], -1)
        return self.relation(pairs.tanh()).squeeze(-1)


class Tuple(Good):
    def forward(self, query, support):
        return super().forward(query, support), None


class Transposed(Good):
    def forward(self, query, support):
        return super().forward(query, support).transpose(1, 2)


class PerShot(Good):
    def forward(self, query, support):
        return (query.mean(2)[:, :, None, None] - support.mean(3)[:, None]).square().sum(-1)


class NotFinite(Good):
    def forward(self, query, support):
        return super().forward(query, support) / 0


class AllEqual(Good):
    def forward(self, query, support):
        return 0 * super().forward(query, support)


class Noisy(Good):
    def forward(self, query, support):
        distance = super().forward(query, support)
        return distance * (1 + 1e-3 * torch.rand(()))


class HigherIsBetter(Good):
    def forward(self, query, support):
        return -super().forward(query, support)


class FavoursTheFirstClass(Good):
    def forward(self, query, support):
        distance = super().forward(query, support)
        return distance + torch.arange(distance.shape[-1]).to(distance) * 1e-3


class WeighsShotsByPlace(Good):
    def forward(self, query, support):
        K = support.shape[2]
        weight = torch.arange(1, K + 1).to(support).view(K, 1, 1)
        return super().forward(query, (support * weight / weight.mean()))


class LooksAtOtherQueries(Good):
    def forward(self, query, support):
        return super().forward(query - 0.1 * query.mean(1, keepdim=True), support)


class LooksAtOtherEpisodes(Good):
    def forward(self, query, support):
        return super().forward(query, support - 0.1 * support.mean((0, 1, 2, 3)))


class FirstFrameOnly(Good):
    def forward(self, query, support):
        return super().forward(query[:, :, :1], support[:, :, :, :1])


class DeclaresOrderSensitive(Good):
    order_sensitive = True


class LearnsNothing(Learned):
    def forward(self, query, support):
        with torch.no_grad():
            weight = self.layer.weight.clone()
        return Good.forward(self, query @ weight.T, support @ weight.T)


class DeclaresLearned(Good):
    learned = True


class DetachesSupports(Good):
    def forward(self, query, support):
        return super().forward(query, support.detach())


class RootOfZero(Good):
    """The gradient of a root is not finite where frames agree."""

    def forward(self, query, support):
        return super().forward(query, support) + (query - query).square().sum((-1, -2))[..., None].sqrt()


class CancelsDigits(Good):
    def forward(self, query, support):
        return super().forward(query, support) + 1e8 - 1e8


class AlwaysDouble(Good):
    def forward(self, query, support):
        return super().forward(query.double(), support.double())


class WrongAlignment(Good):
    def alignment(self, query, support):
        return Alignment(query @ support[0].T, query @ support[0].T, "one shot alone")


class NegativeAlignment(Good):
    def alignment(self, query, support):
        product = query @ support.transpose(1, 2)
        return Alignment(product, -product.abs(), "products")


class BareAlignment(Good):
    def alignment(self, query, support):
        return query @ support.transpose(1, 2)


BROKEN = {
    "distances have the shape and are finite": [Tuple, Transposed, PerShot, NotFinite, AllEqual],
    "evaluation is deterministic": [Noisy],
    "a query equal to a support is nearest to its class": [HigherIsBetter, AddsUp],
    "permuting the classes permutes the distances": [FavoursTheFirstClass],
    "order of shots changes nothing": [WeighsShotsByPlace],
    "queries are independent": [LooksAtOtherQueries],
    "batches of episodes change nothing": [LooksAtOtherEpisodes],
    "order of frames matters as declared": [FirstFrameOnly, DeclaresOrderSensitive],
    "gradients reach features and parameters": [LearnsNothing, DeclaresLearned, DetachesSupports, RootOfZero],
    "distances survive float32": [CancelsDigits, AlwaysDouble],
    "alignments have the shape": [WrongAlignment, NegativeAlignment, BareAlignment],
}


def kit_of(kind: type[Matcher]) -> MatcherTester:
    def build() -> Matcher:
        torch.manual_seed(0)
        return kind(WIDTH) if issubclass(kind, Learned) else kind()

    return MatcherTester(build)


def broken(kind: type[Matcher]) -> dict[str, str]:
    return {outcome.name: outcome.reason for outcome in kit_of(kind).run() if outcome.state == "broken"}


@pytest.mark.parametrize("kind", [Good, Learned, LearnedRelation])
def test_sound_matchers_pass(kind):
    outcomes = kit_of(kind).run()
    assert [outcome.name for outcome in outcomes] == list(BROKEN)
    assert broken(kind) == {}
    skipped = {outcome.name for outcome in outcomes if outcome.state == "skipped"}
    assert ("a query equal to a support is nearest to its class" in skipped) == (kind is LearnedRelation)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in BROKEN.items() for kind in kinds])
def test_each_fault_is_caught_by_its_property_alone(name, kind):
    reasons = broken(kind)
    assert list(reasons) == [name]
    assert reasons[name]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Tuple, "what forward returned is a tuple: a Tensor [E, Q, N] = [3, 5, 4] is expected."),
        (Transposed, "what forward returned has the shape [3, 4, 5]: a Tensor [E, Q, N] = [3, 5, 4] is expected."),
    ],
)
def test_what_is_returned_and_what_is_expected_is_said_once(kind, message):
    assert broken(kind) == {"distances have the shape and are finite": message}


def test_builtin_matchers_keep_the_contract():
    checked = subjects("matcher", "all", [])
    expected = {"OTAM", "BiMHM", "TRX", "CosinePrototype", "MatchingNetwork", "DTW", "Chamfer", "TupleChamfer"}
    assert expected <= {subject.name for subject in checked}
    for subject in checked:
        assert [o for o in subject.tester().run() if o.state == "broken"] == [], subject.name


@pytest.mark.parametrize(
    "name",
    [
        "AllPairs",
        "BiMHM",
        "Chamfer",
        "CosinePrototype",
        "DTW",
        "Diagonal",
        "EuclideanPrototype",
        "LinearPairs",
        "MatchingNetwork",
        "MeanCosine",
        "NearestPair",
        "OTAM",
        "TRX",
    ],
)
def test_an_inverted_copy_of_a_builtin_matcher_is_caught(name):
    kind = MATCHERS.get(name)
    arguments = {"width": WIDTH} if kind.learned else {}

    class Inverted(kind):
        def forward(self, query, support):
            return -super().forward(query, support)

    def build() -> Matcher:
        torch.manual_seed(0)
        return Inverted(**arguments)

    assert MatcherTester(build).check("a query equal to a support is nearest to its class").state == "broken"


@pytest.mark.parametrize("frames", range(2, 20))
def test_every_frame_moves_when_frames_are_shuffled_and_neighbours_separate(frames):
    order = shuffled(frames).tolist()
    assert sorted(order) == list(range(frames))
    assert all(place != frame for place, frame in enumerate(order))
    assert frames < 4 or all(b != a + 1 for a, b in pairwise(order))
