"""OTAM, training-free: frozen frame features with ordered temporal alignment (CLIP-Freeze).

Command: fsar-bench run methods=otam_frozen

Followed: CLIP-FSAR's rows named CLIP-Freeze: frozen image encoder, frame features, an alignment metric, no text.
Differs: frozen frame features of any backbone, on the suite's episodes.
Unknown: the metric of these rows; OTAM with lambda 0.1 is assumed.
"""

title = "OTAM, frozen"
paper = "Cao et al., CVPR 2020"
certainty = "code run"
method = dict(
    type="MetricMethod",
    matcher=dict(type="OTAM", smoothing=0.1, bidirectional=True, epsilon=0.01),
    tune="none",
    scale=1.0,
)
