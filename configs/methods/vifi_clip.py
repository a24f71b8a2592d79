"""ViFi-CLIP: CLIP fine-tuned on the mean of frames, tested by frames or class names (CVPR 2023, re-implementation).

Command: fsar-bench run methods=vifi_clip method.mode=visual,text,product (one training for all three)

Followed: the official code (muzairkhattak/ViFi-CLIP): the mean of the frames, the scaled cosine to the texts of all training
classes, and their cross-entropy; AdamW.
Differs: texts are fixed features, so that the image tower alone is trained (there both towers are, with the texts encoded
again in every step). Frames have unit length before their mean, so that `method.mode=text` is the zero-shot score of the tuned
tower (`method.normalise_frames=False` is the code's mean). The factor of the cosine is CLIP's and fixed. Training: the clips of
16 episodes per step; frames of the protocol (there 16 or 32); warm-up and cosine; 20,000 episodes (there 50 epochs).
Unknown: a few-shot test with supports: the paper trains on the supports. The modes, the matcher and the weight in the product
are declared.
"""

title = "ViFi-CLIP"
paper = "arXiv 2212.03640"
certainty = "code read"
method = dict(
    type="VideoText",
    matcher=dict(type="CosinePrototype", temperature=100.0),
    mode="visual",
    text_weight=0.5,
    tune="visual",
    temperature=None,
    normalise_frames=True,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=2e-6, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
