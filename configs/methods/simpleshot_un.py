"""SimpleShot UN, training-free: the nearest class mean of mean frames as they are.

Command: fsar-bench run methods=simpleshot_un
"""

title = "SimpleShot UN"
paper = "Wang et al., arXiv 1911.04623"
certainty = "declared"
method = dict(type="SimpleShot", centering="un")
