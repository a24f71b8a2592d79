"""Tied Gaussian on frames, training-free, with the covariance within the training classes.

Command: fsar-bench run methods=tied_gaussian_train
"""

title = "Tied Gaussian, train covariance"
paper = "linear discriminant analysis"
certainty = "declared"
method = dict(type="TiedGaussian", shrinkage=0.5, covariance="train")
