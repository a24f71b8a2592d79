"""A ResNet with half a million random weights at 64 px, for trials and tests: no weights file, features without meaning."""

backbone = dict(
    type="ImageBackbone",
    model="test_resnet",
    pretrained=None,
    resize=64,
    crop=64,
    pretraining="none (random weights)",
    train_batch_norm=False,
)
