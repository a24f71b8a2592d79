"""HMDB51, the ARN split (31 / 10 / 10 classes, every clip of a class; Zhang et al., ECCV 2020).

Prepare: fsar-bench data prepare hmdb51 --root DIR
Per-method values are those of the official configs (CLIP-FSAR, HyRSM, MoLo) on ResNet-50, whose other settings `recipe=official`
takes (configs/recipes); their ViT settings are not published.
"""

title = "HMDB51"
dataset = dict(name="hmdb51", annotation="prepared:hmdb51")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=True)  # no class has a left or a right
methods = dict(
    clip_fsar=dict(method=dict(class_weight=1.2), train=dict(optimizer=dict(lr=1e-5))),
    hyrsm=dict(method=dict(class_weight=0.15), train=dict(optimizer=dict(lr=5e-5))),
    molo=dict(method=dict(class_weight=0.4, reconstruction_weight=0.2), train=dict(optimizer=dict(lr=5e-5))),
    hyrsm_plusplus=dict(
        method=dict(
            class_weight=0.15,
            temporal_weight=0.2,
            temporal_window=1,
            temporal_balance=51.0,
            temporal_far_weight=20.0,
            input_scale=50.0,
        ),
        train=dict(optimizer=dict(lr=5e-5)),
    ),
    team=dict(method=dict(num_tokens=50)),  # ViT-B/16
    ts_fsar=dict(method=dict(class_weight=1.0), train=dict(optimizer=dict(lr=2e-4))),  # ViT-B/16, 1 shot
)
