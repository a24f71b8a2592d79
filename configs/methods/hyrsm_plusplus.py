"""HyRSM++: HyRSM trained with temporal coherence of the frames of a video (arXiv 2301.03330, re-implementation).

Command: fsar-bench run methods=hyrsm_plusplus

Followed: the official code (alibaba-mmai-research/HyRSMPlusPlus): HyRSM's network and metric unchanged, and a loss on the frames
that the metric reads (the prototypes of every query, and the queries), which asks frames within a window to be near each other
and others to be apart; its weights, windows, class weights, positions and learning rates per dataset.
Differs: what differs for HyRSM (`hyrsm`): episodes, selection, optimiser, schedule and batches are the suite's. The official code
also flips the queries of Something-Something; here `train.flip=on` does.
Unknown: nothing; the code has a setting TEMPORAL_WEIGHT that it never reads.
"""

_base_ = "./hyrsm.py"
title = "HyRSM++"
paper = "arXiv 2301.03330"
certainty = "code run"
method = dict(
    temporal_weight=0.3,  # official: 0.3 SSv2, 0.2 HMDB51, 0.1 Kinetics and UCF101
    temporal_window=3,
    temporal_balance=23.0,
    temporal_far_weight=10.0,
)
