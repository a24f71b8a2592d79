"""The published settings of TRX: the command in the README and the defaults of `run.py`, on ImageNet's ResNet-50.

The README refers to the paper for other datasets than Something-Something. The file that it reads there
(`somethingsomethingv2_256x256q5_7l8.zip`) holds eight frames per clip of 256 x 256 pixels: the scripts of the authors' later
repository (`scripts/extract_ssv2.py`, `scripts/shrink_dataset.py`, @3687f3a) squeeze frames and keep linspace(0, n - 1).
"""

source = "tobyperrett/trx @390c20a"
encoder = "resnet50"
not_taken = [
    "evaluation, the same for all methods: test frames are linspace(1, n - 2) where more than eight were kept",
    "test frames are squeezed to 256 x 256 on Something-Something",
    "the checkpoint after 75,000 episodes, which its command names, is tested (here val chooses)",
    "the first step has 15 episodes, because the code counts from 1",
]
common = dict(
    train=dict(
        way=5,
        shot=5,  # --shot
        query_per_class=5,
        accumulate=16,  # --tasks_per_batch
        optimizer=dict(type="SGD", lr=1e-3),  # --opt and --learning_rate; no momentum, no weight decay
        scheduler=dict(type="ConstantLR", factor=1.0),  # --sch 1000000: no step is ever reached
        clip_grad=None,
        amp="off",
        crop="random",  # 224 of Resize(256)
        flip="on",  # RandomHorizontalFlip of every clip, on every dataset
        jitter=0.0,
        grayscale=0.0,
        augmented="all",
        loss_scale=25.0,  # utils.loss sums over the 25 queries
    ),
    backbone=dict(train_batch_norm=True, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),  # ToTensor alone; model.train()
)
shots = [dict(shot=5)]
datasets = dict(
    ssv2_full=dict(
        train=dict(
            episodes=74_992,  # 4,687 steps, as many as after --test_iters 75000; the default of -i is 100,020
            sampling="ends",
            squash=True,
        )
    )
)
