"""ActionCLIP: CLIP with a temporal transformer, fine-tuned with KL divergences both ways (arXiv 2109.08472, settings declared).

Command: fsar-bench run methods=actionclip method.mode=visual,text,product (one training for all three)

Re-implementation after arXiv 2109.08472, settings declared.
Followed: six transformer blocks over the frames with learned positions and a skip connection, the mean of the frames, the
scaled cosine to texts, and KL divergences from softmax(10 * one-hot) in both directions.
Differs: texts are fixed features of one prompt, so that the image tower alone is trained (there both, with 16 prompts). Videos
are compared with the texts of all training classes, and the texts of the episode's classes with its videos (there both within a
batch). The factor of the cosine is CLIP's and fixed. One learning rate for everything.
Unknown: learning rate, weight decay, start of the positions, and a few-shot test with supports: modes, matcher and the weight in
the product are declared.
"""

title = "ActionCLIP"
paper = "arXiv 2109.08472"
certainty = "declared"
method = dict(
    type="VideoText",
    matcher=dict(type="CosinePrototype", temperature=100.0),
    mode="visual",
    text_weight=0.5,
    tune="visual",
    temperature=None,
    normalise_frames=False,
    temporal_layers=6,
    frames=8,  # filled with the frames of the protocol
    label_sharpness=10.0,
)
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=5e-6, weight_decay=1e-3),
    val_interval=1008,
    crop="random",
    flip="if_allowed",
)
