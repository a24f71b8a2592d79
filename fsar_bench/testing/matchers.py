"""MatcherTester: the contract of a matcher, tested on random features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.matching.matcher import Alignment, Matcher
from fsar_bench.testing.tester import (
    SURE,
    BrokenError,
    NotTestedError,
    Tester,
    describe_value,
    expect_tensor,
    parameters_without_gradient,
    relative_distance,
    share_of_matched_pairs,
    shuffled,
    with_noise,
)

E, N, K, Q, T = 3, 4, 3, 5, 4  # episodes, ways, shots, queries of one episode, frames
WIDTH = 24  # C of the frames
COPIES = 16  # episodes in which queries are copies of supports
SAME, DIFFERENT = (
    1e-8,
    1e-6,
)  # largest and smallest difference of equal and different distances, relative to their spread


class MatcherTester(Tester[Matcher]):
    """Tests the contract of one matcher, in float64.

    Args:
        build: builds the matcher for frames of `WIDTH` channels; see `Tester`.
    """

    def __init__(self, build: Callable[[], Matcher]) -> None:
        super().__init__(build)

    def matcher(self, *, dtype: torch.dtype = torch.float64) -> Matcher:
        """Return the matcher in eval mode, with its parameters moved away from their initial values."""
        return with_noise(self.fresh(), torch.Generator().manual_seed(0)).to(dtype).eval()

    @staticmethod
    def features(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return random queries `[E, Q, T, C]` and supports `[E, N, K, T, C]`."""
        generator = torch.Generator().manual_seed(1)
        query = torch.randn(E, Q, T, WIDTH, generator=generator, dtype=torch.float64)
        return query.to(dtype), torch.randn(E, N, K, T, WIDTH, generator=generator, dtype=torch.float64).to(dtype)

    @staticmethod
    @torch.no_grad()
    def distances(matcher: Matcher, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` without gradients."""
        return matcher(query, support)

    @staticmethod
    def expect_same(a: Tensor, b: Tensor, what: str) -> None:
        """Raise `BrokenError` with the message `what` unless two tensors of distances are equal."""
        if (off := relative_distance(a, b)) > SAME:
            raise BrokenError(f"{what} (by {off:.2g} of the spread of the distances).")

    @staticmethod
    def expect_different(a: Tensor, b: Tensor, what: str) -> None:
        """Raise `BrokenError` with the message `what` unless two tensors of distances differ."""
        if (off := relative_distance(a, b)) < DIFFERENT:
            raise BrokenError(f"{what} (the distances moved by {off:.2g} of their spread).")

    # The properties.

    def test_distances_have_the_shape_and_are_finite(self) -> None:
        """Distances are `[E, Q, N]` and finite, and some classes differ."""
        value: object = self.distances(self.matcher(), *self.features())
        distances = expect_tensor(value, "what forward returned", "[E, Q, N]", (E, Q, N))
        if float((distances.amax(-1) - distances.amin(-1)).max()) < 1e-9:
            raise BrokenError("all classes get the same distance.")

    def test_evaluation_is_deterministic(self) -> None:
        """Two evaluations of one matcher are equal."""
        matcher, features = self.matcher(), self.features()
        first, second = self.distances(matcher, *features), self.distances(matcher, *features)
        self.expect_same(first, second, "two evaluations of one matcher differ: is a dropout on?")

    def test_a_query_equal_to_a_support_is_nearest_to_its_class(self) -> None:
        """Copies of supports are nearer to their own classes; a learned matcher may be blind to them before it is trained."""
        matcher = self.matcher()
        generator = torch.Generator().manual_seed(2)
        videos = torch.randn(COPIES, N, T, WIDTH, generator=generator, dtype=torch.float64)
        share = share_of_matched_pairs(-self.distances(matcher, videos, videos[:, :, None]))
        seen = "no class is nearer than another to its copies"
        if share is not None:
            seen = f"only {100 * share:.0f} % of the pairs of such queries are nearer to their own classes"
        if matcher.learned and (share is None or 1 - SURE < share < SURE):
            raise NotTestedError(f"untrained, it does not recognise copies: {seen}")
        if share is None or share < SURE:
            raise BrokenError(f"{seen}: lower must be better.")

    def test_permuting_the_classes_permutes_the_distances(self) -> None:
        """Distances follow their class, regardless of its place."""
        matcher, (query, support), order = self.matcher(), self.features(), [2, 0, 3, 1]
        permuted = self.distances(matcher, query, support[:, order])
        self.expect_same(
            self.distances(matcher, query, support)[..., order],
            permuted,
            "permuting the classes does not just permute the columns",
        )

    def test_order_of_shots_changes_nothing(self) -> None:
        """The shots of a class are a set."""
        matcher, (query, support) = self.matcher(), self.features()
        permuted = self.distances(matcher, query, support[:, :, [2, 0, 1]])
        self.expect_same(
            self.distances(matcher, query, support), permuted, "the order of a class's shots changes the distances"
        )

    def test_queries_are_independent(self) -> None:
        """A query changes its own distances and no others."""
        matcher, (query, support) = self.matcher(), self.features()
        other = query.clone()
        other[:, 0] = -other[:, 0].flip(1)
        before, after = self.distances(matcher, query, support), self.distances(matcher, other, support)
        self.expect_different(before[:, :1], after[:, :1], "replacing a query leaves its distances unchanged")
        self.expect_same(before[:, 1:], after[:, 1:], "a query changes the distances of another")

    def test_batches_of_episodes_change_nothing(self) -> None:
        """An episode has the same distances alone and in a batch."""
        matcher, (query, support) = self.matcher(), self.features()
        alone = [self.distances(matcher, query[i : i + 1], support[i : i + 1]) for i in range(E)]
        self.expect_same(
            self.distances(matcher, query, support),
            torch.cat(alone),
            "an episode has other distances alone than in a batch",
        )

    def test_order_of_frames_matters_as_declared(self) -> None:
        """Shuffled frames of queries change the distances exactly if `order_sensitive` is True."""
        matcher, (query, support) = self.matcher(), self.features()
        before, after = (
            self.distances(matcher, query, support),
            self.distances(matcher, query[:, :, shuffled(query.shape[2])], support),
        )
        if matcher.order_sensitive:
            self.expect_different(before, after, "order_sensitive is True, but shuffled frames have the same distances")
        else:
            self.expect_same(before, after, "shuffled frames change the distances, and order_sensitive is False")

    def test_gradients_reach_features_and_parameters(self) -> None:
        """The loss has finite gradients for the features and every parameter; `learned` says whether there are any."""
        matcher = self.matcher().train()
        parameters = dict(matcher.named_parameters())
        if matcher.learned != bool(parameters):
            raise BrokenError(f"learned is {matcher.learned}, but the matcher has {len(parameters)} parameters.")
        query, support = (tensor.requires_grad_(True) for tensor in self.features())
        F.cross_entropy(-matcher(query, support).flatten(0, 1), torch.arange(E * Q) % N).backward()
        reached = {"the queries": query, "the supports": support, **parameters}
        without = parameters_without_gradient(reached)
        if without:
            raise BrokenError(f"the loss does not reach {without[0]}.")
        for name, tensor in reached.items():
            if tensor.grad is None or not torch.isfinite(tensor.grad).all():
                raise BrokenError(f"the gradient of {name} contains numbers that are not finite.")

    def test_distances_survive_float32(self) -> None:
        """Distances in float32 and float64 agree within 5 % of their spread, for features that are small as well."""
        for scale in (1.0, 1e-3):
            query, support = (scale * tensor for tensor in self.features())
            double = self.distances(self.matcher(), query, support)
            single = self.distances(self.matcher(dtype=torch.float32), query.float(), support.float())
            if single.dtype != torch.float32:
                raise BrokenError(f"features in float32 give distances in {single.dtype}.")
            if not relative_distance(double, single.double()) <= 0.05:
                raise BrokenError(f"float32 gives other distances than float64 (features of size {scale:g}).")

    def test_alignments_have_the_shape(self) -> None:
        """An alignment has distances and weights `[K, T, S]`, weights are not negative, and words say what they mean."""
        query, support = self.features(dtype=torch.float32)
        alignment: object = self.matcher(dtype=torch.float32).alignment(query[0, 0], support[0, 0])
        if alignment is None:
            raise NotTestedError("it compares whole videos: alignment returns None")
        if not isinstance(alignment, Alignment):
            raise BrokenError(f"alignment returned {describe_value(alignment)}: return Alignment(...) or None.")
        expect_tensor(alignment.distance, "distance of the alignment", "[K, T, S]", (K, T, T))
        weight = expect_tensor(alignment.weight, "weight of the alignment", "[K, T, S]", (K, T, T))
        if float(weight.detach().min()) < -1e-6 or not weight.detach().any():
            raise BrokenError("the weights of the alignment are negative or all zero.")
        if not isinstance(alignment.what, str) or not alignment.what.strip():
            raise BrokenError(f"what={alignment.what!r} of the alignment does not say what the weights mean.")
