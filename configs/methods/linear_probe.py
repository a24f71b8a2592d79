"""Linear probe on videos: a logistic regression on the supports of each episode.

Command: fsar-bench run methods=linear_probe
"""

title = "Linear probe"
paper = "logistic regression, scikit-learn's convention"
certainty = "code run"
method = dict(type="LinearProbe", on="videos", loss_weight=1.0)
