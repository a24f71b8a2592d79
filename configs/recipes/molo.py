"""The published settings of MoLo: one file per dataset and shot in `configs/projects/MoLo/`, on ImageNet's ResNet-50.

Iterations there are per GPU: an iteration is four episodes, on four GPUs. RECONS_COFF is not divided by four as the other
losses are, so `reconstruction_weight` is four times as large.
"""

source = "alibaba-mmai-research/MoLo @f7f73b6"
encoder = "resnet50"
not_taken = [
    "evaluation, the same for all methods: test frames are drawn at random too (one per segment; on Kinetics equidistant)",
    "test frames are squeezed to 256 x 256",
    "the checkpoint is chosen on test, at the tested number of shots (here on val, at that of the training)",
    "training frames are squeezed in one step (here their short side is resized first, so the long side is resized twice)",
    "the first batch norm of the ResNet has weight decay, because its name there has no 'bn'",
]
common = dict(
    train=dict(
        shot=1,  # the 5-shot configs too
        way=5,
        query_per_class=6,
        accumulate=16,  # BATCH_SIZE_PER_TASK 4 on NUM_GPUS 4
        optimizer=dict(
            type="Adam", lr=1e-4, betas=[0.9, 0.999], weight_decay=1e-3
        ),  # OPTIMIZER.WEIGHT_DECAY: SOLVER's is not read
        no_decay=["bn", "norm", "embd", "cls_token"],  # models/utils/optimizer.py; BN.WEIGHT_DECAY 0
        clip_grad=None,  # CLIP_GRAD_NORM stands in no config
        amp="off",
        crop="random",  # TRAIN_CROP_SIZE 224 of TRAIN_JITTER_SCALES [256, 256]
        squash=True,
        flip="on",  # SUPPORT_QUERY_DIFF: the queries alone, on every dataset
        jitter=0.5,  # BRIGHTNESS, CONTRAST, SATURATION 0.5, HUE 0.25
        grayscale=0.3,
        augmented="queries",
        sampling="whole_segments",  # SAMPLING_RATE 50, datasets/base/base_dataset.py
    ),
    method=dict(motion_weight=0.3, contrast_weight=0.05),
    backbone=dict(
        train_batch_norm=True, mean=[0.45, 0.45, 0.45], std=[0.225, 0.225, 0.225]
    ),  # BN.FREEZE false, DATA.MEAN, STD
)
shots = [dict(shot=1), dict(shot=5)]
datasets = dict(
    hmdb51=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=8_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=500,
                steps=[0, 3, 5, 7],
                factors=[1.0, 0.5, 0.1, 0.01],
                start=1e-5 / 5e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.4, reconstruction_weight=0.2, input_scale=10.0, position_scale=1.0),
    ),
    ucf101=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=24_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=2000,
                steps=[0, 3, 6],
                factors=[1.0, 0.1, 0.01],
                start=1e-5 / 5e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.6, reconstruction_weight=0.2, input_scale=10.0, position_scale=1.0),
    ),
    ssv2_small=dict(
        train=dict(
            optimizer=dict(lr=1e-4),
            episodes=80_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=1500,
                steps=[0, 4, 8],
                factors=[1.0, 0.1, 0.01],
                start=2e-5 / 1e-4,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.15, reconstruction_weight=0.2, input_scale=10.0, position_scale=1.0),
    ),
    ssv2_full=dict(
        train=dict(
            optimizer=dict(lr=1e-4),
            episodes=200_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=6000,
                steps=[0, 6, 9],
                factors=[1.0, 0.1, 0.01],
                start=2e-5 / 1e-4,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.8, reconstruction_weight=0.4, input_scale=10.0, position_scale=1.0),
    ),
)
datasets["kinetics100@clip_fsar"] = dict(
    train=dict(
        optimizer=dict(lr=2e-5),
        episodes=20_000,
        scheduler=dict(
            type="DoubleSpeedSteps", epoch=350, steps=[0, 4, 6], factors=[1.0, 0.1, 0.01], start=5e-6 / 2e-5, episodes=4
        ),
        sampling="stride",  # SAMPLING_RATE 35
        stride=35,
    ),
    method=dict(class_weight=0.1, reconstruction_weight=0.4, input_scale=2048.0, position_scale=0.02),
)
