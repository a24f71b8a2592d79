"""OTAM: visual encoder fine-tuned with ordered temporal alignment (CVPR 2020, on the chosen backbone).

Command: fsar-bench run methods=otam

Followed: the recurrence, both directions and the epsilon of the TRX authors' code base, lambda 0.1; class distance is the
mean over shots.
Differs: computed in the log domain, finite where that code overflows. Published numbers are of ImageNet ResNet-50 unless
said otherwise. That code base also flips Something-Something, whose classes have directions; here `train.flip=on` does, and
`recipe=official`.
Unknown: learning rate per backbone; the training of the paper itself, whose code is not public.
"""

title = "OTAM"
paper = "Cao et al., CVPR 2020"
certainty = "code run"
method = dict(
    type="MetricMethod",
    matcher=dict(type="OTAM", smoothing=0.1, bidirectional=True, epsilon=0.01),
    tune="visual",
    scale=1.0,
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
