"""D2ST-Adapter: deformable attention over space and time after each frozen block of a ViT (ICCV 2025, re-implementation).

Command: fsar-bench run methods=d2st
"""

title = "D2ST-Adapter"
paper = "arXiv 2312.01431"
certainty = "code run"
method = dict(
    type="D2ST",
    matcher=dict(type="BiMHM", epsilon=0.0),
    adapter_ratio=0.25,
    heads=4,
    temporal_embedding=True,
    project=False,  # official: the class token after the last LayerNorm
    frames=8,  # filled from the protocol
    spatial_kernel=None,  # windows follow the grid: (4, 5, 5) every (4, 3, 3) at 8 frames of 14 x 14 patches
    spatial_stride=None,
    temporal_kernel=None,  # (1, 7, 7) every (1, 7, 7)
    temporal_stride=None,
)
# Official learning rate: 1e-3; 5e-4 on Kinetics and UCF101.
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(type="Adam", lr=1e-3, weight_decay=5e-4),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
search = {"train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True)}
