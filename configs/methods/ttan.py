"""TTAN: the first version of TA2N, aligned in time alone (arXiv 2107.04782v1, re-implementation).

Command: fsar-bench run methods=ttan
"""

_base_ = "./ta2n.py"
title = "TTAN"
paper = "arXiv 2107.04782v1"
certainty = "declared"
method = dict(spatial=False)
