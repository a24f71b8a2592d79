"""Cosine prototype, training-free; the order of frames is ignored: a control.

Command: fsar-bench run methods=prototype_frozen

Followed: normalised frames, mean over time and shots, cosine times 100.
Differs: the paper's metric is the squared Euclidean distance, and it trains the features.
Unknown: a published form for videos; the mean over frames and the factor 100, which ranks nothing, are ours.
"""

title = "Prototype, frozen"
paper = "Snell et al., NeurIPS 2017"
certainty = "declared"
method = dict(type="MetricMethod", matcher=dict(type="CosinePrototype", temperature=100.0), tune="none", scale=1.0)
