"""MA-CLIP with the start of its text layers as a key, for the study alone: in the built-in config it would change all hashes."""

_base_ = "../../configs/methods/ma_clip.py"
method = dict(text_start="random")
