"""ResNet-50 with torchvision's first ImageNet weights, the field's usual backbone before CLIP, through timm. No text encoder."""

backbone = dict(
    type="ImageBackbone",
    model="resnet50",
    pretrained="tv_in1k",
    resize=256,
    crop=224,
    pretraining="ImageNet-1k",
    train_batch_norm=False,  # batch norm stays in eval mode while training
)
