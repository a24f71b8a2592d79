"""HyRSM: relations within and across videos in front of Bi-MHM (CVPR 2022, re-implementation).

Command: fsar-bench run methods=hyrsm
"""

title = "HyRSM"
paper = "arXiv 2204.13423"
certainty = "code run"
method = dict(
    type="HyRSM",
    matcher=dict(type="BiMHM", epsilon=0.0),
    tune="visual",
    class_weight=0.15,  # official: 0.6 SSv2-Full, 0.4 Kinetics, 0.15 SSv2-Small, HMDB51, UCF101
    heads=8,
    input_scale=10.0,  # A; Kinetics 2048
    position_scale=1.0,  # B; Kinetics 0.01
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
    jitter=0.5,
    grayscale=0.3,
    augmented="queries",
)
search = {
    "train.optimizer.lr": dict(low=1e-6, high=1e-3, log=True),
    "method.class_weight": dict(low=0.05, high=1.0, log=True),  # around the official ones
}
