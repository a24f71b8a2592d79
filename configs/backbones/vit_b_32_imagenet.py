"""ViT-B/32 trained on ImageNet-1k (AugReg), through timm. No text encoder."""

backbone = dict(
    type="ImageBackbone",
    model="vit_base_patch32_224",
    pretrained="augreg_in1k",
    resize=256,
    crop=224,
    pretraining="ImageNet-1k",
)
