"""TARN (BMVC 2019): supports are re-timed to the query by attention, and a GRU reads how the steps of both compare.

Followed: the unofficial code (Seleucia/TARN), which was read and run; no code of the authors is public. A bidirectional GRU of
width 256 over the frames; attention (W s + b).q between the steps of a support and a query; the support re-timed to
the query, h_t = sum over s of a_st S_s; a comparison per step: cosine and Euclidean distance, the product, or the difference; a
GRU of width 256, whose last state a linear layer turns into the score of the pair.
Differs: attention sums to 1 over support time, as in the paper; that code normalises over query time
(`attention_over="query"`). b is left out where it cancels (support time), and the last layer has no bias, which is the same for
all classes. Cross-entropy over the classes of an episode instead of a binary one over a positive and a negative pair per
query; scores are averaged over shots. Frames instead of segments of C3D. Training: AdamW 1e-4, weight decay 5e-4, with warm-up
and cosine, the code's is Adam with the same values.
Unknown: how the authors merge shots, and which comparison their tables use; cosine and Euclidean distance is that code's default.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.method import METHODS, Backbone, FewShotMethod, Scores, Traits, Tuned, VideoFeatures, check_choice

Comparison = Literal["cos_euclid", "product", "difference"]
Axis = Literal["support", "query"]
CHUNK = 2**24  # floats in the largest intermediate array of a chunk of episodes


class PairComparison(nn.Module):
    """Score of a query and a support: attention over time, a comparison of every step, and a GRU over the steps.

    Args:
        width: H, width of the states of both.
        hidden: width of the GRU.
        compare: "cos_euclid" (2 channels), "product" or "difference" (H channels).
        attention_over: time axis over which attention sums to 1, "support" or "query".
    """

    def __init__(self, width: int, *, hidden: int, compare: Comparison, attention_over: Axis) -> None:
        super().__init__()
        self.compare, self.attention_over = compare, attention_over
        self.align = nn.Linear(width, width, bias=attention_over == "query")  # b.q_t cancels over support time
        if self.align.bias is not None:
            nn.init.ones_(self.align.bias)
        self.gru = nn.GRU(2 if compare == "cos_euclid" else width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1, bias=False)

    def retime(self, query: Tensor, support: Tensor) -> Tensor:
        """Re-time supports `[..., S, H]` to queries `[..., T, H]`, leading dimensions broadcast: `[..., T, H]`."""
        logits = self.align(support) @ query.transpose(-1, -2)  # [..., S, T]
        attention = logits.softmax(-2 if self.attention_over == "support" else -1)
        return attention.transpose(-1, -2) @ support

    def _steps(self, query: Tensor, retimed: Tensor) -> Tensor:
        if self.compare == "product":
            return query * retimed
        if self.compare == "difference":
            return query - retimed
        cosine = F.cosine_similarity(query.expand_as(retimed), retimed, dim=-1, eps=1e-6)
        return torch.stack([cosine, (query - retimed).norm(dim=-1)], -1)

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Score queries `[E, Q, T, H]` with supports `[E, N, K, S, H]`: logits `[E, Q, N, K]`."""
        query = query[:, :, None, None]
        steps = self._steps(query, self.retime(query, support[:, None]))
        _, last = self.gru(steps.flatten(0, 3))
        return self.head(last[0])[:, 0].view(steps.shape[:4])


@METHODS.register_module()
class TARN(FewShotMethod):
    """Recurrent states per video, and a learned comparison of every query with every support.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none".
        hidden: width of each direction of the first GRU, and of the second one.
        compare: "cos_euclid", "product" or "difference".
        attention_over: time axis over which attention sums to 1, "support" or "query".

    Raises:
        ConfigError: an unknown word.
    """

    role_free = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        hidden: int = 256,
        compare: Comparison = "cos_euclid",
        attention_over: Axis = "support",
    ) -> None:
        super().__init__(backbone)
        check_choice("compare", compare, Comparison)
        check_choice("attention_over", attention_over, Axis)
        self.tune(tune)
        self.gru = nn.GRU(backbone.embedding_width, hidden, batch_first=True, bidirectional=True)
        self.pairs = PairComparison(2 * hidden, hidden=hidden, compare=compare, attention_over=attention_over)
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `states` `[V, T, 2 * hidden]` of the bidirectional GRU."""
        return VideoFeatures(states=self.gru(features.frames)[0])

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = the logit of a pair, averaged over the shots of a class."""
        _, N, K, T, H = support.states.shape
        step = max(1, CHUNK // (query.states.shape[1] * N * K * T * H))
        chunks = zip(query.states.split(step), support.states.split(step), strict=True)
        return Scores(torch.cat([self.pairs(q, s) for q, s in chunks]).mean(-1))
