"""VideoMAE ViT-B (NeurIPS 2022), self-supervised on Kinetics-400, through transformers: 16 frames, 8 features. No text encoder.

Needs `pip install 'fsar-bench[video]'` and frames=16.
"""

backbone = dict(
    type="TransformersVideoBackbone",
    model="videomae",
    pretrained="hf-hub:MCG-NJU/videomae-base",
    frames=None,  # the protocol's
    resize=256,
    crop=224,
    pretraining="Kinetics-400 (VideoMAE, self-supervised)",
)
