"""Chamfer-support, training-free: Chamfer matching of the supports' frames.

Command: fsar-bench run methods=chamfer_support_frozen

Followed: the official code (jbertrand89/matching_based_fsar) for the matching function and the mean over shots.
Differs: frozen frame features; there a projection is trained on features of R(2+1)D.
"""

title = "Chamfer-support, frozen"
paper = "Bertrand et al., arXiv 2303.16084"
certainty = "code run"
method = dict(
    type="MetricMethod",
    matcher=dict(type="Chamfer", direction="support", joint=False, epsilon=0.01),
    tune="none",
    scale=1.0,
)
