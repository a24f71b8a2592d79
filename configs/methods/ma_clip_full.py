"""MA-CLIP with full fine-tuning instead of adapters: the RN50 rows of the paper, "Fine-tuned visual-only" of its table 4.

Command: fsar-bench run methods=ma_clip_full backbone=rn50
"""

_base_ = "./ma_clip.py"
title = "MA-CLIP, full fine-tuning"
certainty = "declared"
method = dict(tune="visual", multimodal=False, temporal=False, joint=False)
train = dict(optimizer=dict(lr=1e-5, weight_decay=1e-3))
search = {"train.optimizer.lr": dict(low=1e-6, high=1e-3, log=True)}
