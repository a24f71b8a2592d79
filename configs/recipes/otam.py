"""Settings of OTAM in the TRX authors' code base: `scripts/examples.md` and the defaults of `run.py`, on a ResNet-50.

OTAM's own authors published no code. The data folder of the example (`somethingsomethingv2_256x256q5_7l8`) holds eight frames
per clip of 256 x 256 pixels, as `scripts/extract_ssv2.py` and `scripts/shrink_dataset.py` make them.
"""

source = "tobyperrett/few-shot-action-recognition @3687f3a"
encoder = "resnet50"
not_taken = [
    "evaluation, the same for all methods: test frames are linspace(0, n - 1)",
    "test frames are squeezed to 256 x 256",
    "the last checkpoint is tested (here val chooses)",
]
common = dict(
    train=dict(
        way=5,
        shot=5,  # --shot
        query_per_class=5,
        accumulate=1,  # --tasks_per_batch
        optimizer=dict(type="SGD", lr=1e-3),  # --opt and --learning_rate; no momentum, no weight decay
        scheduler=dict(type="ConstantLR", factor=1.0),  # --sch 1000000: no step is ever reached
        clip_grad=None,
        amp="off",
        crop="random",  # 224 of Resize(256)
        flip="on",  # RandomHorizontalFlip of every clip, on every dataset
        jitter=0.0,
        grayscale=0.0,
        augmented="all",
    ),
    backbone=dict(train_batch_norm=True, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),  # ToTensor alone; model.train()
)
shots = [dict(shot=5)]
datasets = dict(ssv2_full=dict(train=dict(episodes=50_000, sampling="ends", squash=True)))
