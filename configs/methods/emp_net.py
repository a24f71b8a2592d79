"""EMP-Net: reasoning over tokens of three depths of frozen CLIP, in three streams with text (ECCV 2024, re-implementation).

Command: fsar-bench run methods=emp_net
"""

title = "EMP-Net"
paper = "ECCV 2024"
certainty = "code run"
method = dict(
    type="EMPNet",
    matcher=dict(type="OTAM", smoothing=0.5, bidirectional=True, epsilon=0.01),
    heads=4,
    inner_ratio=0.5,
    ffn_ratio=0.25,
    dropout=0.2,
    ffn_dropout=0.05,
    top_patches=49,
    top_frames=2,
    text_epsilon=0.0,  # official: 0.01, with eight times the stored features
    double_softmax=True,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-3, weight_decay=1e-3),  # official: 1e-3 SSv2-Full, 1e-4 HMDB51 and Kinetics
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
search = {"train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True)}
