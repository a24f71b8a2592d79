"""CLIP ViT-B/16 with OpenAI's weights (QuickGELU), through open_clip."""

backbone = dict(
    type="CLIPBackbone",
    model="ViT-B-16",
    pretrained="openai",
    quick_gelu=True,
    resize=256,
    crop=224,
    pretraining="CLIP (OpenAI, WIT-400M)",
)
