"""A VideoMAE with random weights at 64 px, for trials and tests of video encoders: two frames a feature, without meaning.

Needs `pip install 'fsar-bench[video]'`.
"""

backbone = dict(
    type="TransformersVideoBackbone",
    model="videomae",
    pretrained=None,
    frames=None,  # the protocol's
    resize=64,
    crop=64,
    architecture=dict(image_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96),
    pretraining="none (random weights)",
)
