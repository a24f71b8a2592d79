"""Small CLIP of the built-in data (ViT, 60 px, patch 12), trained on synthetic renderings. Weights ship with the package."""

backbone = dict(
    type="CLIPBackbone",
    model="synthact_clip",
    pretrained="builtin",
    quick_gelu=False,
    resize=60,
    crop=60,
    pretraining="SynthAct renderings (synthetic)",
)
