"""MA-CLIP understood: `python -m tools.study run` measures what is missing, `… page` writes docs/ma_clip.md from it."""
