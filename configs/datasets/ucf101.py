"""UCF101, the ARN split (70 / 10 / 21 classes, every clip of a class; Zhang et al., ECCV 2020).

Prepare: fsar-bench data prepare ucf101 --root DIR
Per-method values are those of the official configs (CLIP-FSAR, HyRSM, MoLo) on ResNet-50, whose other settings `recipe=official`
takes (configs/recipes); their ViT settings are not published.
"""

title = "UCF101"
dataset = dict(name="ucf101", annotation="prepared:ucf101")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=True)  # no class has a left or a right
methods = dict(
    clip_fsar=dict(method=dict(class_weight=1.5), train=dict(optimizer=dict(lr=2e-6))),
    hyrsm=dict(method=dict(class_weight=0.15), train=dict(optimizer=dict(lr=5e-5))),
    molo=dict(method=dict(class_weight=0.6, reconstruction_weight=0.2), train=dict(optimizer=dict(lr=5e-5))),
    hyrsm_plusplus=dict(method=dict(class_weight=0.6, temporal_weight=0.1), train=dict(optimizer=dict(lr=5e-5))),
    team=dict(method=dict(num_tokens=70)),  # ViT-B/16
)
