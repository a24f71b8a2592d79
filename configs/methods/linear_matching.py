"""Linear matching: visual encoder fine-tuned with a learned weight for each pair of frames (arXiv 2303.16084).

Command: fsar-bench run methods=linear_matching

Followed: the official code (jbertrand89/matching_based_fsar): 64 weights of the cosines, no bias, mean over shots,
temperature 10.
Differs: the image encoder is fine-tuned; there a projection is trained on features of R(2+1)D. The weights start equal
(there at random), and the factor of the temperature is not learned.
Unknown: learning rate per backbone; the training is that of the trx row.
"""

title = "Linear matching"
paper = "Bertrand et al., arXiv 2303.16084"
certainty = "code run"
method = dict(type="MetricMethod", matcher=dict(type="LinearPairs", frames=8, epsilon=0.01), tune="visual", scale=10.0)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
