"""ProtoMAML: a linear classifier that starts at the prototypes and adapts to the supports (ICLR 2020), in the place of MAML.

Command: fsar-bench run methods=proto_maml   (training-free: method.tune=none)
"""

title = "ProtoMAML"
paper = "arXiv 1903.03096; MAML: arXiv 1703.03400"
certainty = "declared"
method = dict(
    type="ProtoMAML",
    tune="visual",
    steps=10,
    inner_lr=0.01,
    second_order=False,
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
    "method.inner_lr": dict(low=1e-3, high=1.0, log=True),
}
