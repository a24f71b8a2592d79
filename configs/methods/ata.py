"""ATA: appearance and temporal alignment, prototypes refined on the supports (ECCV 2022, re-implementation).

Command: fsar-bench run methods=ata   (shares its training with ata_transductive)
"""

title = "ATA"
paper = "arXiv 2207.10785"
certainty = "code run"
method = dict(
    type="ATA",
    tune="visual",
    transductive=False,
    steps=50,
    step_size=1e-3,
    scale=10.0,
    sharpness=5.0,
    frame_weight=0.1,
    spread_weight=1.0,
    temporal_weight=0.05,
    dropout=0.5,
    frames=8,  # filled from the protocol
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-4, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
