"""CLIP-FSAR: fine-tuned CLIP, video-text contrast, text-modulated prototypes (IJCV 2023, re-implementation).

Command: fsar-bench run methods=clip_fsar method.mode=visual,text,ensemble (one training for all three)
"""

title = "CLIP-FSAR"
paper = "arXiv 2303.02982"
certainty = "code run"
method = dict(
    type="CLIPFSAR",
    matcher=dict(
        type="OTAM", smoothing=0.5, bidirectional=True, epsilon=0.01
    ),  # the code's lambda; the paper family's is 0.1
    mode="visual",
    text_weight=0.9,
    class_weight=1.5,
    merge_before=False,
    tune="visual",
    ffn_width=2048,
    dropout=0.2,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-5, weight_decay=1e-3),
    val_interval=1008,
    crop="random",  # Kinetics also flips and recolours the queries
)
search = {
    "train.optimizer.lr": dict(low=1e-6, high=1e-3, log=True),
    "method.class_weight": dict(low=0.1, high=5.0, log=True),
}
