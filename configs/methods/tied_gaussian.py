"""Tied Gaussian on frames, training-free: one covariance for all classes of an episode.

Command: fsar-bench run methods=tied_gaussian
"""

title = "Tied Gaussian"
paper = "linear discriminant analysis"
certainty = "declared"
method = dict(type="TiedGaussian", shrinkage=0.5, covariance="episode")
