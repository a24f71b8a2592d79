"""TA2N: re-timed clips, aligned in time and space with each class (AAAI 2022, re-implementation).

Command: fsar-bench run methods=ta2n
"""

title = "TA2N"
paper = "arXiv 2107.04782"
certainty = "code run"
method = dict(
    type="TA2N",
    tune="visual",
    spatial=True,
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
