"""NBNN, training-free: mean similarity of the query's frames to their nearest frames among all shots of a class.

Command: fsar-bench run methods=nbnn_frozen

Followed: naive Bayes with nearest neighbours; one term per frame of the query.
Differs: the cosine distance of frames instead of the squared distance of local descriptors.
Unknown: a published setting for few-shot videos; frames as descriptors and all shots in one set are ours.
"""

title = "NBNN, frozen"
paper = "Boiman et al., CVPR 2008"
certainty = "declared"
method = dict(
    type="MetricMethod",
    matcher=dict(type="Chamfer", direction="query", joint=True, epsilon=0.0),
    tune="none",
    scale=1.0,
)
