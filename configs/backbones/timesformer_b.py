"""TimeSformer-B (ICML 2021), supervised on Kinetics-400, through transformers: 8 frames, 8 features. No text encoder.

Needs `pip install 'fsar-bench[video]'`. Its labels overlap with the test classes of Kinetics-100.
"""

backbone = dict(
    type="TransformersVideoBackbone",
    model="timesformer",
    pretrained="hf-hub:facebook/timesformer-base-finetuned-k400",
    frames=None,  # the protocol's
    resize=256,
    crop=224,
    pretraining="Kinetics-400 (supervised)",
)
