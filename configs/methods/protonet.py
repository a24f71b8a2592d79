"""ProtoNet: visual encoder fine-tuned with mean-frame prototypes and squared Euclidean distance (NeurIPS 2017).

Command: fsar-bench run methods=protonet   (the TRX authors' cosine of single shots: matcher=MeanCosine)

Followed: the paper's squared Euclidean distance to the mean of the shots; a video is the mean of its frames.
Training: the TRX authors' code base, whose baselines are of this kind: 16 episodes per step, 5 queries per class, random
crops of 224 pixels, half of all clips flipped.
Differs: frames come from the chosen backbone; published video rows are of ImageNet ResNet-50. Training: that code base also
flips Something-Something, whose classes have directions; here `train.flip=on` does. AdamW 1e-5 with warm-up and cosine instead
of SGD with a constant 1e-3; the gradient's norm is limited, there it is not; 20,000 episodes everywhere (there 60,000).
Unknown: learning rate per backbone.
"""

title = "ProtoNet"
paper = "Snell et al., NeurIPS 2017"
certainty = "code run"
method = dict(type="MetricMethod", matcher=dict(type="EuclideanPrototype", scale=1.0), tune="visual", scale=1.0)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=1e-5, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
