"""Small CLIP of the built-in data (ViT, 60 px, patch 12), trained on synthetic renderings. Weights ship with the package.

It knows the words of classes of all splits, from other renderings than the shipped clips, as real CLIP knows those of benchmarks.
"""

backbone = dict(
    type="CLIPBackbone",
    model="synthact_clip",
    pretrained="builtin",
    quick_gelu=False,
    resize=60,
    crop=60,
    pretraining="SynthAct renderings and words, test classes too (synthetic)",
)
