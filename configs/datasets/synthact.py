"""SynthAct (synthetic, built in): motions, changes, people and scenes together."""

title = "SynthAct"
synthetic = True
dataset = dict(name="synthact", annotation="builtin:synthact", groups=None)
backbone = "synthact_clip"
controls = ["zero_shot", "prototype_frozen"]
whole_clips_up_to = 64  # clips are short: all frames are kept in the cache, so that a training episode decodes nothing
train = dict(
    episodes=100,
    shot=1,
    query_per_class=2,
    accumulate=2,
    val_episodes=400,
    val_interval=50,
    optimizer=dict(lr=1e-4),
    crop="center",  # frames are square: the crop is the whole frame
    flip="off",  # classes have a direction: "Pushing something from left to right"
    jitter=0.0,  # colours tell classes of scenes
    grayscale=0.0,
)
methods = dict(  # sizes that suit a small encoder; rates and weights of losses come from `fsar-bench tune`
    ma_clip=dict(method=dict(ffn_width=512)),
    ma_clip_full=dict(method=dict(ffn_width=512)),
    clip_fsar=dict(method=dict(ffn_width=512)),
    cpm2c=dict(method=dict(ffn_width=512)),
    task_adapter=dict(method=dict(layers=2)),  # not half of the six blocks: adapted ones run again in every episode
    ts_fsar=dict(method=dict(powers=(0.4, 0.2, 0.4), distillation_temperature=4.0)),  # SSv2-Small's
)
