"""ARN: spatial attention, second-order pooling and a relation CNN (ECCV 2020, re-implementation from its formulas).

Command: fsar-bench run methods=arn
"""

title = "ARN"
paper = "arXiv 2001.03905"
certainty = "code run"
method = dict(
    type="ARN",
    tune="visual",
    momentum=0.1,  # of batch norm; official: 1, which keeps nothing but the last episode
    frames=8,  # filled from the protocol
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-3, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
search = {"train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True)}
