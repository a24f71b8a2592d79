"""Task-Adapter: adapters across the videos of a set in the last blocks of frozen CLIP (ACM MM 2024, re-implementation).

Command: fsar-bench run methods=task_adapter episodes=1000   (inductive: method.query_group=1)
The adapted blocks run again for the videos of every episode: 10,000 episodes take as long as 50,000 clips with ViT-B.
"""

title = "Task-Adapter"
paper = "arXiv 2408.00249"
certainty = "code run"
method = dict(
    type="TaskAdapter",
    layers=None,  # half of the blocks: 6 of ViT-B's 12, as in the official code
    adapter_ratio=0.25,
    joint_scale=1.0,
    scale=64.0,
    temporal_embedding=True,
    query_group=None,  # official, and transductive: all queries of an episode attend to each other
    frames=8,  # filled from the protocol
)
# One query per class as in the official code: the set of queries then has the size that it has in testing.
train = dict(
    episodes=20_000,
    query_per_class=1,
    accumulate=16,
    optimizer=dict(type="SGD", lr=1e-3, weight_decay=0.0),
    clip_grad=None,  # official
    val_interval=1008,
    crop="random",
)
search = {"train.optimizer.lr": dict(low=1e-4, high=1e-1, log=True)}  # of SGD, which needs more than AdamW
