"""SimpleShot CL2N, training-free: the nearest class mean after centring with the mean of the train split.

Command: fsar-bench run methods=simpleshot_cl2n
"""

title = "SimpleShot CL2N"
paper = "Wang et al., arXiv 1911.04623"
certainty = "declared"
method = dict(type="SimpleShot", centering="cl2n")
