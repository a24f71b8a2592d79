"""TRN++: relations of ordered frames at several scales and the nearest class mean (ECCV 2018, after OTAM's table).

Command: fsar-bench run methods=trn
"""

title = "TRN++"
paper = "arXiv 1711.08496, as a row of arXiv 1906.11415"
certainty = "declared"
method = dict(
    type="TRN",
    tune="visual",
    out=256,
    drawn=3,  # subsets of each size per forward pass in training
    temperature=20.0,
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
