"""A ResNet of half a million random weights at 64 px, for trying and testing: needs no weights file and knows nothing."""

backbone = dict(
    type="ImageBackbone",
    model="test_resnet",
    pretrained=None,
    resize=64,
    crop=64,
    pretraining="none (random weights)",
    train_batch_norm=False,
)
