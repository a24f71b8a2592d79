"""DTW, training-free: dynamic time warping of frozen frame features, with both ends fixed.

Command: fsar-bench run methods=dtw_frozen

Followed: the recurrence over steps in the query, in the support, or in both.
Differs: cosine distance of learned features instead of a distance of measurements.
Unknown: a published setting for few-shot videos, so settings are ours: smoothing 0 (a hard minimum), the cosine distance
of frames, and the mean over shots.
"""

title = "DTW, frozen"
paper = "Sakoe and Chiba, 1978"
certainty = "declared"
method = dict(type="MetricMethod", matcher=dict(type="DTW", smoothing=0.0, epsilon=0.0), tune="none", scale=1.0)
