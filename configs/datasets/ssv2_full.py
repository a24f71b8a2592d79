"""Something-Something V2, Full (64 / 12 / 24 classes, all clips; Cao et al., CVPR 2020).

Prepare: fsar-bench data import ssv2_full --lists DIR, then fsar-bench data prepare ssv2_full --root DIR
Per-method values are those of the official configs (CLIP-FSAR, HyRSM, MoLo) on ResNet-50, whose other settings `recipe=official`
takes (configs/recipes); their ViT settings are not published.
"""

title = "SSv2-Full"
dataset = dict(name="ssv2_full", annotation="prepared:ssv2_full")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
overlaps = dict(ssv2_small=768)  # number of its val and test clips that are in our train split
train = dict(allows_flip=False)  # "Pushing something from left to right" and "from right to left" are classes
methods = dict(
    clip_fsar=dict(method=dict(class_weight=3.0), train=dict(optimizer=dict(lr=5e-5))),
    hyrsm=dict(method=dict(class_weight=0.6), train=dict(optimizer=dict(lr=1e-4))),
    molo=dict(method=dict(class_weight=0.8, reconstruction_weight=0.4), train=dict(optimizer=dict(lr=1e-4))),
    hyrsm_plusplus=dict(
        method=dict(class_weight=0.6, temporal_window=1, temporal_balance=51.0), train=dict(optimizer=dict(lr=1e-4))
    ),
    ts_fsar=dict(  # ViT-B/16, 1 shot
        method=dict(
            powers=(0.5, 0.1, 0.4),
            temperature=100.0,
            adapter_share=1.6,
            class_weight=2.0,
            side_text_weight=4.0,
            clip_weight=0.01,
            distillation_temperature=4.0,
            dropout=0.0,
        ),
        train=dict(optimizer=dict(lr=2e-4)),
    ),
)
