"""CLIP RN50 (ModifiedResNet with attention pooling) with OpenAI's weights, through open_clip.

Only the text tower uses QuickGELU.
"""

backbone = dict(
    type="CLIPBackbone",
    model="RN50",
    pretrained="openai",
    quick_gelu=True,
    resize=256,
    crop=224,
    pretraining="CLIP (OpenAI, WIT-400M)",
    train_batch_norm=False,  # batch norm stays in eval mode while training
)
