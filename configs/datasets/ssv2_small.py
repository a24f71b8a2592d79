"""Something-Something V2, Small (64 / 12 / 24 classes of 100 clips; Zhu and Yang, ECCV 2018).

Prepare: fsar-bench data import ssv2_small --lists DIR, then fsar-bench data prepare ssv2_small --root DIR
Per-method values are those of the official configs (CLIP-FSAR, HyRSM, MoLo) on ResNet-50, whose other settings `recipe=official`
takes (configs/recipes); their ViT settings are not published.
"""

title = "SSv2-Small"
dataset = dict(name="ssv2_small", annotation="prepared:ssv2_small")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=False)  # classes have a side: "Pulling something from right to left"
methods = dict(
    clip_fsar=dict(method=dict(class_weight=3.0), train=dict(optimizer=dict(lr=5e-5))),
    hyrsm=dict(method=dict(class_weight=0.15), train=dict(optimizer=dict(lr=1e-4))),
    molo=dict(method=dict(class_weight=0.15, reconstruction_weight=0.2), train=dict(optimizer=dict(lr=1e-4))),
    hyrsm_plusplus=dict(method=dict(class_weight=0.2), train=dict(optimizer=dict(lr=1e-4))),
    team=dict(method=dict(num_tokens=50)),  # ViT-B/16
    ts_fsar=dict(  # ViT-B/16, 1 shot
        method=dict(
            powers=(0.4, 0.2, 0.4),
            adapter_share=1.6,
            class_weight=2.0,
            side_text_weight=0.1,
            clip_weight=0.1,
            distillation_temperature=4.0,
        ),
        train=dict(optimizer=dict(lr=2.5e-4)),
    ),
)
