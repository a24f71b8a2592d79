"""MA-CLIP, table 6: prototypes from a transformer over frames, over frames and text, or guided by text (TPCM).

Command: fsar-bench run methods=ablations/table6
"""

rows = [
    "ma_clip method.prototype=transformer",
    "ma_clip method.prototype=multimodal_transformer",
    "ma_clip",
]
published = {"SSv2-Small": [47.9, 54.7, 56.5]}  # ViT-B/32, 5-way 1-shot
