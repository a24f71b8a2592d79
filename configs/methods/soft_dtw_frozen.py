"""soft-DTW, training-free: dynamic time warping with a soft minimum over paths.

Command: fsar-bench run methods=soft_dtw_frozen

Followed: the recurrence of the paper.
Differs: cosine distance of learned features, where the paper averages and clusters time series.
Unknown: a published setting for few-shot videos; gamma 0.1, the cosine distance of frames and the mean over shots are ours.
"""

title = "soft-DTW, frozen"
paper = "Cuturi and Blondel, ICML 2017"
certainty = "declared"
method = dict(type="MetricMethod", matcher=dict(type="DTW", smoothing=0.1, epsilon=0.0), tune="none", scale=1.0)
