"""Joint Chamfer, training-free: Chamfer matching in both directions with the shots of a class as one long support.

Command: fsar-bench run methods=chamfer_joint_frozen

Followed: the official code (jbertrand89/matching_based_fsar) for the matching function and the joining of shots.
Differs: frozen frame features; there a projection is trained on features of R(2+1)D.
"""

title = "Joint Chamfer, frozen"
paper = "Bertrand et al., arXiv 2303.16084"
certainty = "code run"
method = dict(
    type="MetricMethod",
    matcher=dict(type="Chamfer", direction="both", joint=True, epsilon=0.01),
    tune="none",
    scale=1.0,
)
