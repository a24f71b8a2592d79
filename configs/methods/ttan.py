"""TTAN: the first version of TA2N, aligned in time alone (arXiv 2107.04782v1, re-implementation).

Command: fsar-bench run methods=ttan
"""

title = "TTAN"
paper = "arXiv 2107.04782v1"
certainty = "declared"
method = dict(
    type="TA2N",
    tune="visual",
    spatial=False,
    reference="mean",  # official: "first", which makes scores depend on the order of shots
    dropout=0.5,
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
