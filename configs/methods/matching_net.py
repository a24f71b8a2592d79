"""MatchingNet: visual encoder fine-tuned with attention of query frames over all support frames (NeurIPS 2016).

Command: fsar-bench run methods=matching_net

Followed: softmax over cosines to all supports of the episode, summed by class; the loss is the negative log of that sum.
Differs: attention is between frames and averaged over the query's frames (the paper has single images); no full-context
embedding.
Unknown: the video version behind published rows; none of the repositories we read has one. The whole training is therefore
declared: crop and flip as in the TRX authors' baselines, the rest as for protonet.
"""

title = "MatchingNet"
paper = "Vinyals et al., NeurIPS 2016"
certainty = "declared"
method = dict(
    type="MetricMethod",
    matcher=dict(type="MatchingNetwork", temperature=1.0, epsilon=0.01),
    tune="visual",
    scale=1.0,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-5, weight_decay=1e-3),
    val_interval=1008,
    crop="random",  # as the TRX authors' baselines; declared, not published
    flip="if_allowed",
)
