"""BiLSTM pooling of frozen frame features in front of cosine prototypes (re-implementation).

Command: fsar-bench run methods=bilstm
"""

title = "BiLSTM"
paper = "after Schuster and Paliwal, 1997"
certainty = "declared"
method = dict(type="BiLSTM", tune="none", scale=10.0)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-3, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
search = {"train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True)}
