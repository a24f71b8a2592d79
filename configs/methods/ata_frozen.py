"""ATA, training-free: the official test procedure on frozen features, prototypes refined on the supports.

Command: fsar-bench run methods=ata_frozen

Followed: the inductive test of the official code (see methods=ata): 50 steps of Adam, softmaxes of both similarities.
Differs: the backbone is not trained.
"""

title = "ATA, frozen"
paper = "arXiv 2207.10785"
certainty = "code run"
method = dict(
    type="ATA",
    tune="none",
    transductive=False,
    steps=50,
    step_size=1e-3,
    scale=10.0,
    sharpness=5.0,
    frame_weight=0.1,
    spread_weight=1.0,
    frames=8,  # filled from the protocol
)
