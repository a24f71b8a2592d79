"""Text-only zero-shot CLIP, no support: a control.

Command: fsar-bench run methods=zero_shot
"""

title = "Zero-shot text"
paper = "arXiv 2103.00020"
certainty = "code read"
method = dict(type="ZeroShot", temperature=100.0)
