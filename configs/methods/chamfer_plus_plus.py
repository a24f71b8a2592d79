"""Chamfer++: visual encoder fine-tuned with joint Chamfer matching of projected triples of frames (arXiv 2303.16084).

Command: fsar-bench run methods=chamfer_plus_plus

Followed: the official code (jbertrand89/matching_based_fsar): ordered triples, a linear layer to 1152 and a LayerNorm, the
shots of a class as one long support, temperature 10 with a learned factor.
Differs: the image encoder is fine-tuned; there a projection is trained on features of R(2+1)D.
Unknown: learning rate per backbone; the training is that of the trx row.
"""

title = "Chamfer++"
paper = "Bertrand et al., arXiv 2303.16084"
certainty = "code read"
method = dict(
    type="MetricMethod",
    matcher=dict(type="TupleChamfer", tuples=3, out=1152, direction="both", joint=True, temperature=10.0, epsilon=0.01),
    tune="visual",
    scale=1.0,
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
