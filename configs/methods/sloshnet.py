"""SloshNet: maps of four depths fused by a searched cell, short- and long-term modelling, TRX (AAAI 2023, re-implementation).

Command: fsar-bench run methods=sloshnet
"""

title = "SloshNet"
paper = "arXiv 2301.07944"
certainty = "code run"
method = dict(
    type="SloshNet",
    matcher=dict(
        type="TRX", cardinalities=(1, 2), out=1152, position_scale=0.1, dropout=0.1
    ),  # official: (1, 2) on Something-Something, (1,) elsewhere
    tune="visual",
    groups=16,
    heads=8,
    drop_below=0.01,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=3e-4),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
