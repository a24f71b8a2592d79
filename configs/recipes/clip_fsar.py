"""The published settings of CLIP-FSAR: one file per dataset and shot in `configs/projects/CLIPFSAR/`, on CLIP's ResNet-50.

Iterations there are per GPU: an iteration is four episodes, on four GPUs.
"""

_hmdb51 = [
    "draw_sword", "ride_bike", "shake_hands", "shoot_bow",
]  # fmt: skip
_ucf101 = [
    "Apply Eye Makeup", "Archery", "Baby Crawling", "Balance Beam", "Band Marching", "Baseball Pitch", "Basketball",
    "Basketball Dunk", "Bench Press", "Biking", "Billiards", "Blow DryHair", "Blowing Candles", "Body Weight Squats",
    "Bowling", "Boxing Punching Bag", "Boxing Speed Bag", "Breast Stroke", "Brushing Teeth", "Clean And Jerk",
    "Cliff Diving", "Cricket Bowling", "Cutting in Kitchen", "Diving", "Drumming", "Fencing", "Field Hockey Penalty",
    "Floor Gymnastics", "Frisbee Catch", "Front Crawl", "Golf Swing", "Haircut", "Hammering", "Handstand Walking",
    "Head Massage", "Horse Race", "Hula Hoop", "Ice Dancing", "Javelin Throw", "Juggling Balls", "Jump Rope",
    "Jumping Jack", "Kayaking", "Knitting", "Long Jump", "Lunges", "Military Parade", "Mixing", "Mopping Floor",
    "Nunchucks", "Parallel Bars", "Pizza Tossing", "Playing Cello", "Playing Dhol", "Playing Flute", "Playing Piano",
    "Playing Sitar", "Playing Tabla", "Playing Violin", "Pole Vault", "Pommel Horse", "Pull Ups", "Punch",
    "Push Ups", "Rafting", "Rock Climbing Indoor", "Rope Climbing", "Rowing", "Salsa Spin", "Shaving Beard",
    "Skiing", "Skijet", "Sky Diving", "Soccer Juggling", "Soccer Penalty", "Still Rings", "Sumo Wrestling",
    "Surfing", "Swing", "Table Tennis Shot", "Tai Chi", "Tennis Swing", "Throw Discus", "Trampoline Jumping",
    "Typing", "Uneven Bars", "Volleyball Spiking", "Walking WithDog", "Wall Pushups", "Writing On Board", "Yo Yo",
]  # fmt: skip
_ssv2_small = [
    "Approaching [something] with your camera", "Attaching [something] to [something]",
    "Bending [something] until it breaks", "Burying [something] in [something]",
    "Dropping [something] into [something]", "Dropping [something] onto [something]",
    "Failing to put [something] into [something] because [something] does not fit",
    "Holding [something] behind [something]", "Holding [something] next to [something]",
    "Holding [something] over [something]", "Laying [something] on the table on its side, not upright",
    "Letting [something] roll along a flat surface", "Letting [something] roll down a slanted surface",
    "Letting [something] roll up a slanted surface, so it rolls back down",
    "Lifting a surface with [something] on it until it starts sliding down",
    "Lifting up one end of [something] without letting it drop down",
    "Lifting up one end of [something], then letting it drop down", "Moving [part] of [something]",
    "Moving [something] across a surface until it falls down",
    "Moving [something] across a surface without it falling down",
    "Moving [something] and [something] away from each other",
    "Moving [something] and [something] so they collide with each other", "Moving [something] towards the camera",
    "Moving away from [something] with your camera", "Opening [something]", "Piling [something] up",
    "Plugging [something] into [something]", "Poking [something] so it slightly moves",
    "Poking [something] so lightly that it doesn't or almost doesn't move",
    "Poking [something] so that it spins around", "Poking a hole into [some substance]",
    "Poking a hole into [something soft]", "Poking a stack of [something] so the stack collapses",
    "Poking a stack of [something] without the stack collapsing", "Pouring [something] into [something]",
    "Pretending or failing to wipe [something] off of [something]",
    "Pretending or trying and failing to twist [something]",
    "Pretending to open [something] without actually opening it", "Pretending to poke [something]",
    "Pretending to put [something] on a surface", "Pretending to put [something] onto [something]",
    "Pretending to put [something] underneath [something]", "Pretending to spread air onto [something]",
    "Pretending to take [something] from [somewhere]", "Pretending to turn [something] upside down",
    "Pulling [something] from right to left", "Pulling [something] onto [something]",
    "Pulling two ends of [something] so that it separates into two pieces", "Pushing [something] off of [something]",
    "Pushing [something] so that it almost falls off but doesn't",
    "Pushing [something] so that it falls off the table", "Pushing [something] so that it slightly moves",
    "Pushing [something] with [something]", "Putting [number of] [something] onto [something]",
    "Putting [something that cannot actually stand upright] upright on the table, so it falls on its side",
    "Putting [something] behind [something]", "Putting [something] in front of [something]",
    "Putting [something] into [something]", "Putting [something] next to [something]",
    "Putting [something] on a surface",
    "Putting [something] on the edge of [something] so it is not supported and falls down",
    "Putting [something] onto a slanted surface but it doesn't glide down",
    "Putting [something] upright on the table", "Removing [something], revealing [something] behind",
    "Rolling [something] on a flat surface", "Scooping [something] up with [something]",
    "Showing [something] behind [something]", "Showing [something] to the camera",
    "Showing that [something] is empty", "Spilling [something] behind [something]",
    "Spilling [something] next to [something]", "Spinning [something] that quickly stops spinning",
    "Spreading [something] onto [something]", "Squeezing [something]", "Stacking [number of] [something]",
    "Taking [one of many similar things on the table]", "Taking [something] out of [something]",
    "Throwing [something] in the air and catching it",
    "Tilting [something] with [something] on it slightly so it doesn't fall down",
    "Tipping [something] with [something in it] over, so [something in it] falls out",
    "Touching (without moving) [part] of [something]", "Turning the camera left while filming [something]",
    "Twisting (wringing) [something] wet until water comes out", "Twisting [something]", "Uncovering [something]",
    "Unfolding [something]", "Wiping [something] off of [something]", "[Something] falling like a feather or paper",
]  # fmt: skip
_ssv2_full = [
    "Approaching [something] with your camera", "Bending [something] until it breaks", "Closing [something]",
    "Covering [something] with [something]", "Digging [something] out of [something]",
    "Dropping [something] behind [something]", "Dropping [something] in front of [something]",
    "Dropping [something] into [something]", "Dropping [something] next to [something]",
    "Dropping [something] onto [something]",
    "Failing to put [something] into [something] because [something] does not fit", "Folding [something]",
    "Holding [something]", "Holding [something] next to [something]",
    "Letting [something] roll along a flat surface", "Letting [something] roll down a slanted surface",
    "Lifting [something] with [something] on it",
    "Lifting a surface with [something] on it but not enough for it to slide down",
    "Lifting up one end of [something] without letting it drop down",
    "Moving [something] across a surface until it falls down",
    "Moving [something] and [something] closer to each other",
    "Moving [something] and [something] so they collide with each other", "Moving [something] down",
    "Moving [something] up", "Moving away from [something] with your camera", "Picking [something] up",
    "Plugging [something] into [something]", "Poking [something] so lightly that it doesn't or almost doesn't move",
    "Poking [something] so that it falls over", "Poking a hole into [something soft]",
    "Poking a stack of [something] without the stack collapsing", "Pouring [something] into [something]",
    "Pouring [something] into [something] until it overflows", "Pouring [something] onto [something]",
    "Pouring [something] out of [something]", "Pretending to be tearing [something that is not tearable]",
    "Pretending to close [something] without actually closing it",
    "Pretending to open [something] without actually opening it", "Pretending to pick [something] up",
    "Pretending to put [something] behind [something]", "Pretending to put [something] into [something]",
    "Pretending to put [something] next to [something]", "Pretending to put [something] underneath [something]",
    "Pretending to spread air onto [something]", "Pretending to sprinkle air onto [something]",
    "Pretending to take [something] out of [something]", "Pulling [something] from left to right",
    "Pulling [something] onto [something]", "Pulling [something] out of [something]",
    "Pulling two ends of [something] so that it gets stretched",
    "Pulling two ends of [something] so that it separates into two pieces", "Pushing [something] from left to right",
    "Pushing [something] from right to left", "Pushing [something] off of [something]",
    "Pushing [something] so that it falls off the table", "Pushing [something] so that it slightly moves",
    "Putting [number of] [something] onto [something]",
    "Putting [something similar to other things that are already on the table]",
    "Putting [something] and [something] on the table", "Putting [something] onto [something]",
    "Putting [something] onto a slanted surface but it doesn't glide down",
    "Removing [something], revealing [something] behind", "Showing [something] behind [something]",
    "Showing [something] next to [something]", "Showing a photo of [something] to the camera",
    "Showing that [something] is empty", "Spilling [something] behind [something]",
    "Spilling [something] next to [something]", "Spilling [something] onto [something]",
    "Spinning [something] that quickly stops spinning", "Spreading [something] onto [something]",
    "Squeezing [something]", "Stuffing [something] into [something]", "Taking [something] from [somewhere]",
    "Taking [something] out of [something]", "Tearing [something] into two pieces",
    "Throwing [something] in the air and letting it fall",
    "Tilting [something] with [something] on it slightly so it doesn't fall down",
    "Tilting [something] with [something] on it until it falls off", "Tipping [something] over",
    "Tipping [something] with [something in it] over, so [something in it] falls out",
    "Turning the camera downwards while filming [something]", "Turning the camera left while filming [something]",
    "Turning the camera upwards while filming [something]",
    "Twisting (wringing) [something] wet until water comes out", "Twisting [something]", "Uncovering [something]",
    "[Something] colliding with [something] and both are being deflected",
]  # fmt: skip

source = "alibaba-mmai-research/CLIP-FSAR @30cf0a8"
encoder = "rn50"
not_taken = [
    "evaluation, the same for all methods: test frames are drawn at random too (one per segment; on Kinetics equidistant)",
    "test frames are squeezed to 256 x 256",
    "the checkpoint is chosen on test, at the tested number of shots (here on val, at that of the training)",
    "training frames are squeezed in one step (here their short side is resized first, so the long side is resized twice)",
    "the classes of val, which the suite chooses checkpoints on, have no texts there and keep the suite's",
]
common = dict(
    train=dict(
        shot=1,  # the 5-shot configs too
        way=5,
        query_per_class=5,
        accumulate=16,  # BATCH_SIZE_PER_TASK 4 on NUM_GPUS 4
        optimizer=dict(
            type="Adam", lr=1e-4, betas=[0.9, 0.999], weight_decay=1e-3
        ),  # OPTIMIZER.WEIGHT_DECAY: SOLVER's is not read
        no_decay=["bn", "norm", "embd", "cls_token"],  # models/utils/optimizer.py; BN.WEIGHT_DECAY 0
        clip_grad=None,  # CLIP_GRAD_NORM stands in no config
        amp="off",
        crop="random",  # TRAIN_CROP_SIZE 224 of TRAIN_JITTER_SCALES [256, 256]
        squash=True,
        flip="off",
        jitter=0.0,
        grayscale=0.0,
        augmented="all",
        sampling="whole_segments",  # SAMPLING_RATE 50, datasets/base/base_dataset.py
    ),
    method=dict(class_epsilon=0.01),  # models/base/few_shot.py:2785
    backbone=dict(train_batch_norm=True),  # BN.FREEZE false
)
shots = [
    dict(shot=1, method=dict(merge_before=False)),
    dict(shot=5, method=dict(merge_before=True)),  # MERGE_BEFORE
]
datasets = dict(
    hmdb51=dict(
        train=dict(
            optimizer=dict(lr=1e-5),
            episodes=20_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=700,
                steps=[0, 4, 6],
                factors=[1.0, 0.1, 0.01],
                start=1e-6 / 1e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=1.2),
        class_texts=_hmdb51,
    ),
    ucf101=dict(
        train=dict(
            optimizer=dict(lr=2e-6),
            episodes=12_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=600,
                steps=[0, 4, 6],
                factors=[1.0, 0.1, 0.01],
                start=1e-7 / 2e-6,
                episodes=4,
            ),
        ),
        method=dict(class_weight=1.5),
        class_texts=_ucf101,
        shots=[  # MEAN and STD stand in a block that is not read
            dict(shot=5, backbone=dict(mean=[0.45, 0.45, 0.45], std=[0.225, 0.225, 0.225]))
        ],
    ),
    ssv2_small=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=120_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=2000,
                steps=[0, 4, 6],
                factors=[1.0, 0.1, 0.01],
                start=2e-5 / 5e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=3.0),
        class_texts=_ssv2_small,
    ),
    ssv2_full=dict(
        train=dict(
            optimizer=dict(lr=5e-5),
            episodes=120_000,
            scheduler=dict(
                type="DoubleSpeedSteps",
                epoch=4000,
                steps=[0, 4, 6],
                factors=[1.0, 0.1, 0.01],
                start=1e-5 / 5e-5,
                episodes=4,
            ),
        ),
        method=dict(class_weight=3.0),
        class_texts=_ssv2_full,
    ),
)
datasets["kinetics100@clip_fsar"] = dict(
    train=dict(
        optimizer=dict(lr=1e-5),
        episodes=20_000,
        scheduler=dict(
            type="DoubleSpeedSteps", epoch=250, steps=[0, 6, 9], factors=[1.0, 0.1, 0.01], start=5e-6 / 1e-5, episodes=4
        ),
        flip="on",  # SUPPORT_QUERY_DIFF: the queries alone
        jitter=0.5,
        grayscale=0.3,
        augmented="queries",
        sampling="stride",  # SAMPLING_RATE 35
        stride=35,
    ),
    method=dict(class_weight=1.5),
)
