"""TARN: supports re-timed to the query by attention, and a GRU over the comparison (BMVC 2019, after a third party's code).

Command: fsar-bench run methods=tarn
"""

title = "TARN"
paper = "arXiv 1907.09021"
certainty = "code read"
method = dict(
    type="TARN",
    tune="visual",
    hidden=256,
    compare="cos_euclid",
    attention_over="support",  # the paper; the code that was followed: "query"
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=5e-4),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
