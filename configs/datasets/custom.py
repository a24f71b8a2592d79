"""A custom dataset: a folder split/class/clip, or a CSV with the columns path, class, split and optionally text.

Prepare: fsar-bench data prepare custom --root DIR
"""

title = "Custom"
dataset = dict(name="custom", annotation="prepared:custom")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=False)  # true if mirroring a clip keeps its class
