"""STRM: patch- and frame-level enrichment in front of TRX with pairs (CVPR 2022, re-implementation).

Command: fsar-bench run methods=strm
"""

title = "STRM"
paper = "arXiv 2112.05132"
certainty = "code run"
method = dict(
    type="STRM",
    matcher=dict(type="TRX", cardinalities=(2,), out=1152, position_scale=0.1, dropout=0.1),
    tune="visual",
    second_head="trained",  # the paper; the official code's projection is untrained: "fixed"
    second_weight=0.1,
    frames=8,  # filled from the protocol
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
