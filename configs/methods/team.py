"""TEAM: learned pattern tokens for and against each class (CVPR 2025, re-implementation).

Command: fsar-bench run methods=team
"""

title = "TEAM"
paper = "arXiv 2504.05956"
certainty = "code run"
method = dict(
    type="TEAM",
    tune="visual",
    num_tokens=60,  # official, ViT: 50 SSv2-Small and HMDB51 (60 at 5 shots), 70 UCF101, 80 Kinetics; ResNet-50: 60
    sharpen=True,
    negative=True,
    position_scale=0.1,
    temperature_heads=8,
    dropout=0.1,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=5e-4),  # official: SGD, ResNet-50 1e-3, ViT 1e-4 (SSv2-Small 5e-4)
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
