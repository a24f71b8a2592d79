"""Cosine prototype, training-free; the order of frames is ignored: a control.

Command: fsar-bench run methods=prototype_frozen

Followed: normalised frames, mean over time and shots, cosine times 100.
"""

title = "Prototype, frozen"
paper = "Snell et al., NeurIPS 2017"
certainty = "declared"
method = dict(type="MetricMethod", matcher=dict(type="CosinePrototype", temperature=100.0), tune="none", scale=1.0)
