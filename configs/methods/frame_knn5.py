"""kNN of frames with five voters per frame, training-free.

Command: fsar-bench run methods=frame_knn5
"""

title = "kNN of frames, k=5"
paper = "nearest neighbours"
certainty = "declared"
method = dict(type="FrameKNN", k=5)
