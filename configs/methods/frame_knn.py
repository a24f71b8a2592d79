"""kNN of frames, training-free: each query frame votes for the class of its nearest support frame.

Command: fsar-bench run methods=frame_knn
"""

title = "kNN of frames"
paper = "nearest neighbours"
certainty = "declared"
method = dict(type="FrameKNN", k=1)
