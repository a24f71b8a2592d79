"""MoLo: class tokens contrasted with frames, and a motion branch (CVPR 2023, re-implementation).

Command: fsar-bench run methods=molo   (with OTAM, the paper's other metric: matcher=OTAM)
"""

title = "MoLo"
paper = "arXiv 2304.00946"
certainty = "code run"
method = dict(
    type="MoLo",
    matcher=dict(type="BiMHM", epsilon=0.01),
    tune="visual",
    motion_weight=0.3,
    class_weight=0.15,  # official: 0.8 SSv2-Full, 0.15 SSv2-Small, 0.1 Kinetics, 0.4 HMDB51, 0.6 UCF101
    contrast_weight=0.05,
    reconstruction_weight=0.2,  # 4 times the official 0.05; SSv2-Full and Kinetics have 0.1, so 0.4
    input_scale=10.0,  # A; Kinetics 2048
    position_scale=1.0,  # B; Kinetics 0.02
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
