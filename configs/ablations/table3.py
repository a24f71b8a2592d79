"""MA-CLIP, table 3: multimodal adaptation (TMA) and text-guided prototypes (TPCM), on and off.

Command: fsar-bench run methods=ablations/table3
"""

rows = [
    # Neither: nothing is trained. The paper's 28.8 is close to frozen CLIP with OTAM, so no text is mixed into the prediction.
    "ma_clip method.multimodal=false method.temporal=false method.joint=false method.prototype=none method.predict_alpha=0",
    "ma_clip method.multimodal=false method.temporal=false method.joint=false",
    "ma_clip method.prototype=none",
    "ma_clip",
]
published = {  # ViT-B/32, 5-way 1-shot
    "SSv2-Small": [28.8, 42.3, 45.7, 56.5],
    "SSv2-Full": [30.2, 46.5, 49.8, 61.9],
}
