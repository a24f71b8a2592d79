"""A CLIP of random weights at 32 px, for trying and testing (what `fsar-bench check` uses): knows nothing."""

backbone = dict(
    type="CLIPBackbone",
    model="tiny_clip",
    pretrained=None,
    quick_gelu=False,
    resize=32,
    crop=32,
    pretraining="none (random weights)",
)
