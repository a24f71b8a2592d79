"""SimpleShot L2N, training-free: the nearest class mean of normalised mean frames.

Command: fsar-bench run methods=simpleshot_l2n
"""

title = "SimpleShot L2N"
paper = "Wang et al., arXiv 1911.04623"
certainty = "declared"
method = dict(type="SimpleShot", centering="l2n")
