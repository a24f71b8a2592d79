"""MA-CLIP, table 3: multimodal adaptation (TMA) and text-guided prototypes (TPCM), on and off.

Command: fsar-bench run methods=ablations/table3
Paper, ViT-B/32, 5-way 1-shot, SSv2-Small / SSv2-Full: 28.8 / 30.2, 42.3 / 46.5, 45.7 / 49.8, 56.5 / 61.9.
"""

rows = [
    # Neither: nothing is trained. The paper's 28.8 is close to frozen CLIP with OTAM, so no text is mixed into the prediction.
    "ma_clip method.multimodal=false method.temporal=false method.joint=false method.prototype=none method.predict_alpha=0",
    "ma_clip method.multimodal=false method.temporal=false method.joint=false",
    "ma_clip method.prototype=none",
    "ma_clip",
]
