"""EPIC-Kitchens-100 verbs, the HyRSM split (60 / 20 classes). It has no val split, so nothing can be trained or selected on it.

Prepare: fsar-bench data import epic_kitchens --lists DIR, then fsar-bench data prepare epic_kitchens --root DIR
"""

title = "EPIC-Kitchens-100, verbs"
dataset = dict(name="epic_kitchens", annotation="prepared:epic_kitchens")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=False)  # the mirror image of "screw" is "unscrew"
