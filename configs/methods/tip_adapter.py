"""Tip-Adapter: zero-shot text plus a vote of the supports, training-free (ECCV 2022, by episode).

Command: fsar-bench run methods=tip_adapter   (alpha and beta chosen on val: method.weights=val)
"""

title = "Tip-Adapter"
paper = "arXiv 2207.09519"
certainty = "code read"
method = dict(type="TipAdapter", alpha=1.0, beta=5.5, weights="fixed", temperature=100.0)
