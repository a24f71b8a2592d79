"""A CLIP with random weights at 32 px, for trials and tests; `fsar-bench check` uses it. Its features carry no meaning."""

backbone = dict(
    type="CLIPBackbone",
    model="tiny_clip",
    pretrained=None,
    quick_gelu=False,
    resize=32,
    crop=32,
    pretraining="none (random weights)",
)
