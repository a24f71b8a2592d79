"""The published settings of STRM: the commands in `scripts/run_strm_*.sh` and the defaults of `run.py`, on ImageNet's ResNet-50.

Each script tests one checkpoint, and its length is taken: after 75,000 episodes on Something-Something (the script ends after
75,010), after 10,000 on the others (it ends after 20,010). The data are those of TRX: see there for Something-Something's.
"""

source = "Anirudh257/strm @54368fe"
encoder = "resnet50"
not_taken = [
    "evaluation, the same for all methods: test frames are linspace(1, n - 2) where more than eight were kept",
    "test frames are squeezed to 256 x 256 on Something-Something",
    "the checkpoint after a fixed length, which its scripts name, is tested (here val chooses)",
    "the second head drops features at test too",
    "seeds are random",
    "the first step has 15 episodes, because the code counts from 1",
]
common = dict(
    train=dict(
        way=5,
        shot=5,  # --shot
        query_per_class=4,
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
        episodes=10_000,  # --test_iters
        loss_scale=20.0,  # utils.loss sums over the 20 queries
        sampling="jittered_ends",  # video_reader.py
        squash=False,
    ),
    method=dict(second_head="fixed"),  # outside the model that is optimised
    backbone=dict(train_batch_norm=True, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),  # ToTensor alone; model.train()
)
shots = [dict(shot=5)]
datasets = dict(
    hmdb51=dict(train=dict(optimizer=dict(lr=1e-4))),
    ucf101=dict(train=dict(optimizer=dict(lr=1e-4))),
    ssv2_full=dict(
        train=dict(
            optimizer=dict(lr=1e-3),
            episodes=74_992,  # 4,687 steps, as many as after 75,000 episodes
            sampling="ends",
            squash=True,
        )
    ),
)
datasets["kinetics100@cmn"] = dict(train=dict(optimizer=dict(lr=1e-4), query_per_class=5, loss_scale=25.0))
