"""Kinetics-100 (64 / 12 / 24 classes of 100 clips), the lists of the CMN lineage; the other lineage is a separate dataset.

Prepare: fsar-bench data import kinetics100 --lists DIR, then fsar-bench data prepare kinetics100@cmn --root DIR
Per-method values are those of the official configs (CLIP-FSAR, HyRSM, MoLo), which used the other lineage, on ResNet-50;
their ViT settings are not published.
"""

title = "Kinetics-100, CMN lineage"
dataset = dict(name="kinetics100@cmn", annotation="prepared:kinetics100@cmn")
backbone = "vit_b_16"
controls = ["zero_shot", "prototype_frozen"]
train = dict(allows_flip=True)  # no class has a left or a right
methods = dict(
    clip_fsar=dict(
        method=dict(class_weight=1.5),
        train=dict(optimizer=dict(lr=1e-5), flip="if_allowed", jitter=0.5, grayscale=0.3, augmented="queries"),
    ),
    hyrsm=dict(
        method=dict(class_weight=0.4, input_scale=2048.0, position_scale=0.01), train=dict(optimizer=dict(lr=2.2e-5))
    ),
    molo=dict(
        method=dict(class_weight=0.1, reconstruction_weight=0.4, input_scale=2048.0, position_scale=0.02),
        train=dict(optimizer=dict(lr=2e-5)),
    ),
    ma_clip=dict(train=dict(episodes=1008, val_interval=112)),  # table 9 of the paper: 1,000 tasks
    hyrsm_plusplus=dict(method=dict(class_weight=0.1, temporal_weight=0.1), train=dict(optimizer=dict(lr=2.2e-5))),
    team=dict(method=dict(num_tokens=80)),  # ViT-B/16
)
