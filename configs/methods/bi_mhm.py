"""Bi-MHM: visual encoder fine-tuned with HyRSM's bidirectional mean Hausdorff metric (CVPR 2022).

Command: fsar-bench run methods=bi_mhm

Followed: HyRSM's official code: sums over frames, not means, on normalised frames; class distance is the mean over shots.
Training: HyRSM's random crops of 224 pixels, and flips, colour jitter (0.5, hue 0.25) and grey clips (0.3) of the queries alone.
Differs: training: HyRSM's code also flips the queries of Something-Something, whose classes have directions; here
`train.flip=on` does. AdamW 1e-5 with warm-up and cosine, a limit of the gradient's norm, 20,000 episodes and 5 queries per class
are ours (HyRSM's code: Adam 2.2e-5 to 1e-4 in steps, no limit, 4,800 to 160,000 episodes, 7 queries, or 3 at 5 shots).
Unknown: learning rate per backbone; HyRSM's code has no config of the metric alone.
"""

title = "Bi-MHM"
paper = "Wang et al., CVPR 2022 (the metric of HyRSM alone)"
certainty = "code run"
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
