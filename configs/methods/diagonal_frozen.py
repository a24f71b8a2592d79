"""Diagonal matching, training-free: frames in the same place are compared.

Command: fsar-bench run methods=diagonal_frozen

Followed: the official code (jbertrand89/matching_based_fsar) for the matching function and the mean over shots.
Differs: frozen frame features; there a projection is trained on features of R(2+1)D.
"""

title = "Diagonal matching, frozen"
paper = "Bertrand et al., arXiv 2303.16084"
certainty = "code run"
method = dict(type="MetricMethod", matcher=dict(type="Diagonal", epsilon=0.01), tune="none", scale=1.0)
