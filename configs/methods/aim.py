"""AIM as a few-shot method: adapters in every block of a frozen ViT, without text (ICLR 2023, re-implementation).

Command: fsar-bench run methods=aim   (SSv2 in AIM: method.num_temporal_adapters=2 method.joint_scale=1.0)
"""

title = "AIM"
paper = "arXiv 2302.03024"
certainty = "code run"  # the image tower; matcher and training are declared
method = dict(
    type="AIM",
    matcher=dict(type="OTAM", smoothing=0.1, bidirectional=True, epsilon=0.01),  # declared: MA-CLIP's
    adapter_ratio=0.25,
    joint_scale=0.5,  # 1.0 on SSv2
    num_temporal_adapters=1,  # 2 on SSv2
    temporal_embedding=True,
    project=True,  # declared: as MA-CLIP; AIM reads the class token after the last LayerNorm
    frames=8,  # filled from the protocol
)
# Learning rate and weight decay are AIM's; episodes, accumulation, crop and flip are declared: MA-CLIP's.
train = dict(
    episodes=20_000,
    query_per_class=5,
    accumulate=16,
    optimizer=dict(lr=3e-4, weight_decay=0.05),
    val_interval=1008,
    crop="random",
)
search = {"train.optimizer.lr": dict(low=1e-5, high=1e-2, log=True)}
