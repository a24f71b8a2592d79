"""Compound prototypes: learned queries read a clip, matched one to one (after Huang et al., ECCV 2022, settings declared).

Command: fsar-bench run methods=huang
"""

title = "Huang et al."
paper = "arXiv 2207.05515"
certainty = "declared"
method = dict(
    type="CompoundPrototypes",
    tune="visual",
    whole=8,
    focused=8,
    focused_weight=1.0,
    diversity_weight=0.1,
    scale=10.0,
    heads=8,
    ffn_width=2048,
    position_scale=0.1,
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
