"""MatchingNet, training-free: attention of query frames over all support frames, regardless of their order.

Command: fsar-bench run methods=matching_net_frozen

Followed: the same as matching_net, without training.
Differs: frozen frame features of any backbone.
Unknown: a published form for videos; a temperature of 1 and an epsilon of 0.01 are ours, as in matching_net.
"""

title = "MatchingNet, frozen"
paper = "Vinyals et al., NeurIPS 2016"
certainty = "declared"
method = dict(
    type="MetricMethod",
    matcher=dict(type="MatchingNetwork", temperature=1.0, epsilon=0.01),
    tune="none",
    scale=1.0,
)
