"""The small CLIP of the built-in data, trained on renderings and words of train classes alone. Weights ship with the package."""

_base_ = "./synthact_clip.py"
backbone = dict(
    model="synthact_clip_strict", pretraining="SynthAct renderings and words, train classes only (synthetic)"
)
