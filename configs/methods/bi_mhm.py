"""Bi-MHM: visual encoder fine-tuned with HyRSM's bidirectional mean Hausdorff metric (CVPR 2022).

Command: fsar-bench run methods=bi_mhm

Followed: HyRSM's official code: sums over frames, not means, on normalised frames; class distance is the mean over shots.
Unknown: learning rate per backbone.
"""

title = "Bi-MHM"
paper = "Wang et al., CVPR 2022 (the metric of HyRSM alone)"
method = dict(type="MetricMethod", matcher=dict(type="BiMHM", epsilon=0.0), tune="visual", scale=1.0)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-5, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
    jitter=0.5,
    grayscale=0.3,
    augmented="queries",
)
