"""The published settings of HyRSM: one file per dataset and shot in `configs/projects/hyrsm/`, on ImageNet's ResNet-50.

Iterations there are per GPU: an iteration is four episodes, on four GPUs.
"""

source = "alibaba-mmai-research/HyRSM @82100b6"
encoder = "resnet50"
not_taken = [
    "evaluation, the same for all methods: test frames are drawn at random too (one per segment; on Kinetics equidistant)",
    "test frames are squeezed to 256 x 256",
    "the checkpoint is chosen on test (here on val)",
    "training frames are squeezed in one step (here their short side is resized first, so the long side is resized twice)",
    "the first batch norm of the ResNet has weight decay, because its name there has no 'bn'",
]
common = dict(
    train=dict(
        way=5,
        query_per_class=7,
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
    backbone=dict(
        train_batch_norm=True, mean=[0.45, 0.45, 0.45], std=[0.225, 0.225, 0.225]
    ),  # BN.FREEZE false, DATA.MEAN, STD
)
shots = [
    dict(shot=1, train=dict(shot=1, query_per_class=7)),
    dict(shot=2, train=dict(shot=2, query_per_class=6)),
    dict(shot=3, train=dict(shot=3, query_per_class=5)),
    dict(shot=4, train=dict(shot=4, query_per_class=4)),
    dict(shot=5, train=dict(shot=5, query_per_class=3)),
]
datasets = dict(
    hmdb51=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=8_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=300,
                steps=[0, 2, 3, 7],
                factors=[1.0, 0.5, 0.1, 0.01],
                start=1e-5 / 5e-5,
                episodes=4,
            ),
            accumulate=8,  # BATCH_SIZE_PER_TASK 2
            loss_scale=0.5,  # divided by BATCH_SIZE 4 all the same: weight decay counts twice
        ),
        method=dict(class_weight=0.15, input_scale=10.0, position_scale=1.0),
    ),
    ucf101=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=10_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=700,
                steps=[0, 3, 5, 7],
                factors=[1.0, 0.5, 0.1, 0.01],
                start=1e-5 / 5e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.15, input_scale=10.0, position_scale=1.0),
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
        method=dict(class_weight=0.15, input_scale=10.0, position_scale=1.0),
    ),
    ssv2_full=dict(
        train=dict(
            optimizer=dict(lr=1e-4),
            episodes=160_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=3000,
                steps=[0, 6, 9],
                factors=[1.0, 0.1, 0.01],
                start=2e-5 / 1e-4,
                episodes=4,
            ),
        ),
        method=dict(class_weight=0.6, input_scale=10.0, position_scale=1.0),
    ),
)
datasets["kinetics100@clip_fsar"] = dict(
    train=dict(
        optimizer=dict(lr=2.2e-5),
        episodes=4_800,
        scheduler=dict(
            type="DoubleSpeedSteps",
            epoch=100,
            steps=[0, 4, 6, 9],
            factors=[1.0, 0.5, 0.1, 0.05],
            start=5e-6 / 2.2e-5,
            episodes=4,
        ),
        sampling="stride",  # SAMPLING_RATE 35
        stride=35,
    ),
    method=dict(class_weight=0.4, input_scale=2048.0, position_scale=0.01),
)
