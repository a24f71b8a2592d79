"""TRX: visual encoder fine-tuned with cross-attention between tuples of frames (CVPR 2021).

Command: fsar-bench run methods=trx

Followed: the official code (tobyperrett/trx): positions scaled by 0.1, dropout 0.1, pairs and triples, width 1152,
LayerNorm on keys alone, mean over cardinalities. Loss averaged over queries, as in the authors' later code base (the
official one sums them, as `recipe=official` does).
Differs: pairs and triples share one dropout of the frames. The official code also flips Something-Something, whose classes
have directions; here `train.flip=on` does, and `recipe=official`.
Unknown: learning rate per backbone.
"""

title = "TRX"
paper = "arXiv 2101.06184"
certainty = "code run"
method = dict(
    type="MetricMethod",
    matcher=dict(type="TRX", cardinalities=(2, 3), out=1152, position_scale=0.1, dropout=0.1),
    tune="visual",
    scale=1.0,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
