"""Linear probe on frames: a logistic regression on the support frames of each episode.

Command: fsar-bench run methods=linear_probe_frames
"""

title = "Linear probe, frames"
paper = "logistic regression, scikit-learn's convention"
certainty = "code run"
method = dict(type="LinearProbe", on="frames", loss_weight=1.0)
