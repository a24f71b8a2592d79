"""MethodTester: the contract of a method, tested on tiny random input in seconds; used by `fsar-bench check` and the tests.

Everything is computed in float64, so that equal and different scores are clearly separated, and every trained parameter is first
moved away from its initial value, so that adapters that start at zero take part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from fsar_bench.backbones.recompute import Recompute, why_together
from fsar_bench.method import EpisodeBatch, FewShotMethod, Scores, VideoFeatures
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
    smooth_videos,
    with_noise,
)

E, N, K, Q = 3, 4, 3, 5  # episodes, ways, shots, queries of one episode
CLASSES = 7  # training classes
COPIES = 16  # episodes in which queries are copies of supports
SAME = 1e-8  # largest difference of equal scores, relative to their spread
SAME_SINGLE = 1e-4  # the same for a method that scores in float32 regardless of its input
SAME_TRANSDUCTIVE = 1e-6  # the same where sums over queries are taken in another order
SAME_GRADIENT = 1e-6  # largest difference of equal gradients, relative to the largest entry of all
DIFFERENT = 1e-5  # smallest difference of different scores, relative to their spread


class MethodTester(Tester[FewShotMethod]):
    """Tests the contract of one method.

    Subclasses add properties as further methods named `test_...`.

    Args:
        build: builds the method on a small backbone; see `Tester`.
        frames: T.
        crop: side of a frame in pixels.
        text_width: C of class texts; 0 for a backbone without a text encoder.
    """

    def __init__(self, build: Callable[[], FewShotMethod], *, frames: int, crop: int, text_width: int) -> None:
        super().__init__(build)
        self.frames, self.crop, self.text_width = frames, crop, text_width

    # Fixtures and comparisons.

    def method(self, *, dtype: torch.dtype = torch.float64) -> FewShotMethod:
        """Return the method in eval mode, prepared, with its trained parameters moved away from their initial values."""
        method = self.fresh()
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # layers made by `prepare` are the same in every copy
            torch.manual_seed(0)
            method.prepare(torch.randn(CLASSES, self.text_width, generator=generator).to(dtype))
        method = with_noise(method, generator).to(dtype).eval()
        if method.reads_train_bank:
            self._learn(method)
        return method

    @torch.no_grad()
    def _learn(self, method: FewShotMethod) -> None:
        """Give the method statistics of random clips, three of each training class."""
        generator = torch.Generator().manual_seed(3)
        frames = smooth_videos(3 * CLASSES, self.frames, self.crop, generator)
        method.learn_from_bank(method.encode(method.embed(frames, None), None), torch.arange(3 * CLASSES) % CLASSES)

    def episodes(self, *, count: int = E, dtype: torch.dtype = torch.float64) -> EpisodeBatch:
        """Return random episodes: smooth colour patterns that change over time."""
        generator = torch.Generator().manual_seed(1)
        pixels = smooth_videos(count * (N * K + Q), self.frames, self.crop, generator)
        labels = torch.arange(Q) % N
        classes = torch.stack([torch.randperm(CLASSES, generator=generator)[:N] for _ in range(count)])
        return EpisodeBatch(
            support=pixels[: count * N * K].unflatten(0, (count, N, K)),
            query=pixels[count * N * K :].unflatten(0, (count, Q)),
            labels=labels.expand(count, -1).contiguous(),
            classes=classes,
            class_text=torch.randn(count, N, self.text_width, generator=generator).to(dtype),
        )

    @staticmethod
    @torch.no_grad()
    def scores(method: FewShotMethod, episodes: EpisodeBatch) -> Scores:
        """Score episodes through `episode_features`, as training does."""
        support, query = method.episode_features(episodes)
        return method.score_episodes(support, query, episodes.class_text)

    def total(self, method: FewShotMethod, **changes: Tensor) -> Tensor:
        """Compute the total scores `[E, Q, N]` of the random episodes, with the tensors in `changes` replaced."""
        return self.scores(method, EpisodeBatch(**{**vars(self.episodes()), **changes})).total

    def expect_same(self, a: Tensor, b: Tensor, what: str, *, same: float = SAME) -> None:
        """Raise `BrokenError` with the message `what` unless two score tensors differ by at most `same` of their spread."""
        if (off := relative_distance(a, b)) > (same if a.dtype == torch.float64 else SAME_SINGLE):
            raise BrokenError(f"{what} (by {off:.2g} of the spread of the scores).")

    def expect_different(self, a: Tensor, b: Tensor, what: str) -> None:
        """Raise `BrokenError` with the message `what` unless two score tensors differ."""
        if (off := relative_distance(a, b)) < DIFFERENT:
            raise BrokenError(f"{what} (the scores moved by {off:.2g} of their spread).")

    @staticmethod
    def training_loss(method: FewShotMethod, episodes: EpisodeBatch) -> Tensor:
        """Compute the sum of losses that training minimises."""
        losses: object = method.loss(episodes)
        if not isinstance(losses, dict):
            raise BrokenError(
                f"loss returned {describe_value(losses)}: return scalars by name, such as {{'loss': value}}."
            )
        values = [value for name, value in losses.items() if "loss" in name]
        if not values:
            raise BrokenError(f"loss returned {sorted(losses)}: training minimises what has 'loss' in its name.")
        return reduce(add, values)

    # The properties.

    def test_scores_have_the_shape_and_are_finite(self) -> None:
        """Encoding gives `VideoFeatures` per video, scoring `Scores` of finite `[E, Q, N]`, and some classes differ."""
        method, episodes = self.method(), self.episodes()
        text = episodes.class_text[:, :, None].expand(-1, -1, K, -1).reshape(E * N * K, -1)
        with torch.no_grad():
            support = self._encoded(method, episodes.support.flatten(0, 2), text).view(E, N, K)
            query = self._encoded(method, episodes.query.flatten(0, 1), None).view(E, Q)
            value: object = method.score_episodes(support, query, episodes.class_text)
        if not isinstance(value, Scores):
            shape = f"[E, Q, N] = {[E, Q, N]}"
            raise BrokenError(f"score returned {describe_value(value)}: return Scores(total), with total {shape}.")
        scores = self.scores(method, episodes)
        for name, tensor in {"total": scores.total, **scores.parts}.items():
            expect_tensor(tensor, f"{name} of Scores", "[E, Q, N]", (E, Q, N))
        if float((scores.total.amax(-1) - scores.total.amin(-1)).max()) < 1e-9:
            raise BrokenError("all classes get the same score.")

    @staticmethod
    def _encoded(method: FewShotMethod, frames: Tensor, text: Tensor | None) -> VideoFeatures:
        """Embed and encode videos, and check what is returned on the way."""
        features: VideoFeatures | None = None
        for name in ("embed", "encode"):
            value: object = method.embed(frames, text) if features is None else method.encode(features, text)
            if not isinstance(value, VideoFeatures):
                raise BrokenError(f"{name} returned {describe_value(value)}: return VideoFeatures(NAME=tensor).")
            features = value
            for key, tensor in features.items():
                if not isinstance(tensor, Tensor) or tensor.shape[:1] != (len(frames),):
                    raise BrokenError(
                        f"{name} returned {key}, {describe_value(tensor)}, for {len(frames)} videos: a Tensor whose first "
                        "dimension counts the videos is expected."
                    )
        assert features is not None
        return features

    def test_evaluation_is_deterministic(self) -> None:
        """Two evaluations of one method are equal."""
        method = self.method()
        self.expect_same(
            self.total(method), self.total(method), "two evaluations of one method differ: is a dropout on?"
        )

    def test_a_query_equal_to_a_support_scores_its_class_highest(self) -> None:
        """Copies of supports prefer their own classes; where class names alone decide, texts equal to the queries' features do.

        All classes have the same text first, so that it decides nothing. Random weights may favour a class for every query:
        see `share_of_matched_pairs`. A learned score may be blind to copies before it is trained, but not prefer other classes.
        """
        method = self.method()
        share = share_of_matched_pairs(self._total_of_copies(method, names_too=False))
        if share is None and method.traits.uses_class_names:
            share = share_of_matched_pairs(self._total_of_copies(method, names_too=True))
        seen = "no class scores higher than another for its copies"
        if share is not None:
            seen = f"only {100 * share:.0f} % of the pairs of such queries prefer their own classes"
        may_be_blind = method.traits.trainable or (share is None and method.traits.uses_class_names)
        if may_be_blind and (share is None or 1 - SURE < share < SURE):
            raise NotTestedError(f"untrained, it does not recognise copies: {seen}")
        if share is None or share < SURE:
            raise BrokenError(f"{seen}: does a lower score mean a better class?")

    def _total_of_copies(self, method: FewShotMethod, *, names_too: bool) -> Tensor:
        """Score 1-shot episodes whose query i is the support of class i: total `[COPIES, N, N]`.

        Args:
            method: the method.
            names_too: the text of class i is the mean feature of query i; otherwise all classes of an episode have one text.
        """
        generator = torch.Generator().manual_seed(2)
        videos = smooth_videos(COPIES * N, self.frames, self.crop, generator).unflatten(0, (COPIES, N))
        dtype = method.backbone.mean.dtype
        text = torch.randn(COPIES, 1, self.text_width, generator=generator).to(dtype).expand(-1, N, -1).contiguous()
        if names_too:
            with torch.no_grad():
                text = method.backbone.encode_frames(videos.flatten(0, 1)).mean(1).unflatten(0, (COPIES, N))
        classes = torch.arange(N).expand(COPIES, -1).contiguous()
        return self.scores(method, EpisodeBatch(videos[:, :, None], videos, classes, classes, text)).total

    def test_permuting_the_labels_permutes_the_scores(self) -> None:
        """Scores follow their class, regardless of its label."""
        method, episodes, order = self.method(), self.episodes(), torch.tensor([2, 0, 3, 1])
        permuted = self.total(
            method,
            support=episodes.support[:, order],
            class_text=episodes.class_text[:, order],
            classes=episodes.classes[:, order],
        )
        self.expect_same(
            self.total(method)[..., order], permuted, "permuting the classes does not just permute the columns"
        )

    def test_order_of_shots_changes_nothing(self) -> None:
        """The shots of a class are a set."""
        method, episodes = self.method(), self.episodes()
        permuted = self.total(method, support=episodes.support[:, :, [2, 0, 1]])
        self.expect_same(self.total(method), permuted, "the order of a class's shots changes the scores")

    def test_duplicated_shots(self) -> None:
        """Copies of a shot leave the scores unchanged exactly if `shots_average` is True."""
        method, episodes = self.method(), self.episodes()
        single = self.total(method, support=episodes.support[:, :, :1])
        triple = self.total(method, support=episodes.support[:, :, :1].expand(-1, -1, 3, -1, -1, -1, -1))
        if method.shots_average:
            self.expect_same(single, triple, "copies of a shot change the scores, and shots_average is True")
        else:
            self.expect_different(single, triple, "shots_average is False, but copies of a shot change nothing")

    def test_queries_are_independent_unless_declared_transductive(self) -> None:
        """A query changes the scores of the others exactly if `transductive` is declared, and always its own."""
        method, episodes = self.method(), self.episodes()
        query = episodes.query.clone()
        query[:, 0] = 255 - query[:, 0].flip(1)
        before, after = self.total(method), self.total(method, query=query)
        self.expect_different(before[:, :1], after[:, :1], "replacing the video of a query leaves its scores unchanged")
        if method.traits.transductive:
            self.expect_different(before[:, 1:], after[:, 1:], "declared transductive, but no query depends on another")
        else:
            self.expect_same(
                before[:, 1:], after[:, 1:], "a query changes the scores of another, and transductive is not declared"
            )

    def test_set_wise_if_declared(self) -> None:
        """`encode_set` is defined exactly if `set_wise` is declared."""
        method = self.fresh()
        if method.is_set_wise and not method.traits.set_wise:
            raise BrokenError(
                "encode_set is defined, and set_wise is not declared: an episode costs more than it seems"
            )
        if method.traits.set_wise and not method.is_set_wise:
            raise BrokenError("declared set-wise, but encode_set is not defined")

    def test_permuting_the_queries_permutes_the_scores(self) -> None:
        """The queries of an episode are a set, also where there are as many as classes and a transposed table would fit."""
        method, episodes = self.method(), self.episodes()
        same = SAME_TRANSDUCTIVE if method.traits.transductive else SAME
        for count in (N, Q):
            query, order = episodes.query[:, :count], torch.arange(count).roll(2).flip(0)
            before = self.total(method, query=query, labels=episodes.labels[:, :count])
            after = self.total(method, query=query[:, order], labels=episodes.labels[:, :count][:, order])
            self.expect_same(
                before[:, order], after, f"permuting {count} queries does not just permute the rows", same=same
            )

    def test_a_query_scores_the_same_alone_and_in_company(self) -> None:
        """A query of an inductive method scores the same alone; a transductive one can score one query."""
        method, episodes = self.method(), self.episodes()
        alone = [
            self.total(method, query=episodes.query[:, i : i + 1], labels=episodes.labels[:, i : i + 1])
            for i in range(Q)
        ]
        expect_tensor(torch.cat(alone, 1), "total of single queries", "[E, Q, N]", (E, Q, N))
        if method.traits.transductive:
            raise NotTestedError("declared transductive: its queries may depend on each other")
        self.expect_same(self.total(method), torch.cat(alone, 1), "a query scores differently alone and in company")

    def test_queries_of_one_class_change_nothing_unless_transductive(self) -> None:
        """A query of an inductive method scores the same where all others are of one class."""
        method, episodes = self.method(), self.episodes()
        query, labels = episodes.query.clone(), torch.full_like(episodes.labels, N - 1)
        query[:, 1:] = episodes.support[:, -1, torch.arange(Q - 1) % K]
        labels[:, 0] = episodes.labels[:, 0]
        after = self.total(method, query=query, labels=labels)
        expect_tensor(after, "total of queries of one class", "[E, Q, N]", (E, Q, N))
        if method.traits.transductive:
            raise NotTestedError("declared transductive: its scores may depend on how many queries a class has")
        self.expect_same(
            self.total(method)[:, :1], after[:, :1], "a query scores differently where all others are of one class"
        )

    def test_labels_of_queries_never_reach_a_score(self) -> None:
        """Other labels change no score: in an episode, while a loss is computed, and after it."""
        episodes = self.episodes()
        other = replace(episodes, labels=(episodes.labels + 1) % N)
        first, second = self.method(), self.method()
        self.expect_same(
            self.scores(first, episodes).total,
            self.scores(second, other).total,
            "labels of queries change their scores",
        )
        if not first.traits.trainable:
            return
        pairs = zip(self._scores_within_loss(first, episodes), self._scores_within_loss(second, other), strict=True)
        for a, b in pairs:
            self.expect_same(a, b, "labels of queries change the scores of which a loss is made")
        self.expect_same(
            self.total(first), self.total(second), "the labels of a loss change the scores of later episodes"
        )

    @staticmethod
    def _scores_within_loss(method: FewShotMethod, episodes: EpisodeBatch) -> list[Tensor]:
        """Total of each call of `score` while the training loss is computed, with the same random numbers each time."""
        totals: list[Tensor] = []
        score = method.score

        def record(*args: Any, **kwargs: Any) -> Scores:
            scores = score(*args, **kwargs)
            totals.append(scores.total.detach())
            return scores

        method.__dict__["score"] = record
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            method.train().loss(episodes)
        del method.__dict__["score"]
        method.eval()
        return totals

    def test_supports_matter_unless_declared_ignored(self) -> None:
        """Other supports change the scores exactly if `ignores_supports` is not declared."""
        method, episodes = self.method(), self.episodes()
        before, after = self.total(method), self.total(method, support=255 - episodes.support)
        if method.traits.ignores_supports:
            self.expect_same(before, after, "declared to ignore supports, but other supports change the scores")
        elif method.traits.trainable and 0 < (off := relative_distance(before, after)) < DIFFERENT:
            raise NotTestedError(f"untrained, other supports hardly change its scores (by {off:.2g} of their spread)")
        else:
            self.expect_different(
                before, after, "other supports do not change the scores, and ignores_supports is not declared"
            )

    def test_batches_of_episodes_change_nothing(self) -> None:
        """An episode scores the same alone, in a batch, and in one that is filled up with copies of an episode."""
        method, episodes = self.method(), self.episodes()
        alone = [
            self.scores(method, EpisodeBatch(**{k: v[i : i + 1] for k, v in vars(episodes).items()})).total
            for i in range(E)
        ]
        self.expect_same(self.total(method), torch.cat(alone), "an episode scores differently alone and in a batch")
        padding = torch.tensor([*range(E), 0, 0])
        padded = self.scores(method, EpisodeBatch(**{k: v[padding] for k, v in vars(episodes).items()})).total
        self.expect_same(self.total(method), padded[:E], "an episode scores differently in a padded batch")

    @torch.no_grad()
    def test_sets_are_encoded_apart_if_set_wise(self) -> None:
        """`encode_set` gives a set the same features alone, in a batch and after other sets: it keeps nothing of a call."""
        method, episodes = self.method(), self.episodes()
        if not method.is_set_wise:
            raise NotTestedError("no encode_set")
        support, query = method.episode_features(episodes)
        together = VideoFeatures(**{name: tensor.flatten(1, 2) for name, tensor in support.items()})
        for what, features, text in (("supports", together, episodes.class_text), ("queries", query, None)):
            whole = self.method().encode_set(features, text)
            parts = [
                self.method().encode_set(features[i : i + 1], text if text is None else text[i : i + 1])
                for i in range(E)
            ]
            self._expect_same_features(whole, VideoFeatures.cat(parts), f"{what} depend on the other sets of a batch")
            used = self.method()
            used.encode_set(query[:, torch.arange(Q).flip(0)][:1], None)
            used.encode_set(together[:1], episodes.class_text[:1])
            used.encode_set(query[1:], None)
            self._expect_same_features(whole, used.encode_set(features, text), f"{what} depend on sets encoded earlier")

    @staticmethod
    def _expect_same_features(a: VideoFeatures, b: VideoFeatures, what: str) -> None:
        """Raise `BrokenError` with the message `what` unless features are equal."""
        for (name, x), (_, y) in zip(a.items(), b.items(), strict=True):
            if (off := float((x - y).abs().max() / x.abs().max().clamp_min(1e-12))) > SAME:
                raise BrokenError(f"encode_set: {what} ({name!r} by {off:.2g} of its largest value).")

    @torch.no_grad()
    def test_videos_encoded_one_by_one_score_the_same(self) -> None:
        """Evaluation, which encodes every video once per role, and training give the same scores."""
        method, episodes = self.method(), self.episodes()
        text = episodes.class_text[:, :, None].expand(-1, -1, K, -1).reshape(E * N * K, -1)

        def encode(frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
            return method.encode(method.embed(frames, class_text), class_text)

        videos = episodes.support.flatten(0, 2)
        support = VideoFeatures.cat([encode(videos[i : i + 1], text[i : i + 1]) for i in range(len(videos))])
        query = VideoFeatures.cat([encode(video[None], None) for video in episodes.query.flatten(0, 1)])
        bank = method.score_episodes(support.view(E, N, K), query.view(E, Q), episodes.class_text).total
        self.expect_same(
            self.total(method), bank, "encoding videos one by one gives other scores than encoding an episode"
        )

    @torch.no_grad()
    def test_role_free_if_declared(self) -> None:
        """A method that declares `role_free` encodes supports and queries alike."""
        method, episodes = self.method(), self.episodes()
        if not method.role_free:
            raise NotTestedError("role_free is not declared")
        videos, text = episodes.support[0, :, 0], episodes.class_text[0]
        roles = [method.encode(method.embed(videos, class_text), class_text) for class_text in (text, None)]
        for (name, a), (_, b) in zip(*(role.items() for role in roles), strict=True):
            if not torch.allclose(a, b, rtol=1e-9, atol=1e-9):
                raise BrokenError(
                    f"role_free is declared, but {name!r} differs between the support and the query role."
                )

    def test_order_of_frames_matters_as_declared(self) -> None:
        """Shuffled frames change the scores exactly if `order_sensitive` is declared."""
        method, episodes = self.method(), self.episodes()
        if self.frames < 2:
            raise NotTestedError("one frame has no order")
        order = shuffled(self.frames)
        after = self.total(method, query=episodes.query[:, :, order])
        if method.traits.order_sensitive:
            self.expect_different(
                self.total(method), after, "declared order-sensitive, but shuffled frames score the same"
            )
        else:
            self.expect_same(
                self.total(method), after, "shuffled frames change the scores, and order_sensitive is not declared"
            )

    def test_class_names_are_used_as_declared(self) -> None:
        """Other class texts change the scores exactly if `uses_class_names` is declared."""
        if not self.text_width:
            raise NotTestedError("this backbone has no text encoder")
        method, episodes = self.method(), self.episodes()
        after = self.total(method, class_text=-episodes.class_text.flip(1))
        if method.traits.uses_class_names:
            self.expect_different(
                self.total(method), after, "declared to use class names, but other names score the same"
            )
        else:
            self.expect_same(
                self.total(method), after, "class names change the scores, and uses_class_names is not declared"
            )

    def test_gradients_reach_what_is_trained_and_nothing_else(self) -> None:
        """The loss reaches every trained parameter, and an update leaves all frozen tensors unchanged."""
        method = self.method().train()
        trained = {name for name, p in method.named_parameters() if p.requires_grad}
        if method.traits.trainable != bool(trained):
            raise BrokenError(
                f"traits.trainable is {method.traits.trainable}, but {len(trained)} parameters are trained."
            )
        if not trained:
            raise NotTestedError("training-free")
        before = self._frozen_tensors(method, trained)
        total = self.training_loss(method, self.episodes(count=1))
        if not torch.isfinite(total):
            raise BrokenError(f"the loss is {total.item()}.")
        total.backward()
        without = parameters_without_gradient({n: p for n, p in method.named_parameters() if n in trained})
        if without:
            raise BrokenError(
                f"the loss does not reach {without[0]} ({len(without)} of {len(trained)} trained parameters)."
            )
        torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1).step()
        after = method.state_dict()
        moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if moved:
            raise BrokenError(f"training changed {moved[0]}, which is frozen.")

    @staticmethod
    def _frozen_tensors(method: FewShotMethod, trained: set[str]) -> dict[str, Tensor]:
        """Copy the tensors that training must not change: frozen parameters, and all of a frozen backbone with its buffers."""
        tuned = any(name.startswith("backbone.") for name in trained)
        parameters = dict(method.named_parameters())
        return {
            name: tensor.clone()
            for name, tensor in method.state_dict().items()
            if (name in parameters and name not in trained) or (name.startswith("backbone.") and not tuned)
        }

    def test_micro_batches_give_the_same_gradients(self) -> None:
        """An episode gives the same gradients when its clips are encoded one at a time, or its blocks twice (`fit=`)."""
        method, episodes = self.method().train(), self.episodes(count=1)
        if not method.traits.trainable:
            raise NotTestedError("training-free")
        if why := why_together(method, episodes.query[0, :1], None):
            raise NotTestedError(why)
        expected = self._gradients(method, episodes, Recompute())
        for recompute in (Recompute(1), Recompute(2, blocks=True)):
            actual = self._gradients(method, episodes, recompute)
            largest = max(float(gradient.abs().max()) for gradient in expected.values())
            for name, gradient in expected.items():
                off = float((actual[name] - gradient).abs().max())
                if off > SAME_GRADIENT * largest:
                    raise BrokenError(
                        f"clips that are encoded {recompute.clips} at a time give another gradient of {name} (by "
                        f"{off / largest:.2g} of the largest): `embed` lets clips see each other."
                    )

    def _gradients(self, method: FewShotMethod, episodes: EpisodeBatch, recompute: Recompute) -> dict[str, Tensor]:
        """Compute the gradients of the loss, with the same random numbers every time."""
        with torch.random.fork_rng(devices=[]), recompute.inside(method):
            torch.manual_seed(4)
            self.training_loss(method, episodes).backward()
        gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        method.zero_grad()
        return gradients

    def test_loss_falls_when_trained_on_one_episode(self) -> None:
        """Eight steps of Adam on one episode reduce the loss."""
        method = self.method(dtype=torch.float32)
        if not method.traits.trainable:
            raise NotTestedError("training-free")
        episodes = self.episodes(count=1, dtype=torch.float32)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
        values = []
        for _ in range(8):
            loss = self.training_loss(method, episodes)
            values.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        least = min(values[1:])
        if not least < values[0]:
            raise BrokenError(
                f"eight steps on one episode took the loss from {values[0]:.4g} to no less than {least:.4g}."
            )

    def test_predictions_survive_float32(self) -> None:
        """Scores in float32 and float64 agree within 5 % of their spread."""
        double = self.total(self.method())
        single = self.scores(self.method(dtype=torch.float32), self.episodes(dtype=torch.float32)).total
        if relative_distance(double, single.double()) > 0.05:
            raise BrokenError("float32 gives other scores than float64: an unstable formula.")

    def test_cpu_and_cuda_agree(self) -> None:
        """Scores on the CPU and on a CUDA device agree in float64."""
        if not torch.cuda.is_available():
            raise NotTestedError("no CUDA device on this machine")
        method, episodes = self.method(), self.episodes()
        on_cpu = self.scores(method, episodes).total
        moved = EpisodeBatch(**{name: tensor.cuda() for name, tensor in vars(episodes).items()})
        on_cuda = self.scores(copy.deepcopy(method).cuda(), moved).total.cpu()
        if relative_distance(on_cpu, on_cuda) > 1e-6:
            raise BrokenError("CUDA gives other scores than the CPU.")
