"""Bi-MHM, training-free: frozen frame features, set-to-set matching regardless of their order.

Command: fsar-bench run methods=bi_mhm_frozen

Followed: HyRSM's official code for the metric.
Differs: frozen frame features of any backbone; that code trains them.
Unknown: nothing.
"""

title = "Bi-MHM, frozen"
paper = "Wang et al., CVPR 2022 (the metric of HyRSM alone)"
certainty = "code run"
method = dict(type="MetricMethod", matcher=dict(type="BiMHM", epsilon=0.0), tune="none", scale=1.0)
