"""CLIP-CPM2C: consistent prototypes with and without class text, and motion (re-implementation without its label leak).

Command: fsar-bench run methods=cpm2c
"""

title = "CLIP-CPM2C"
paper = "arXiv 2312.01083"
certainty = "code run"
method = dict(
    type="CPM2C",
    matcher=dict(type="OTAM", smoothing=0.5, bidirectional=True, epsilon=0.01),
    tune="visual",
    added=0.1,
    motion_weight=1.0,
    global_weight=0.0,
    class_weight=0.5,
    consistency_weight=0.016,  # official: 0.001 in each of 16 episodes per step, not divided by 16
    consistency="clean",
    ffn_width=2048,
    dropout=0.2,
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
search = {
    "train.optimizer.lr": dict(low=1e-6, high=1e-3, log=True),
    "method.class_weight": dict(low=0.1, high=5.0, log=True),
}
