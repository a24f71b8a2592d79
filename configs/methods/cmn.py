"""CMN: multi-saliency embedding and the nearest class mean (ECCV 2018, after a third party's re-implementation).

Command: fsar-bench run methods=cmn
"""

title = "CMN"
paper = "Zhu and Yang, ECCV 2018"
certainty = "code read"
method = dict(
    type="CMN",
    tune="visual",
    saliencies=8,
    saliency_std=0.0,  # all vectors start equal, and stay equal, as in the code that was followed
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-5, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
