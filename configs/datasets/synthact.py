"""SynthAct (synthetic, built in): motions, changes, people and scenes together."""

title = "SynthAct"
synthetic = True
dataset = dict(name="synthact", annotation="builtin:synthact", groups=None)
backbone = "synthact_clip"
controls = ["zero_shot", "prototype_frozen"]
whole_clips_up_to = 64  # clips are short: all frames are kept in the cache, so that a training episode decodes nothing
train = dict(
    episodes=120,
    shot=1,
    query_per_class=2,
    accumulate=2,
    val_episodes=500,
    val_interval=40,
    optimizer=dict(lr=1e-4),
    crop="center",  # frames are square: the crop is the whole frame
    flip="off",  # classes have a direction: "Pushing something from left to right"
    jitter=0.0,  # colours tell classes of scenes
    grayscale=0.0,
)
methods = dict(
    ma_clip=dict(method=dict(ffn_width=512, alpha=0.1), train=dict(optimizer=dict(lr=1e-3))),
    ma_clip_full=dict(method=dict(ffn_width=512, alpha=0.1)),
    clip_fsar=dict(method=dict(ffn_width=512)),
    strm=dict(
        train=dict(optimizer=dict(lr=3e-4))
    ),  # better on val than 1e-4; for HyRSM and TRX 1e-4 was better than 3e-4
    # Methods of adapters and side networks learn at the rate of MA-CLIP's adapters; rates are not tuned, but for one look at val.
    aim=dict(train=dict(optimizer=dict(lr=1e-3))),
    ata=dict(train=dict(optimizer=dict(lr=1e-5))),  # at 1e-4 val falls below that of the frozen encoder
    ata_transductive=dict(train=dict(optimizer=dict(lr=1e-5))),
    cpm2c=dict(method=dict(ffn_width=512)),
    d2st=dict(train=dict(optimizer=dict(lr=1e-3))),
    emp_net=dict(train=dict(optimizer=dict(lr=1e-3))),
    # The last third of the blocks and few val episodes: the adapted blocks run again for every episode.
    task_adapter=dict(method=dict(layers=2), train=dict(optimizer=dict(lr=1e-2), query_per_class=1, val_episodes=100)),
    ts_fsar=dict(  # SSv2-Small's weights; temperature of the small CLIP, whose cosines spread more than CLIP's
        method=dict(
            powers=(0.4, 0.2, 0.4),
            temperature=20.0,
            class_weight=2.0,
            clip_weight=0.1,
            distillation_temperature=4.0,
        ),
        train=dict(optimizer=dict(lr=1e-3)),
    ),
)
