"""TS-FSAR: a side network next to frozen CLIP, task-weighted matching of correlations, text (AAAI 2026, re-implementation).

Command: fsar-bench run methods=ts_fsar
"""

title = "TS-FSAR"
paper = "arXiv 2512.11340"
certainty = "code run"
method = dict(
    type="TSFSAR",
    frames=8,  # filled from the protocol
    powers=(0.15, 0.8, 0.05),  # of matching, CLIP's frames and side tokens; official for Kinetics and UCF101, 1 shot
    correlation_power=0.4,
    temperature=50.0,
    adapter_share=0.4,
    class_weight=0.5,
    side_text_weight=1.0,
    clip_weight=6.0,
    distillation_temperature=10.0,
    dropout=0.7,
    side_start="pca",
    side_width=None,  # a third of the tower's: 256 of 768
    side_heads=None,  # of at least 64 channels: 4
    temporal_layers=None,  # every other one of the second half: 6, 8, 10 of 12
    mlp_ratio=4.0,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=2e-4, weight_decay=0.1),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
search = {
    "train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True),
    "method.temperature": dict(low=5.0, high=100.0, log=True),  # official ones are of CLIP's cosines
    "method.class_weight": dict(low=0.1, high=5.0, log=True),
    "method.clip_weight": dict(low=0.05, high=10.0, log=True),
}
